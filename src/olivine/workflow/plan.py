"""What a config would do, and everything that keeps it from being done; touches nothing, imports nothing heavy."""

import difflib
import errno
import os
import sys
import tempfile
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from olivine import data, lazy
from olivine.config import Loaded, explain_params
from olivine.config.schema import DataConfig, PassConfig, Workflow
from olivine.config.unserved import without_effect
from olivine.errors import ConfigError, DataError, ModelError, Problem, RequestError, Unsupported
from olivine.models import Model
from olivine.models.chat_template import read_chat_template, syntax_fault
from olivine.models.facts import ModelFacts
from olivine.models.inspect import check_checkpoint, read_facts
from olivine.passes import UNCHANGED, Pass, passes
from olivine.paths import could_be, exists, hub_cache, is_folder, of_user
from olivine.systems import Probe, SystemParams
from olivine.systems.local import Local
from olivine.work import Estimate, Machine
from olivine.workflow import _systems
from olivine.workflow._known_passes import OLIVE_PASSES
from olivine.workflow._machine import choose, free_disk_bytes
from olivine.workflow.folders import overlaps, used_by
from olivine.workflow.keys import cached
from olivine.workflow.names import name_problem
from olivine.workflow.steps import Plan, ScoreRows, Step
from olivine.workflow.verdict import drop_allowed

# plain text to compare models on where a config names no rows
PASSAGES = {
    "name": "passages",
    "load_dataset_config": {
        "data_name": "text",
        "data_files": str(Path(__file__).parent.parent / "evaluate" / "passages.txt"),
    },
    "pre_process_data_config": {"text_cols": "text", "strategy": "line-by-line"},
}
N_TRAINED_ON = 64  # training rows that are scored when there are no others
N_SHOWN = 200  # characters of a name in a message
N_NAME = 255  # bytes that file systems take in a name
# For a model that is not here: of a kind that every pass takes, its layers and sizes not known. A wrong param is then
# told before the model is fetched, and beside the problem that it is missing.
STAND_IN = ModelFacts("LlamaForCausalLM", n_parameters=0, hidden_size=0, n_layers=0, vocab_size=0)
EXCLUDE_EACH_OTHER = (
    ("onnxruntime", "onnxruntime-gpu", "onnxruntime-directml"),
    ("onnxruntime-genai", "onnxruntime-genai-cuda", "onnxruntime-genai-directml"),
)


@dataclass
class _Draft:
    """A plan in the making."""

    loaded: Loaded
    workflow: Workflow
    machine: Machine
    scratch: Path
    problems: list[Problem] = field(default_factory=list)
    translated: list[str] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)
    passes: list[Pass] = field(default_factory=list)  # of the steps
    facts: ModelFacts | None = None
    model: Model | None = None
    hub_name: str | None = None
    download_bytes: int = 0
    template: str | None = None  # the text of the model's chat template, empty where it has none, None where unknown
    unusable: set[str] = field(default_factory=set)

    def where(self, *path: str | int) -> str:
        return self.loaded.document.where(path)

    def add(self, plugin: Pass, step: Step) -> None:
        self.passes.append(plugin)
        self.steps.append(step)

    def problem(self, kind: Any, path: tuple[str | int, ...], message: str, fix: str = "") -> None:
        self.problems.append(Problem(kind, self.where(*path), message, fix))


def make_plan(
    loaded: Loaded, *, offline: bool = False, fetched: Path | None = None, probe: Probe | None = None
) -> Plan:
    """The plan of a config that was read; its `problems` say all that keeps it from running.

    fetched: the folder of the input model, where it has come from the hub since. probe: what the system has that will
    run it; without one, this machine is asked. Raises ConfigError only when so much of the config is wrong that nothing
    can be planned.
    """
    with tempfile.TemporaryDirectory(prefix="olivine-plan-", ignore_cleanup_errors=True) as scratch:
        return _make_plan(loaded, Path(scratch), fetched, probe or Local(SystemParams()).probe(), offline=offline)


def _make_plan(loaded: Loaded, scratch: Path, fetched: Path | None, probe: Probe, *, offline: bool) -> Plan:
    workflow = loaded.workflow
    if workflow is None:
        raise ConfigError(loaded.problems)
    offline = offline or os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "TRUE", "YES", "ON")
    cache_dir, output_dir = of_user(workflow.cache_dir).absolute(), of_user(workflow.output_dir).absolute()
    choice = choose(workflow, cache_dir, loaded.document.where(("systems",)), probe, offline=offline)
    draft = _Draft(loaded, workflow, choice.machine, scratch)
    draft.problems += [*loaded.problems, *choice.problems, *_packages(probe)]
    draft.translated += [str(note) for note in loaded.notes] + list(choice.notes)
    _plan_model(draft, fetched)
    _plan_systems(draft)
    for folder, key in ((cache_dir, "cache_dir"), (output_dir, "output_dir")):
        _check_folder(draft, folder, key)
    _plan_steps(draft)
    _no_begin_token(draft)
    score = _plan_score(draft)
    _plan_unused(draft)
    for key, message, fix in overlaps(cache_dir, output_dir, used_by(draft.model, draft.steps, score)):
        draft.problem("invalid-value", (key,), message, fix)
    estimate = _total(draft, score)
    _check_room(draft, estimate)
    plan = Plan(
        steps=tuple(draft.steps),
        problems=tuple(sorted(dict.fromkeys(draft.problems), key=_place)),
        translated=tuple(dict.fromkeys(draft.translated)),
        estimate=estimate,
        input_model=draft.model,
        hub_name=draft.hub_name,
        hub_revision=workflow.input_model.load_kwargs.revision,
        score=score,
        quality=workflow.quality,
        cache_dir=cache_dir,
        output_dir=output_dir,
        machine=draft.machine,
        workflow=workflow.model_dump(mode="json", exclude_defaults=True),
        n_parameters=draft.facts.n_parameters if draft.facts else 0,
        model_config=draft.facts.config if draft.facts else {},
        source=loaded,
    )
    return plan if plan.problems else replace(plan, cached=cached(plan))


def _place(problem: Problem) -> tuple[str, int, str]:
    """Problems in the order of the file."""
    name, _, line = problem.where.rpartition(":")
    return (name, int(line), problem.message) if line.isdigit() else (problem.where, 0, problem.message)


def _plan_model(draft: _Draft, fetched: Path | None) -> None:
    """The input model: a local folder or file, one in the hub's cache, one that has just come, or one to fetch."""
    given = draft.workflow.input_model
    if not isinstance(given.model_path, str):
        return
    if fetched is not None:
        _plan_local_model(draft, fetched)
        return
    path = of_user(given.model_path)
    if not given.model_path.strip() or not exists(path):
        _plan_absent_model(draft, given.model_path)
        return
    _plan_local_model(draft, path.absolute())


def _plan_local_model(draft: _Draft, path: Path) -> None:
    given = draft.workflow.input_model
    if path.is_file() and path.suffix != ".gguf":
        draft.problem(
            "missing-model", ("input_model", "model_path"), f"'{path}' is neither a model folder nor a .gguf file."
        )
        return
    if given.load_kwargs.revision is not None and not _is_snapshot(path):
        message = f"the revision '{given.load_kwargs.revision}' is of the hub, and the model is a folder or file here."
        draft.problem("invalid-value", ("input_model", "load_kwargs", "revision"), message, "Remove it.")
    if not _look_at(draft, path, str(path)):
        return
    trusted = given.load_kwargs.trust_remote_code
    draft.model = Model("gguf" if path.is_file() else "hf", path, task=given.task, trust_remote_code=trusted)
    if given.adapter_path is not None:
        _plan_adapter(draft, of_user(given.adapter_path).absolute())


def _look_at(draft: _Draft, path: Path, name: str) -> bool:
    """Read the facts of a model and what is wrong with it; False when there are none."""
    key = ("input_model", "model_path")
    found = list(check_checkpoint(path))
    for problem in found:
        message = f"{name} {problem.message}" if problem.message.startswith("is ") else f"{name}: {problem.message}"
        draft.problems.append(replace(problem, where=draft.where(*key), message=message.replace(str(path), name)))
    draft.template = read_chat_template(Model("gguf" if path.is_file() else "hf", path))
    try:
        draft.facts = read_facts(path)
    except ModelError as error:
        if not found:
            draft.problem("missing-model", key, str(error).replace(str(path), name))
        return False
    return True


def _is_snapshot(path: Path) -> bool:
    """Whether the folder is one of the hub's cache."""
    return path.parent.name == "snapshots"


def _plan_adapter(draft: _Draft, path: Path) -> None:
    from olivine.models.adapter import check

    if draft.model and draft.model.format == "gguf":
        fix = "Name the Hugging Face folder of the base as model_path."
        draft.problem("unsupported", ("input_model", "adapter_path"), "an adapter of a GGUF file is not served.", fix)
        return
    try:
        check(Model("adapter", path, base=draft.model))
    except (ModelError, Unsupported) as error:
        draft.problem(error.kind, ("input_model", "adapter_path"), str(error))
        return
    draft.model = Model("adapter", path, base=draft.model, task=draft.workflow.input_model.task)
    draft.template = read_chat_template(draft.model)


def _plan_absent_model(draft: _Draft, name: str) -> None:
    key = ("input_model", "model_path")
    looks_local = name.count("/") != 1 or name.startswith((".", "/", "~")) or name.endswith(".gguf") or "\\" in name
    if not looks_local and (snapshot := _hub_snapshot(name, draft.workflow.input_model.load_kwargs.revision)):
        _plan_local_model(draft, snapshot)
    elif looks_local:
        draft.problem("missing-model", key, f"the model '{_short(name)}' does not exist{_nearest_path(Path(name))}")
    elif draft.machine.offline:
        fix = "Fetch it while online, or name a folder."
        draft.problem("network", key, f"the model '{name}' is not on this machine and the network is off.", fix)
    else:
        if draft.workflow.input_model.adapter_path is not None:
            fix = "Fetch the model and name its folder as model_path."
            path = ("input_model", "adapter_path")
            draft.problem("unsupported", path, f"an adapter of '{name}', which is still to be fetched.", fix)
        draft.hub_name = name
        draft.translated.append(f"the model '{name}' is fetched from the hub before the first step")
        _look_at_hub(draft, name)


def _look_at_hub(draft: _Draft, name: str) -> None:
    """Check a model that is still on the hub by its config and the headers of its weights."""
    from olivine.models import hub

    given, key = draft.workflow.input_model.load_kwargs, ("input_model", "model_path")
    try:
        draft.download_bytes = hub.sketch(name, given.revision, draft.scratch, trusted=given.trust_remote_code)
    except ModelError as error:
        draft.problem("missing-model", key, f"{error}.")
    except hub.Unreachable as error:
        fix = "Try again when it does, fetch the model elsewhere, or name a folder."
        draft.problem("network", key, f"'{name}' is to be fetched, but the hub gives no answer: {error}.", fix)
    else:
        _look_at(draft, draft.scratch, name)


def _nearest_path(path: Path) -> str:
    if not exists(path.parent):
        return f": there is no folder '{_short(str(path.parent))}'."
    if not path.parent.is_dir():
        return f": '{path.parent}' is not a folder."
    if not os.access(path.parent, os.R_OK | os.X_OK):
        return f": the folder '{path.parent}' cannot be read."
    close = difflib.get_close_matches(path.name, [other.name for other in path.parent.iterdir()], n=1)
    return f"; did you mean '{path.parent / close[0]}'?" if close else "."


def _short(name: str) -> str:
    return name if len(name) <= N_SHOWN else f"{name[:N_SHOWN]}..."


def _hub_snapshot(name: str, revision: str | None) -> Path | None:
    """The folder of a model that the hub's cache on this machine holds whole; half of one is fetched again."""
    root = hub_cache() / f"models--{name.replace('/', '--')}"
    reference = root / "refs" / (revision or "main")
    commit = reference.read_text(encoding="ascii").strip() if reference.is_file() else revision
    snapshot = root / "snapshots" / commit if commit else None
    return snapshot if snapshot and snapshot.is_dir() and not any(check_checkpoint(snapshot)) else None


def _plan_systems(draft: _Draft) -> None:
    for problem in _systems.check(draft.workflow):
        draft.problems.append(replace(problem, where=draft.where(*problem.key), key=()))


def _plan_unused(draft: _Draft) -> None:
    """Say what the config holds and nothing reads."""
    for path, advice in without_effect(draft.workflow):
        draft.translated.append(f"'{path[-1]}' has no effect: {advice[0].lower()}{advice[1:].rstrip('.')}")
    used = {name for step in draft.steps for name in step.data} | {draft.workflow.quality.data_config}
    named = {str(value) for config in draft.workflow.passes.values() for value in config.params.values()}
    for config in draft.workflow.data_configs:
        if config.name not in used | named:
            draft.translated.append(f"the data config '{config.name}' is used by nothing")
            for problem in data.check_names(config):
                draft.problem(problem.kind, ("data_configs", _index(draft, config), *problem.key), problem.message)


def _plan_steps(draft: _Draft) -> None:
    """Every pass in the order of the config, each checked against the model that reaches it."""
    facts = draft.facts
    form: str | None = draft.model.format if draft.model else "hf"
    if form == "gguf" and not _first_takes(draft, form):
        gguf = passes.classes["gguf"]
        name = "gguf"
        while name in draft.workflow.passes:  # a pass of the user may have that name
            name = f"load-{name}"
        draft.add(gguf(gguf.Params()), _step(draft, name, gguf(gguf.Params()), {}, None, implicit=True))
        form = "hf"
    if not draft.workflow.passes:
        draft.problem("invalid-value", ("passes",), "there is no pass to run.", "Name at least one under 'passes'.")
    for name, config in draft.workflow.passes.items():
        if (reserved := name_problem(name)) is not None:
            draft.problem("invalid-value", ("passes", name), reserved, "Choose another name.")
        plugin = _plugin(draft, name, config)
        if plugin is None:
            form = None  # what an unknown pass would give is not known: one mistake, one message
            continue
        if form is not None and form not in plugin.accepts:
            _explain_chain(draft, name, plugin, form)
        form = form if plugin.produces == UNCHANGED else plugin.produces
        step = _with_params(draft, name, config, plugin)
        if step is None:
            continue
        used = _data_of(draft, name, step)
        parent = next((made.name for made in reversed(draft.steps) if made.produces != UNCHANGED), None)
        _check_model_names(draft, name, step)
        found = step.check(facts or STAND_IN, draft.machine, used)
        draft.problems += [_placed(draft, name, plugin, problem) for problem in found]
        notes = step.notes(facts or STAND_IN, draft.machine, used)
        draft.translated += [f"step {name}: {note}" for note in notes]
        _check_held_out(draft, name, step, used)
        draft.add(step, _step(draft, name, step, used, parent, facts))
        facts = step.forecast(facts) if facts else None


def _first_takes(draft: _Draft, form: str) -> bool:
    """Whether the config itself begins with a pass that takes a model of that format."""
    first = next(iter(draft.workflow.passes.values()), None)
    plugin = passes.find(first.type) if first else None
    return plugin is not None and form in plugin.accepts


def _plugin(draft: _Draft, name: str, config: PassConfig) -> type[Pass] | None:
    plugin = passes.find(config.type)
    path = ("passes", name, "type")
    if plugin is None and (why := passes.why_missing(config.type)) is not None:
        fix = "Install a version of its package that fits."
        draft.problem("missing-extra", path, f"the pass {why}.", fix)
    elif plugin is None and config.type.lower() in OLIVE_PASSES:
        have = ", ".join(passes.classes)
        draft.problem("unsupported", path, f"the pass '{config.type}' is not built in olivine.", f"There are: {have}.")
    elif plugin is None:
        nearest = passes.nearest(config.type)
        hint = f"Did you mean '{nearest}'?" if nearest else f"There are: {', '.join(passes.classes)}."
        draft.problem("unknown-pass", path, f"there is no pass '{config.type}'.", hint)
    else:
        for module, extra in plugin.modules.items():
            if not lazy.installed(module):
                draft.problem("missing-extra", path, f"{lazy.missing_sentence(module, extra)}.")
    return plugin


def _with_params(draft: _Draft, name: str, config: PassConfig, plugin: type[Pass]) -> Pass | None:
    known_data = {other.name for other in draft.workflow.data_configs}
    inherited = {
        key: value
        for key, value in plugin.inherited(draft.passes).items()
        if not key.endswith("data_config") or value in known_data  # the step that named it has been told
    }
    given = dict(config.params)
    known = {*plugin.Params.model_fields, *plugin.spellings}
    for key in [key for key in given if key not in known]:
        if (meant := plugin.Params.belongs_in(key)) is not None:
            del given[key]
            message = f"unknown key '{key}' in 'passes.{name}'; did you mean '{meant}'?"
            draft.problem("unknown-key", ("passes", name, key), message)
    try:
        return plugin(plugin.Params.model_validate({**inherited, **given}))
    except ValidationError as error:
        offered = [*plugin.Params.model_fields, "type", "host"]
        draft.problems += explain_params(draft.loaded.document, ("passes", name), error, offered)
        return _without_unknown(plugin, {**inherited, **given}, error)


def _without_unknown(plugin: type[Pass], params: Mapping[str, Any], error: ValidationError) -> Pass | None:
    """The pass without its misspelt keys, to look for more that is wrong; None where wrong values would mislead."""
    faults = error.errors(include_url=False, include_context=False, include_input=False)
    unknown = {fault["loc"][0] for fault in faults if fault["type"] == "extra_forbidden" and len(fault["loc"]) == 1}
    if len(unknown) < len(faults):
        return None
    return plugin(plugin.Params.model_validate({key: value for key, value in params.items() if key not in unknown}))


def _explain_chain(draft: _Draft, name: str, plugin: type[Pass], form: str) -> None:
    maker = next((step for step in reversed(draft.steps) if step.produces == form and not step.implicit), None)
    if maker is not None and form in plugin.not_accepted:
        message, fix = plugin.not_accepted[form]
        draft.problem("invalid-value", ("passes", name), message.format(name=maker.name), fix)
        return
    wanted = " or ".join(sorted(plugin.accepts))
    between = " and ".join(f"'{bridge}'" for bridge in _bridge(form, plugin.accepts))
    fix = f"Put {between} before it." if between else "Change the order of the passes."
    draft.problem(
        "invalid-value", ("passes", name), f"pass '{name}' takes {wanted}, but what reaches it is {form}.", fix
    )


def _bridge(form: str, wanted: Collection[str]) -> list[str]:
    """The usual passes that lead from one format to one of others, the fewest that do; empty when none do."""
    ways: dict[str, list[str]] = {form: []}
    waiting = [form]
    while waiting:
        reached = waiting.pop(0)
        if reached in wanted:
            return ways[reached]
        for one in passes.classes.values():
            if one.is_usual_way and reached in one.accepts and one.produces not in ways:
                ways[one.produces] = [*ways[reached], one.name]
                waiting.append(one.produces)
    return []


def _data_of(draft: _Draft, name: str, step: Pass) -> dict[str, DataConfig]:
    """The data configs that a step names, each checked."""
    used: dict[str, DataConfig] = {}
    for wanted in step.data_names():
        config = draft.workflow.data(wanted)
        if config is None:
            params = draft.workflow.passes[name].params
            key = next(((key,) for key, value in params.items() if value == wanted), ())
            _no_such_data(draft, wanted, ("passes", name, *key))
            continue
        used[wanted] = data.for_model(config, draft.template)
        if step.trains_on() is not None:
            used[wanted] = _within_context(draft, used[wanted])
            _tell_data(draft, config)
        _check_data(draft, used[wanted])
    return used


def _within_context(draft: _Draft, config: DataConfig) -> DataConfig:
    """The config with no more tokens in a sample than the model reads."""
    context = draft.facts.context_length if draft.facts else 0
    if not context:
        return config
    within, told = data.within_context(config.pre_process_data_config, context)
    for key, sentence in told.items():
        place = draft.where("data_configs", _index(draft, config), "pre_process_data_config", key)
        draft.translated.append(f"{place}: warning: {sentence}")
    if not told and within != config.pre_process_data_config:
        draft.translated.append(f"rows of '{config.name}' are cut at the {context} tokens that the model reads")
    return config.model_copy(update={"pre_process_data_config": within})


def _index(draft: _Draft, config: DataConfig) -> int:
    return next(i for i, other in enumerate(draft.workflow.data_configs) if other.name == config.name)


def _no_begin_token(draft: _Draft) -> None:
    """onnxruntime-genai puts no begin token before a text: where it runs the result, no step sees one either."""
    draft.steps[:] = [
        replace(step, data={name: _as_run(draft, config) for name, config in step.data.items()}) for step in draft.steps
    ]


def _as_run(draft: _Draft, config: DataConfig) -> DataConfig:
    """The data config with the begin token as whatever runs the last model will have it."""
    settings = config.pre_process_data_config
    if settings.begin_token is not None or not any(step.produces == "onnx" for step in draft.steps):
        return config
    return config.model_copy(update={"pre_process_data_config": settings.model_copy(update={"begin_token": False})})


def _check_held_out(draft: _Draft, name: str, step: Pass, used: Mapping[str, DataConfig]) -> None:
    """That the rows can be split as the step wants them, where they are few and here."""
    rows = step.trains_on()
    config = used.get(rows.data) if rows is not None else None
    if rows is None or config is None or rows.eval_size is None or rows.eval_data is not None:
        return
    for problem in data.check_split(config, rows.eval_size):
        draft.problems.append(replace(problem, where=draft.where("passes", name, "eval_dataset_size")))


def _tell_data(draft: _Draft, config: DataConfig) -> None:
    """Say what the rows look like and which part of them is trained on."""
    try:
        draft.translated.append(data.describe(config, draft.template))
        draft.translated += [f"warning: {doubt}" for doubt in data.doubts(config, draft.template or "")]
    except DataError:  # the data config itself does not hold: data.check has said so
        return


def _check_model_names(draft: _Draft, name: str, step: Pass) -> None:
    """Every model that a step names must have come before it."""
    known = ["input", *(earlier.name for earlier in draft.steps)]
    for wanted in step.model_names():
        if wanted not in known:
            params = draft.workflow.passes[name].params
            key = next(((key,) for key, value in params.items() if value == wanted), ())
            close = difflib.get_close_matches(wanted, known, n=1)
            hint = f"Did you mean '{close[0]}'?" if close else f"There are: {', '.join(known)}."
            message = f"'{wanted}' is neither a path nor the name of an earlier step."
            draft.problem("missing-model", ("passes", name, *key), message, hint)


def _no_such_data(draft: _Draft, name: str, path: tuple[str, ...]) -> None:
    known = [other.name for other in draft.workflow.data_configs]
    close = difflib.get_close_matches(name, known, n=1)
    hint = f"Did you mean '{close[0]}'?" if close else f"There are: {', '.join(known) or 'none'}."
    draft.problem("missing-data", path, f"no data config is named '{name}'.", hint)


def _check_data(draft: _Draft, config: DataConfig) -> None:
    index = _index(draft, config)
    if data.may_move(config):
        draft.translated.append(
            f"the rows of '{config.name}' may be others than at the last run: a run looks at them first, and takes "
            "from the cache what was made of the same ones; a commit of the hub as 'revision' keeps them"
        )
    if config.pre_process_data_config.chat_template is True and draft.template:
        _check_template(draft, draft.template)
    for problem in data.check(config):
        is_row = problem.kind == "missing-data" and not problem.where.startswith("data config")
        key = _data_key(config, problem)
        draft.problems.append(
            problem if is_row else replace(problem, where=draft.where("data_configs", index, *key), key=())
        )


def _check_template(draft: _Draft, template: str) -> None:
    """A model's chat template that rows are to go through."""
    if (fault := syntax_fault(template)) is None:
        return
    fix = "Mend it in the model's folder, or write a Jinja template as chat_template."
    message = f"the model's chat template cannot be read: {fault}."
    if not any(problem.message == message for problem in draft.problems):  # one template for all data
        draft.problem("missing-model", ("input_model", "model_path"), message, fix)


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


def _placed(draft: _Draft, name: str, plugin: type[Pass], problem: Problem) -> Problem:
    """A problem of a pass with the file and line of the param that it is about, under the name that is written."""
    params = draft.workflow.passes[name].params
    first, rest = problem.key[:1], problem.key[1:]
    if first and first[0] not in params:
        first = tuple(key for key in params if plugin.spellings.get(key) == first[0])[:1]
    return replace(problem, where=draft.where("passes", name, *first, *(rest if first else ())), key=())


def _step(
    draft: _Draft,
    name: str,
    step: Pass,
    used: Mapping[str, DataConfig],
    parent: str | None,
    facts: ModelFacts | None = None,
    *,
    implicit: bool = False,
) -> Step:
    facts = facts or draft.facts
    return Step(
        name=name,
        pass_name=step.name,
        params=step.params.model_dump(mode="json"),
        parent=parent,
        machine=draft.machine,
        data=used,
        models=tuple(step.model_names()),
        trains_on=step.trains_on(),
        files=tuple(step.files()),
        implicit=implicit,
        estimate=step.estimate(facts, draft.machine, used) if facts else Estimate(),
        produces=step.produces,
    )


def _plan_score(draft: _Draft) -> ScoreRows | None:
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


def _metrics(draft: _Draft) -> Mapping[str, Mapping[str, Any]]:
    """The params of metrics that the config writes, each checked."""
    given = draft.workflow.quality.metrics
    if given:
        from olivine.evaluate import check_metrics

        for problem in check_metrics(given):
            draft.problem(problem.kind, ("quality", "metrics", *problem.key), problem.message, problem.fix)
    return given


def _names_rows(draft: _Draft) -> bool:
    """Whether the config names rows to score: when they are not found, that is told already."""
    plugins = [passes.find(one.type) for one in draft.workflow.passes.values()]
    trains = any(plugin is not None and plugin.trains_on is not Pass.trains_on for plugin in plugins)
    return trains or draft.workflow.quality.data_config is not None


def _score_rows(draft: _Draft) -> tuple[DataConfig, str, float | None, int, int] | None:
    quality = draft.workflow.quality
    if quality.data_config is not None:
        config = draft.workflow.data(quality.data_config)
        if config is None:
            _no_such_data(draft, quality.data_config, ("quality", "data_config"))
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


def _check_folder(draft: _Draft, folder: Path, key: str) -> None:
    named = str(getattr(draft.workflow, key)).strip()
    if reason := _unusable(folder) if named else "is empty":
        draft.unusable.add(key)
        draft.problem("invalid-value", (key,), f"{key} {reason}.", "Choose another.")


def _unusable(folder: Path) -> str:
    """Why a folder cannot be made, or cannot be written to; empty when it can."""
    if not could_be(folder):
        return "has a name that no file system takes"
    if _is_too_long(folder):
        return f"has a name of more than {N_NAME} bytes"
    existing = folder
    while not exists(existing) and existing.parent != existing:
        existing = existing.parent
    if not is_folder(existing):
        return f"'{folder}' cannot be a folder: '{existing}' is a file"
    reason = _not_writable(existing)
    return f"'{folder}' cannot be written to: {reason}" if reason else ""


def _not_writable(folder: Path) -> str:
    """Why no file can be made in a folder; found out with one that has no name, or none for long. Empty when it can."""
    if not os.access(folder, os.W_OK | os.X_OK):
        return "this user may not"
    try:
        with tempfile.TemporaryFile(dir=folder):
            return ""
    except OSError as error:
        return (error.strerror or str(error)).lower()


def _is_too_long(folder: Path) -> bool:
    """Whether the file system refuses the name: one part of it, or the whole."""
    if any(len(part.encode("utf-8", "surrogatepass")) > N_NAME for part in folder.parts):
        return True
    try:
        folder.exists()
    except OSError as error:
        return error.errno == errno.ENAMETOOLONG
    return False


def _packages(probe: Probe) -> Iterator[Problem]:
    """Packages that exclude each other, and versions outside of what was tested."""
    for group in EXCLUDE_EACH_OTHER:
        found = [name for name in group if probe.version(name) != "none"]
        if len(found) > 1:
            keep = found[0]
            fix = f"Run: pip uninstall -y {' '.join(found)}; pip install {keep}."
            yield Problem("missing-extra", "", f"{' and '.join(found)} are both installed and break each other.", fix)
    version, wanted = probe.version("transformers"), lazy.supported("transformers")
    if version == "none":
        fix = f"Run: {sys.executable} -m pip install olivine."
        yield Problem("missing-extra", "", "transformers is not installed.", fix)
    elif wanted is not None and not wanted.contains(version, prereleases=True):
        message = f"transformers {version} is installed, but {wanted} is supported."
        yield Problem("missing-extra", "", message, f"Run: pip install 'transformers{wanted}'.")


def _text_rows(draft: _Draft) -> ScoreRows | None:
    """Passages that come with olivine, where the config names no rows: models are compared on them, not graded."""
    if not any(step.produces != UNCHANGED and not step.implicit for step in draft.steps):
        return None
    rows = ScoreRows(DataConfig.model_validate(PASSAGES), "all", None, 0, "", 16, on_text=True, metrics=_metrics(draft))
    if _scoring_bytes(draft, rows) > draft.machine.memory_bytes:
        draft.translated.append(
            "nothing is measured: the config names no rows to score, and a text would need the whole model in memory"
        )
        return None
    draft.translated.append(
        "the config names no rows to score (quality.data_config): models are compared on a text that comes with olivine"
    )
    return rows


def _scoring_bytes(draft: _Draft, score: ScoreRows | None) -> int:
    """Memory that scoring takes: each model in float32 at worst, in a process with its libraries; 0 where none is."""
    if score is None or draft.facts is None:
        return 0
    return int((1.2e9 if draft.machine.device == "cuda" else 0.7e9) + 4.2 * draft.facts.n_parameters)


def _total(draft: _Draft, score: ScoreRows | None) -> Estimate:
    estimates = [step.estimate for step in draft.steps]
    scoring = _scoring_bytes(draft, score)
    return Estimate(
        memory_bytes=max([scoring, *(estimate.memory_bytes for estimate in estimates)]),
        device_memory_bytes=max((estimate.device_memory_bytes for estimate in estimates), default=0),
        # the result is delivered beside the cache
        disk_bytes=sum(e.disk_bytes for e in estimates) + (estimates[-1].disk_bytes if estimates else 0),
        download_bytes=draft.download_bytes,
    )


def _check_room(draft: _Draft, estimate: Estimate) -> None:
    _check_memory(draft)
    folder = hub_cache()
    if estimate.download_bytes > (free := free_disk_bytes(folder)):
        message = f"{_size(estimate.download_bytes)} are to be fetched, but {_size(free)} are free in '{folder}'."
        draft.problem("hardware", ("input_model", "model_path"), message, "Let HF_HOME name a folder on a larger disk.")
    if estimate.disk_bytes > draft.machine.disk_bytes and "cache_dir" not in draft.unusable:
        draft.problem(
            "hardware",
            ("cache_dir",),
            f"about {_size(estimate.disk_bytes)} of disk are needed, but {_size(draft.machine.disk_bytes)} are free.",
            "Choose a cache_dir and output_dir on a larger disk.",
        )


def _check_memory(draft: _Draft) -> None:
    """A problem for each step that does not fit; one in all where the config itself sets a limit that is too low."""
    machine = draft.machine
    needs = [(step, *_needed(step, machine)) for step in draft.steps]
    too_large = [(step, needed, there) for step, needed, there in needs if there and needed > there]
    asked = _systems.wish(draft.workflow, "host")
    for step, needed, there in sorted(too_large, key=lambda need: -need[1]):
        what = "memory" if needed == step.estimate.memory_bytes else "the GPU's memory"
        message = f"step '{step.name}' needs about {_size(needed)} of {what}, but this machine has {_size(there)}."
        if asked is not None and asked.memory_bytes == there:
            message = f"step '{step.name}' needs about {_size(needed)} of {what}, but 'memory' allows {_size(there)}."
            draft.problem("hardware", (*asked.path, "memory"), message, "Allow more, or choose a smaller model.")
            return
        draft.problem("hardware", ("passes", step.name), message, passes.classes[step.pass_name].when_too_large)


def _needed(step: Step, machine: Machine) -> tuple[int, int]:
    """Bytes that a step needs where they are scarcest, and those that are there; 0 there where it is not known."""
    estimate = step.estimate
    if estimate.memory_bytes <= machine.memory_bytes and estimate.device_memory_bytes:
        return estimate.device_memory_bytes, machine.device_memory_bytes
    return estimate.memory_bytes, machine.memory_bytes


def to_json(plan: Plan) -> dict[str, Any]:
    """What `olivine plan --json` prints."""
    return {
        "steps": [
            {
                "name": step.name,
                "pass": step.pass_name,
                "params": step.params,
                "cached": step.name in plan.cached,
                "implicit": step.implicit,
                "estimate": vars(step.estimate),
            }
            for step in plan.steps
        ],
        "problems": [problem.to_json() for problem in plan.problems],
        "translated": list(plan.translated),
        "estimate": vars(plan.estimate) | {"n_parameters": plan.n_parameters},
    }


def _in_words(n_parameters: int) -> str:
    if n_parameters < 1e6:
        return f"{n_parameters:,}"
    return f"{n_parameters / 1e6:,.0f} million"


def lines(plan: Plan) -> list[str]:
    """The plan for a person."""
    machine = plan.machine
    device = machine.device if machine.n_devices == 1 else f"{machine.n_devices} x {machine.device}"
    text = [f"runs on {device}, {machine.n_cores} cores; the result is for {machine.execution_provider}"]
    name = plan.hub_name or (str(plan.input_model.path) if plan.input_model else "that cannot be used")
    text.append(f"model {name}" + (f", {_in_words(plan.n_parameters)} parameters" if plan.n_parameters else ""))
    text += [_step_line(plan, step) for step in plan.steps]
    needed = plan.estimate
    if plan.n_parameters:  # of a model that is not known, nothing else is
        text.append(
            f"needs about {_size(needed.memory_bytes)} of memory and {_size(needed.disk_bytes)} of disk at most"
        )
    if needed.download_bytes:
        text.append(f"fetches about {_size(needed.download_bytes)}")
    if needed.device_memory_bytes:
        which = "the GPU" if machine.n_devices == 1 else "each GPU"
        text.append(f"needs about {_size(needed.device_memory_bytes)} on {which}")
    return text + [f"note: {note}" for note in plan.translated]


def _step_line(plan: Plan, step: Step) -> str:
    state = "cached" if step.name in plan.cached else "to run"
    asked = f"; memory {_size(step.estimate.memory_bytes)}, disk {_size(step.estimate.disk_bytes)}"
    is_known = state == "to run" and plan.n_parameters
    return f"step {step.name} ({step.pass_name}): {state}{asked if is_known else ''}"


def _size(n_bytes: float) -> str:
    if n_bytes >= 1e8:
        return f"{n_bytes / 1e9:.1f} GB"
    return f"{n_bytes / 1e6:.0f} MB" if n_bytes >= 1e6 else f"{n_bytes / 1e3:.0f} kB"
