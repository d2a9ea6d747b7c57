"""The rows that a plan reads: those of its steps, checked, and those on which every model is scored."""

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from olivine import data
from olivine.config.schema import DataConfig
from olivine.errors import DataError, Problem, RequestError
from olivine.jinja import syntax_fault
from olivine.models.facts import ModelFacts
from olivine.models.inspect import PREPROCESSOR, TOKENIZERS
from olivine.models.interface import text_signature
from olivine.models.seq2seq import DECODER_IDS
from olivine.models.signature import is_derived
from olivine.passes import UNCHANGED, Pass, passes
from olivine.paths import is_file
from olivine.workflow.draft import Draft
from olivine.workflow.room import scoring_bytes
from olivine.workflow.scripts import check_data_script
from olivine.workflow.steps import ScoreRows, Step
from olivine.workflow.verdict import drop_allowed

if TYPE_CHECKING:
    from olivine.evaluate import Evidence, OutputEvidence

# plain text to compare models on where a config names no rows
PASSAGES = {
    "name": "passages",
    "load_dataset_config": {
        "data_name": "text",
        "data_files": str(Path(__file__).parent.parent / "evaluate" / "passages.txt"),
    },
    "pre_process_data_config": {"text_cols": "text", "strategy": "line-by-line"},
}
HEARS = "automatic-speech-recognition"
WRITTEN = ("target", "summary", "translation", "label")  # of a text that is written of another one
LABELS, TRANSCRIPTS = ("label", "labels"), ("text", "sentence", "transcription", "transcript")
N_MADE_UP = 16  # rows of the inputs of a graph, where a config names none
N_TRAINED_ON = 64  # training rows that are scored when there are no others


def data_of(draft: Draft, name: str, step: Pass) -> dict[str, DataConfig]:
    """The data configs that a step names, each checked."""
    used: dict[str, DataConfig] = {}
    for wanted in step.data_names():
        config = draft.workflow.data(wanted)
        if config is None:
            params = draft.workflow.passes[name].params
            key = next(((key,) for key, value in params.items() if value == wanted), ())
            no_such_data(draft, wanted, ("passes", name, *key))
            continue
        if step.reads_inputs:
            used[wanted] = config
            _check_files(draft, config)
            continue
        used[wanted] = data.for_model(config, draft.template)
        if step.trains_on() is not None:
            used[wanted] = _within_context(draft, used[wanted])
            _tell_data(draft, config)
        _check_data(draft, used[wanted])
    return used


def _within_context(draft: Draft, config: DataConfig) -> DataConfig:
    """The config with no more tokens in a sample than the model reads."""
    context = draft.facts.decoder.context_length if draft.facts and draft.facts.decoder else 0
    if not context:
        return config
    within, told = data.within_context(config.pre_process_data_config, context)
    for key, sentence in told.items():
        place = draft.where("data_configs", index_of(draft, config), "pre_process_data_config", key)
        draft.translated.append(f"{place}: warning: {sentence}")
    if not told and within != config.pre_process_data_config:
        draft.translated.append(
            f"rows of '{config.name}' that are longer than the {context} tokens that the model reads are cut there"
        )
    return config.model_copy(update={"pre_process_data_config": within})


def index_of(draft: Draft, config: DataConfig) -> int:
    """Where a data config stands in the list of the config."""
    return next(i for i, other in enumerate(draft.workflow.data_configs) if other.name == config.name)


def no_begin_token(draft: Draft) -> None:
    """onnxruntime-genai puts no begin token before a text: where it runs the result, no step sees one either."""
    steps = [
        replace(step, data={name: _as_run(draft, config) for name, config in step.data.items()}) for step in draft.steps
    ]
    draft.chain = replace(draft.chain, steps=tuple(steps))


def _as_run(draft: Draft, config: DataConfig) -> DataConfig:
    """The data config with the begin token as whatever runs the last model will have it."""
    settings = config.pre_process_data_config
    if settings.begin_token is not None or not any(step.produces == "onnx" for step in draft.steps):
        return config
    return config.model_copy(update={"pre_process_data_config": settings.model_copy(update={"begin_token": False})})


def check_held_out(draft: Draft, name: str, step: Pass, used: Mapping[str, DataConfig]) -> None:
    """That the rows can be split as the step wants them, where they are few and here."""
    rows = step.trains_on()
    config = used.get(rows.data) if rows is not None else None
    if rows is None or config is None or rows.eval_size is None or rows.eval_data is not None:
        return
    for problem in data.check_split(config, rows.eval_size):
        draft.problems.append(replace(problem, where=draft.where("passes", name, "eval_dataset_size")))


def tell_seen(draft: Draft, score: ScoreRows | None) -> None:
    """Say which held-out rows, evaluated or scored, are also trained on."""
    for step in draft.steps:
        if (rows := step.trains_on) is None or (train := step.data.get(rows.data)) is None:
            continue
        held_out = [config for name in (rows.eval_data,) if name and (config := step.data.get(name)) is not None]
        told = [data.seen(train, config) for config in held_out]
        if rows.eval_data is None and rows.eval_size is not None:
            told.append(data.seen(train, None, rows.eval_size, rows.seed))
        if score is not None and score.data is not None and score.part == "all" and score.data.name not in step.data:
            told.append(data.seen(train, score.data))
        draft.translated += [f"warning: {sentence}" for sentence in told if sentence]


def _tell_data(draft: Draft, config: DataConfig) -> None:
    """Say what the rows look like and which part of them is trained on."""
    try:
        draft.translated.append(data.describe(config, draft.template))
        draft.translated += [f"warning: {doubt}" for doubt in data.doubts(config, draft.template or "")]
    except DataError:  # the data config itself does not hold: data.check has said so
        return


def no_such_data(draft: Draft, name: str, path: tuple[str | int, ...]) -> None:
    """Tell that no data config has a name, which stands at the path."""
    known = [other.name for other in draft.workflow.data_configs]
    close = difflib.get_close_matches(name, known, n=1)
    hint = f"Did you mean '{close[0]}'?" if close else f"There are: {', '.join(known) or 'none'}."
    draft.problem("missing-data", path, f"no data config is named '{name}'.", hint)


def _check_data(draft: Draft, config: DataConfig) -> None:
    index = index_of(draft, config)
    if data.is_scripted(config) or data.is_made_up(config) or data.is_raw(config):
        message = f"the rows of '{config.name}' are inputs of a graph, and text is wanted of them."
        fix = "Write the text into a JSON, CSV or Parquet file, and name that as data_files."
        draft.problem("unsupported", ("data_configs", index), message, fix)
        return
    if data.may_move(config):
        draft.translated.append(
            f"the rows of '{config.name}' may be others than at the last run: a run looks at them first, and takes "
            "from the cache what was made of the same ones; a commit of the hub as 'revision' keeps them"
        )
    if config.pre_process_data_config.chat_template is True and draft.template is not None:
        _check_template(draft, config, draft.template)
    looked = data.look(config)
    if looked.left_out is not None:
        draft.translated.append(looked.left_out)
    for problem in looked.problems:
        is_row = problem.kind == "missing-data" and not problem.where.startswith("data config")
        key = _data_key(config, problem)
        draft.problems.append(
            problem if is_row else replace(problem, where=draft.where("data_configs", index, *key), key=())
        )


def _check_template(draft: Draft, config: DataConfig, template: str) -> None:
    """A model's chat template that rows are to go through."""
    if not template:
        _tell_no_template(draft, config)
        return
    if (fault := syntax_fault(template)) is None:
        return
    fix = "Mend it in the model's folder, or write a Jinja template as chat_template."
    message = f"the model's chat template cannot be read: {fault}."
    if not any(problem.message == message for problem in draft.problems):  # one template for all data
        draft.problem("missing-model", ("input_model", "model_path"), message, fix)


def _tell_no_template(draft: Draft, config: DataConfig) -> None:
    """Chats for a model that has no template to write them by; code of the model's own may bring one."""
    if draft.workflow.input_model.load_kwargs.trust_remote_code:
        return
    index, key = index_of(draft, config), ("pre_process_data_config", "chat_template")
    is_written = draft.workflow.data_configs[index].pre_process_data_config.chat_template is True
    settings = config.pre_process_data_config
    what, instead = f"are chats ('{settings.message_col}')", "or a text_template of columns that hold text"
    if settings.prompt_col is not None:
        what, instead = "are to be written as chats", "or leave it out"
    message = f"the rows of '{config.name}' {what}, and the model has no chat template to write them by."
    fix = f"Write a Jinja template as chat_template, {instead}."
    draft.problem("invalid-value", ("data_configs", index, *(key if is_written else ())), message, fix)


def _data_key(config: DataConfig, problem: Problem) -> tuple[str | int, ...]:
    """The key of a data config that a problem is about: that of the files, or the first set one that it names."""
    if problem.key:
        return problem.key
    if problem.kind == "missing-file":
        return ("load_dataset_config", "data_files")
    places = [
        (section, key)
        for section in ("load_dataset_config", "pre_process_data_config")
        for key in getattr(config, section).model_fields_set
        if f"'{key}" in problem.message
    ]
    return min(places, key=lambda place: problem.message.index(f"'{place[1]}"), default=())


def plan_score(draft: Draft) -> ScoreRows | None:
    """Which rows every seam is scored on, and what should be predicted."""
    quality = draft.workflow.quality
    try:
        drop_allowed(quality.max_drop)
    except RequestError as error:
        draft.problem("invalid-value", ("quality", "max_drop"), str(error))
    if not quality.enabled:
        if quality.max_drop is not None:
            message = "max_drop is set, but enabled: false scores nothing."
            draft.problem("invalid-value", ("quality", "max_drop"), message, "Remove one of the two.")
        return None
    return _output_rows(draft) if _gives_outputs(draft) else _asked_rows(draft)


def _gives_outputs(draft: Draft) -> bool:
    """Whether models are measured by their outputs: no decoder, or one of which a plain graph is made untrained."""
    facts, last = draft.facts, draft.chain.facts
    if facts is None:
        return draft.model is not None and draft.model.is_graph
    is_graph = last is not None and (last.kind == "graph" or (bool(last.parts) and last.decoder is None))
    return facts.kind != "decoder" or (is_graph and not any(step.trains for step in draft.steps))


def _asked_rows(draft: Draft) -> ScoreRows | None:
    """The rows that models which write text are asked."""
    quality = draft.workflow.quality
    rows = _score_rows(draft)
    if rows is None:
        if quality.max_drop is not None and not (draft.problems and _names_rows(draft)):
            fix = "Name the rows in quality.data_config."
            draft.problem(
                "missing-data", ("quality", "max_drop"), "max_drop is set, but there are no rows to score.", fix
            )
        return _text_rows(draft) if quality.max_drop is None else None
    config, part, size, seed, n_most = rows
    config = _as_run(draft, config)
    try:
        data.describe(config, draft.template)
        own = data.target_column(config)
        target = quality.target or own
    except DataError:  # the data config itself does not hold: data.check has said so
        return None
    known = data.columns(config)
    if quality.target and quality.target != own and data.resolved(config).pre_process_data_config.chat_template:
        message = f"of a chat, the last turn of the assistant is scored ('{own}'), not '{quality.target}'."
        draft.problem("invalid-value", ("quality", "target"), message, "Remove quality.target.")
        return None
    if known and target not in known:
        close = difflib.get_close_matches(target, known, n=1)
        hint = f"Did you mean '{close[0]}'?" if close else f"The text is made of: {', '.join(known)}."
        draft.problem("invalid-value", ("quality", "target"), f"the text has no column '{target}' to predict.", hint)
        return None
    told = {
        "eval": f"scored on the held-out rows of '{config.name}'",
        "all": f"scored on the rows of '{config.name}'",
        "train": f"scored on up to {n_most} rows of '{config.name}' that were trained on: there are no others",
    }
    wanted = f"the column '{target}'" if target else "what the text of a row ends with"
    if data.resolved(config).pre_process_data_config.chat_template:
        wanted = "the last turn of the assistant"
    draft.translated.append(f"every model is {told[part]}; it should predict {wanted}")
    return ScoreRows(config, part, size, seed, target, n_most, metrics=_metrics(draft))  # type: ignore[arg-type]


def _output_rows(draft: Draft) -> ScoreRows:
    """On which rows models are compared by their outputs: those of quality.data_config, or some that are made up."""
    from olivine.evaluate import OutputEvidence

    quality, metrics = draft.workflow.quality, _metrics(draft, OutputEvidence)
    config = draft.workflow.data(quality.data_config) if quality.data_config is not None else None
    if quality.data_config is not None and config is None:
        no_such_data(draft, quality.data_config, ("quality", "data_config"))
    target = _checked_target(draft, config) if config is not None else ""
    for key in ("max_drop", "target"):
        if getattr(quality, key) is not None and not target:
            fix = "Name rows that have a label in quality.data_config, and its column in quality.target."
            draft.problem("missing-data", ("quality", key), f"{key} is set, but there are no labels to hold to.", fix)
    if config is None:
        n_rows = min(N_MADE_UP, quality.max_samples)
        draft.translated.append(
            "the config names no rows to score (quality.data_config): the outputs of every model are compared with "
            f"those before it on {n_rows} made-up rows"
        )
        return ScoreRows(None, "all", None, 0, "", n_rows, on_outputs=True, sizes=_fixed_sizes(draft), metrics=metrics)
    aim = f", and {_aim(draft)} '{target}'" if target else ""
    draft.translated.append(f"every model is scored on the rows of '{config.name}'{aim}")
    n_most = quality.max_samples
    return ScoreRows(config, "all", None, 0, target, n_most, on_outputs=True, metrics=metrics)


def _fixed_sizes(draft: Draft) -> dict[str, int]:
    """Sizes that are open in the input model and fixed in the last one, by their names."""
    last = draft.chain.facts.signature if draft.chain.facts is not None else None
    first = draft.facts.signature if draft.facts is not None else None
    if draft.facts is not None and draft.facts.decoder is not None:
        first = text_signature(draft.facts.decoder.vocab_size)
    if first is None or last is None:
        return {}
    shapes = {spec.name: spec.shape or () for spec in last.inputs}
    pairs = [pair for spec in first.inputs for pair in zip(spec.shape or (), shapes.get(spec.name, ()), strict=False)]
    return {size: fixed for size, fixed in pairs if isinstance(size, str) and isinstance(fixed, int)}


def _checked_target(draft: Draft, config: DataConfig) -> str:
    """The column of the label, empty where there is none; what the first rows lack of a graph's inputs is told."""
    index, target = index_of(draft, config), draft.workflow.quality.target or config.pre_process_data_config.label_col
    missing = _check_files(draft, config)
    has_labels = data.is_raw(config) and config.load_dataset_config.annotations_file is not None
    if data.is_scripted(config) or has_labels:
        return target or "label"
    try:
        columns = list(dict.fromkeys(column for row in data.sample_of(config) or [] for column in row))
    except DataError as error:
        draft.problem("missing-data", ("data_configs", index), f"{error}.")
        columns = []
    if missing or not columns:  # or rows that only a worker reads
        return target or ""
    _check_inputs(draft, config, columns)
    if target is not None and target not in columns:
        close = difflib.get_close_matches(target, columns, n=1)
        hint = f"Did you mean '{close[0]}'?" if close else f"There are: {', '.join(columns[:8])}."
        draft.problem("invalid-value", ("quality", "target"), f"the rows have no column '{target}'.", hint)
    return target or usual_label(columns, draft.facts)


def usual_label(columns: Sequence[str], facts: ModelFacts | None) -> str:
    """The column that holds the label by its name, or what the model should write of a row; empty without one."""
    usual = TRANSCRIPTS if _hears(facts) else WRITTEN if _writes(facts) else LABELS
    return next((name for name in usual if name in columns), "")


def hears(draft: Draft) -> bool:
    """Whether the model writes what is said in a sound."""
    return _hears(draft.facts)


def writes(draft: Draft) -> bool:
    """Whether the model writes a text of a text, as T5 does."""
    return _writes(draft.facts)


def _hears(facts: ModelFacts | None) -> bool:
    return facts is not None and facts.task == HEARS


def _writes(facts: ModelFacts | None) -> bool:
    names = (
        {spec.name for spec in facts.signature.inputs} if facts is not None and facts.signature is not None else set()
    )
    return {"input_ids", DECODER_IDS} <= names and not _hears(facts)


def _aim(draft: Draft) -> str:
    return (
        "what it writes should be that of" if hears(draft) or writes(draft) else "its largest score should be that of"
    )


def _check_files(draft: Draft, config: DataConfig) -> bool:
    """Tell of files that are not there, and of what a script lacks; True where something is missing."""
    if data.is_scripted(config):
        return not check_data_script(draft, config, ("data_configs", index_of(draft, config)))
    missing = [problem for problem in data.check(config) if problem.kind in ("missing-file", "network")]
    for problem in missing:
        place = draft.where("data_configs", index_of(draft, config), *_data_key(config, problem))
        draft.problems.append(replace(problem, where=place, key=()))
    return bool(missing)


def _check_inputs(draft: Draft, config: DataConfig, columns: Sequence[str]) -> None:
    """That rows with these columns give every input of a model: by name, or as text where a tokenizer is."""
    model = draft.model
    signature = draft.facts.signature if draft.facts is not None else None
    if signature is None or model is None:
        return
    readers = (*TOKENIZERS, PREPROCESSOR)
    if data.text_columns(config, columns) and any(is_file(model.path / name) for name in readers):
        return
    if any(name in columns for name in ("audio", "image")) and is_file(model.path / PREPROCESSOR):
        return
    lacking = [spec.name for spec in signature.inputs if spec.name not in columns and not is_derived(spec.name)]
    if not lacking:
        return
    message = f"the rows have no column '{lacking[0]}', which the model takes; they have {', '.join(columns[:8])}."
    fix = "Name the columns as the inputs are, or put the tokenizer or preprocessor_config.json beside the graph."
    others = [name for name in columns if name not in (draft.workflow.quality.target, *LABELS)]
    if others and any(is_file(model.path / name) for name in readers):
        name = f"'{others[0]}'" if " " in others[0] else others[0]
        fix = f"Say which of them the model reads, such as text_cols: {name}, or name the columns as the inputs are."
    draft.problem("missing-data", ("data_configs", index_of(draft, config)), message, fix)


def _metrics(draft: Draft, kind: "type[Evidence | OutputEvidence] | None" = None) -> Mapping[str, Mapping[str, Any]]:
    """The params of metrics that the config writes, each checked."""
    given = draft.workflow.quality.metrics
    if given:
        from olivine.evaluate import Evidence, check_metrics

        for problem in check_metrics(given, kind or Evidence):
            draft.problem(problem.kind, ("quality", "metrics", *problem.key), problem.message, problem.fix)
    return given


def _names_rows(draft: Draft) -> bool:
    """Whether the config names rows to score: when they are not found, that is told already."""
    plugins = [passes.find(one.type) for one in draft.workflow.passes.values()]
    trains = any(plugin is not None and plugin.trains_on is not Pass.trains_on for plugin in plugins)
    return trains or draft.workflow.quality.data_config is not None


def _score_rows(draft: Draft) -> tuple[DataConfig, str, float | None, int, int] | None:
    quality = draft.workflow.quality
    if quality.data_config is not None:
        config = draft.workflow.data(quality.data_config)
        if config is None:
            no_such_data(draft, quality.data_config, ("quality", "data_config"))
            return None
        config = data.for_model(config, draft.template)
        _check_data(draft, config)
        return config, "all", None, 0, quality.max_samples
    step = next((step for step in draft.steps if step.trains), None)
    return _held_out_rows(step, quality.max_samples) if step else None


def _held_out_rows(step: Step, n_most: int) -> tuple[DataConfig, str, float | None, int, int] | None:
    """The rows that a training step evaluates on, or some that it trains on when there are no others."""
    rows = step.trains_on
    config = step.data.get(rows.eval_data or rows.data) if rows is not None else None
    if rows is None or config is None:
        return None
    if rows.eval_data is not None:
        return config, "all", None, 0, n_most
    if rows.eval_size is not None:
        return config, "eval", rows.eval_size, rows.seed, n_most
    return config, "train", None, rows.seed, min(N_TRAINED_ON, n_most)


def _text_rows(draft: Draft) -> ScoreRows | None:
    """Passages that come with olivine, where the config names no rows: models are compared on them, not graded."""
    if draft.problems and _names_rows(draft):  # a training step that cannot be planned has rows of its own
        return None
    is_made = any(step.produces != UNCHANGED and not step.implicit for step in draft.steps)
    if not is_made and (draft.workflow.passes or draft.workflow.evaluator is None):
        return None
    rows = ScoreRows(DataConfig.model_validate(PASSAGES), "all", None, 0, "", 16, on_text=True, metrics=_metrics(draft))
    if scoring_bytes(draft, rows) > draft.machine.memory_bytes:
        draft.translated.append(
            "nothing is measured: the config names no rows to score, and a text would need the whole model in memory"
        )
        return None
    draft.translated.append(
        "the config names no rows to score (quality.data_config): models are compared on a text that comes with olivine"
    )
    return rows
