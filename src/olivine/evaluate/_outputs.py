"""Score a model by its outputs: any graph, and any checkpoint, on rows of its inputs."""

import json
import math
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from olivine import lazy
from olivine.config.schema import DataConfig
from olivine.data import Rows, is_raw, is_scripted, pick_any, position, text_columns, texts, token_counts
from olivine.errors import DataError, ModelError
from olivine.evaluate._base import NO_CLASS, Artifact, OutputEvidence
from olivine.evaluate._custom import custom_numbers
from olivine.evaluate._features import extractor, feature_column, heard_seconds, seconds_of
from olivine.evaluate._inputs import Tokenize, fits, of_parts, of_row
from olivine.evaluate._metrics import measured
from olivine.evaluate._speech import FEATURES, TASK, TOKENS, Transcriber, expected_of, teacher
from olivine.evaluate.label_accuracy import matches
from olivine.evaluate.word_errors import bare_words
from olivine.models import Model
from olivine.models.disk import bytes_on_disk
from olivine.models.interface import facts_of, signature_of
from olivine.models.loading import load_tokenizer
from olivine.models.sample_inputs import Inputs, dtype_of, made_up
from olivine.models.signature import Signature, TensorSpec
from olivine.runtimes.module import PartsSession, fed_to, open_session
from olivine.work import Machine, Reporter

if TYPE_CHECKING:
    import numpy as np
else:
    np = lazy.module("numpy")

OUTPUTS, INPUTS = "outputs", "inputs"  # files that are kept for the next seam: NAME.npz, NAME.json
WORDS = "word_ids"  # which word of its row each token is of
N_SAMPLES = 8
N_DUMMY = 32  # rows of tokens that are made up
N_ANSWERS = 1000  # that can be shown beside those of other models
_SCORES = ("logits", "prob", "score")  # in names of outputs whose last dimension are classes

Outputs = Mapping[str, Any]


def score_outputs(
    model: Model, params: Mapping[str, Any], output: Path, machine: Machine, report: Reporter, *, kept_bytes: int
) -> dict[str, Any]:
    """Measure a model on rows of its inputs, and keep its outputs for the next seam, `kept_bytes` at most.

    params: as of `score`; without data, max_rows rows are made up, with open sizes as `sizes` names
    them. Returns the same as `score`.
    """
    given = _inputs(model, params)
    rows, labels = given.rows, given.labels
    if given.n_cut and not params.get("previous"):
        are = "is" if given.n_cut == 1 else "are"
        report.warn(
            f"{given.n_cut} of {len(rows)} sounds {are} longer than what is heard, and the words after it count as "
            "errors: write pieces of 30 seconds at most"
        )
    session = open_session(model, machine.execution_provider, machine.device)
    said = [] if isinstance(session, PartsSession) else given.said  # parts of which nothing is known write nothing
    transcriber = Transcriber(model, session, has_decoder=TOKENS in rows[0]) if said else None
    outputs, written = [], []
    for number, row in enumerate(rows, 1):
        started = time.perf_counter()
        own = session.run(row)
        seconds = time.perf_counter() - started
        outputs.append(_numbers(own))
        if transcriber is not None:
            written.append(transcriber.text(row, own, seconds))
        report.progress(number, len(rows))
    _keep(outputs, output / OUTPUTS, kept_bytes)
    if not params.get("data"):
        _keep(rows, output / INPUTS, kept_bytes)
    previous = params.get("previous")
    evidence = OutputEvidence(
        outputs=outputs,
        previous=_kept(Path(previous) / OUTPUTS) if previous else None,
        scores=_scores(outputs, is_classifier=bool(labels)),
        labels=labels,
        transcripts=list(zip(said, written, strict=True)),
        seconds_heard=sum(given.seconds),
        is_heard=bool(given.seconds),
        seconds_taken=transcriber.seconds if transcriber is not None else 0.0,
    )
    numbers = measured(params.get("metrics") or {}, evidence, Artifact(bytes_on_disk(model)))
    if evidence.previous and "cosine" not in numbers:
        report.warn("no output has the name and shape of one of the model before: the two are not compared")
    numbers |= custom_numbers(params.get("scripts") or (), model, evidence, machine)
    scores: dict[str, Any] = {"n_rows": len(rows), **({} if params.get("data") else {"made_up": True}), **numbers}
    if broken := _broken(outputs):
        scores["degenerate"] = broken
    if parts := _of_parts(model, evidence):
        scores["parts"] = parts
    told = _transcripts(evidence) or _classes(evidence)
    return {"scores": named(scores), "samples": [_sample(row) for row in told[:N_SAMPLES]], "answers": told}


def named(scores: Mapping[str, Any]) -> dict[str, Any]:
    """The scores as JSON has them: a number that is none (NaN, infinity) is null, and `no_number` names it."""
    names = [name for name, value in scores.items() if isinstance(value, float) and not math.isfinite(value)]
    return {**scores, **dict.fromkeys(names), **({"no_number": names} if names else {})}


def evenly(values: Sequence[int], n_most: int) -> list[int]:
    """At most `n_most` of the values, spread evenly, the same ones every time."""
    if len(values) <= n_most:
        return list(values)
    return [values[i * len(values) // n_most] for i in range(n_most)]


def rows_of(values: Sequence[int], params: Mapping[str, Any]) -> list[int]:
    """The rows to score: max_rows at most, spread evenly; n_few of these, drawn at random, where that is given."""
    kept, n_few = evenly(values, params["max_rows"]), params.get("n_few")
    return kept if n_few is None or n_few >= len(kept) else sorted(random.Random(n_few).sample(kept, n_few))  # noqa: S311


@dataclass(frozen=True)
class _Given:
    """What a model is given. labels: the class of each row, where rows have some.

    said: what is said in the sound of each row, where that is known; seconds: how long the sound is. n_cut: so many of
    them are heard in part alone.
    """

    rows: list[Inputs]
    labels: list[int | list[int]] = field(default_factory=list)
    said: list[str] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    n_cut: int = 0


def _inputs(model: Model, params: Mapping[str, Any]) -> _Given:
    """Inputs of every row, and the class or the text of each where they have some."""
    facts, signature = facts_of(model), signature_of(model)
    if signature is None:
        raise ModelError(f"it is not known what {facts.in_words} takes: nothing can be asked of it")
    if params.get("data") is None:
        sizes = params.get("sizes") or {}
        return _Given(_same_rows(signature, params) or made_up(signature, params["max_rows"], params["seed"], sizes))
    config = DataConfig.model_validate(params["data"])
    if (counts := token_counts(config)) is not None:
        n_rows = min(config.load_dataset_config.max_samples or N_DUMMY, params["max_rows"])
        return _Given(made_up(signature, n_rows, params["seed"], _token_sizes(signature, *counts)))
    rows = pick_any(config, lambda n_rows: rows_of(range(n_rows), params))
    if not len(rows):
        raise DataError(f"data config '{config.name}' has no rows to score")
    target = params.get("target")
    tokenize = None if is_scripted(config) or is_raw(config) else _reader(model, config, rows, signature, target)
    given = [by_name(signature, rows[index]) for index in range(len(rows))]
    if any(spec.name.startswith(f"{part}/") for spec in signature.inputs for part in model.parts):
        spare = made_up(signature, len(given), params["seed"])
        pairs = enumerate(zip(given, spare, strict=True))
        return _Given([of_parts(signature, row, rows.where(index), tokenize, other) for index, (row, other) in pairs])
    inputs = [of_row(signature, row, rows.where(index), tokenize) for index, row in enumerate(given)]
    if _is_written(config) and not facts.labels:  # what the text of a row ends with is no class
        target = None
    if (is_scripted(config) or is_raw(config)) and not any(
        target in row for row in given
    ):  # only its rows tell whether it has labels
        target = None
    if target and _is_to_write(signature, given, target):
        return _Given(inputs, said=[expected_of(row, target, rows.where(index)) for index, row in enumerate(given)])
    if target and facts.task == TASK:
        said = [expected_of(row, target, rows.where(index)) for index, row in enumerate(given)]
        column = feature_column(config, rows.columns(), "audio")
        seconds = [seconds_of(row, column, config) for row in given]
        n_cut = sum(one > heard_seconds(config) for one in seconds)
        return _Given(inputs, said=said, seconds=seconds, n_cut=n_cut)
    numbers = {name: number for number, name in enumerate(facts.labels)}
    labels = [_label(rows, index, target, numbers, tokenize) for index in range(len(rows))] if target else []
    return _Given(inputs, labels)


def _is_to_write(signature: Signature, rows: Sequence[Mapping[str, Any]], target: str) -> bool:
    """Whether a model writes a text of a text, and rows say which."""
    names = {spec.name for spec in signature.inputs}
    return TOKENS in names and FEATURES not in names and any(isinstance(row.get(target), str) for row in rows)


def _token_sizes(signature: Signature, n_tokens: int, n_past: int) -> dict[str, int]:
    """Sizes by name, as exporters call them, of a text of so many tokens after so many others."""
    names = {size for spec in signature.inputs for size in spec.shape or () if isinstance(size, str)}
    sizes = {}
    for name in names:
        said = name.lower()
        if "total" in said or "+" in said:
            sizes[name] = n_tokens + n_past
        elif "past" in said:
            sizes[name] = n_past
        elif "seq" in said or "length" in said or "token" in said:
            sizes[name] = n_tokens
    return sizes


def inputs_of(
    model: Model, config: DataConfig | None, n_most: int, *, whole: Model | None = None, part: str = ""
) -> list[Inputs]:
    """Inputs of a model: of the rows of a data config, `n_most` at most, or made up where there is none.

    whole, part: where the model is a part of another one. Of an encoder-decoder, it gets what the parts before it give;
    of other parts, the columns that have the names of its inputs, and what is made up in the place of the others.
    """
    data = config.model_dump(mode="json") if config is not None else None
    params = {"data": data, "max_rows": n_most, "seed": 0}
    if whole is None:
        return _inputs(model, params).rows
    rows = _inputs(whole, params).rows
    if (fed := fed_to(whole, part, rows, n_most)) is not None:
        return fed
    start = f"{part}/"
    return [{name.removeprefix(start): one for name, one in row.items() if name.startswith(start)} for row in rows]


def labelled_inputs_of(
    model: Model, config: DataConfig, target: str | None, n_most: int
) -> tuple[list[Inputs], list[int | list[int]]]:
    """The same of rows with the class of each, which the column `target` tells; no classes where there is none."""
    given = _inputs(model, {"data": config.model_dump(mode="json"), "max_rows": n_most, "target": target})
    return given.rows, given.labels


def _same_rows(signature: Signature, params: Mapping[str, Any]) -> list[Inputs] | None:
    """The made-up rows of the seam before, as this model takes them; None where it takes others."""
    previous = params.get("previous")
    rows = _kept(Path(previous) / INPUTS) if previous else None
    if rows is None or any(not _takes(spec, row.get(spec.name)) for row in rows for spec in signature.inputs):
        return None
    return [{spec.name: row[spec.name].astype(dtype_of(spec)) for spec in signature.inputs} for row in rows]


def _takes(spec: TensorSpec, array: Any) -> bool:
    return array is not None and (spec.shape is None or fits(array.shape, spec.shape))


def by_name(signature: Signature, row: Mapping[str, Any]) -> Mapping[str, Any]:
    """The row with the names of the inputs in the place of their positions, where a script gave only these."""
    names = {position(number): spec.name for number, spec in enumerate(signature.inputs)}
    return {names.get(name, name): value for name, value in row.items()}


def _reader(model: Model, config: DataConfig, rows: Rows, signature: Signature, target: str | None) -> Tokenize | None:
    """What makes inputs of the text, sound or image of a row. target: the column of what is said in a sound."""
    make = extractor(model.path, config, signature, rows.columns()) or _tokenizer(model, config, rows)
    if make is None or TOKENS not in {spec.name for spec in signature.inputs} or TOKENS in rows.columns():
        return make
    read = teacher(model.path, target or config.pre_process_data_config.label_col)
    return lambda row: {**make(row), TOKENS: read(row)}


def _is_written(config: DataConfig) -> bool:
    """Whether the config says how a text is made of a row, as for a model that writes some."""
    settings = config.pre_process_data_config
    given = (settings.form, settings.text_template, settings.chat_template, settings.pair_format, settings.prompt_col)
    return any(value not in (None, False) for value in given)


def _tokenizer(model: Model, config: DataConfig, rows: Rows) -> Tokenize | None:
    """What makes token ids of the texts of a row, where there are texts, and a tokenizer beside the graph."""
    columns = text_columns(config, rows.columns())
    files = (model.path / name for name in ("tokenizer.json", "tokenizer_config.json"))
    if not (columns or _is_written(config)) or not any(file.is_file() for file in files):
        return None
    tokenizer = load_tokenizer(Model("hf", model.path))
    longest = min(config.pre_process_data_config.max_seq_len, tokenizer.model_max_length)

    def tokenize(row: Mapping[str, Any]) -> Mapping[str, Sequence[int]]:
        if _is_written(config):
            (text,) = texts(config, Rows([row], lambda _: f"data config '{config.name}'"), tokenizer)
            return dict(tokenizer(text, truncation=True, max_length=longest))
        padding = "max_length" if config.pre_process_data_config.pad_to_max_len else False
        parts = [row[column] if isinstance(row[column], list) else str(row[column]) for column in columns]
        are_words = any(isinstance(part, list) for part in parts)
        settings = {"truncation": True, "max_length": longest, "padding": padding, "is_split_into_words": are_words}
        encoded = tokenizer(*parts, **settings)
        return {**encoded, **({WORDS: encoded.word_ids()} if are_words else {})}

    return tokenize


def _label(
    rows: Rows, index: int, target: str, numbers: Mapping[str, int], tokenize: Tokenize | None
) -> int | list[int]:
    """The class of a row; of one whose words have classes, that of every token: of the first of each word, else -1."""
    value = rows[index].get(target)
    if not isinstance(value, list) or tokenize is None:
        return _class(rows.where(index), target, value, numbers)
    words = [_class(rows.where(index), target, one, numbers) for one in value]
    tokens = tokenize(rows[index]).get(WORDS) or ()
    first = [word is not None and word not in tokens[:place] for place, word in enumerate(tokens)]
    if any(is_first and word >= len(words) for word, is_first in zip(tokens, first, strict=True)):
        raise DataError(f"{rows.where(index)}: '{target}' has {len(words)} labels, and the row has more words")
    return [words[word] if is_first else NO_CLASS for word, is_first in zip(tokens, first, strict=True)]


def _class(where: str, target: str, value: Any, numbers: Mapping[str, int]) -> int:
    """The number of a class, which is given by its number or by its name."""
    if isinstance(value, str) and value in numbers:
        return numbers[value]
    if type(value) is int or (isinstance(value, str) and value.isdecimal()):
        return int(value)
    known = f"; the model's are {', '.join(list(numbers)[:10])}" if numbers else ", and the model names none"
    raise DataError(f"{where}: '{target}' is {value!r:.40}, which is no class{known}")


def _numbers(outputs: Outputs) -> dict[str, Any]:
    """The outputs that are tensors of numbers."""
    arrays = {name: value for name, value in outputs.items() if isinstance(value, np.ndarray)}
    return {name: array for name, array in arrays.items() if array.dtype.kind in "fiub"}


def _scores(outputs: Sequence[Outputs], *, is_classifier: bool) -> list[str]:
    """Names of the outputs that are scores of classes: by name, and of a classifier the first that has rows of them."""
    first = outputs[0] if outputs else {}
    rows = {name: array for name, array in first.items() if array.ndim > 1 and array.dtype.kind == "f"}
    by_name = [name for name in rows if any(word in name.lower() for word in _SCORES)]
    return by_name or ([name for name, array in rows.items() if array.ndim == 2][:1] if is_classifier else [])


def _broken(outputs: Sequence[Outputs]) -> str | None:
    """One sentence naming an output that holds NaN, or None."""
    for name in outputs[0] if outputs else ():
        n_rows = sum(bool(np.isnan(row[name]).any()) for row in outputs if row[name].dtype.kind == "f")
        if n_rows:
            return f"NaN in the output '{name}' of {n_rows} of {len(outputs)} rows"
    return None


def _keep(rows: Sequence[Outputs], path: Path, n_bytes: int) -> None:
    """Write the arrays of the first rows, as many as fit; of the first row in any case."""
    names: list[list[str]] = []
    arrays: dict[str, Any] = {}
    for number, row in enumerate(rows):
        n_bytes -= sum(array.nbytes for array in row.values())
        if n_bytes < 0 and number:
            break
        names.append(list(row))
        arrays |= {f"{number}-{place}": array for place, array in enumerate(row.values())}
    np.savez(path.with_suffix(".npz"), **arrays)
    path.with_suffix(".json").write_text(json.dumps(names) + "\n", encoding="utf-8")


def _kept(path: Path) -> list[dict[str, Any]] | None:
    """What `_keep` has written; None of a model that was measured by its text."""
    if not path.with_suffix(".json").is_file():
        return None
    names = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    with np.load(path.with_suffix(".npz")) as arrays:
        return [
            {name: arrays[f"{number}-{place}"] for place, name in enumerate(row)} for number, row in enumerate(names)
        ]


def _of_parts(model: Model, evidence: OutputEvidence) -> dict[str, dict[str, Any]]:
    """The numbers of each part of a model by itself, from its own outputs."""
    told = {}
    for name, part in model.parts.items():
        own = [_own(row, name) for row in evidence.outputs]
        before = [_own(row, name) for row in evidence.previous] if evidence.previous else None
        scores = [one for one in evidence.scores if one.startswith(f"{name}/")]
        numbers = measured({}, OutputEvidence(own, before, scores))
        told[name] = named({**numbers, "size_bytes": bytes_on_disk(part)})
    return told


def _own(row: Outputs, part: str) -> Outputs:
    return {name: array for name, array in row.items() if name.startswith(f"{part}/")}


def _classes(evidence: OutputEvidence) -> list[dict[str, Any]]:
    """Classes of the first rows, where they have labels."""
    if not evidence.scores:
        return []
    ranked = [(label, int(row.argmax())) for row, label in evidence.answered()[:N_ANSWERS]]
    return [
        {"prompt": f"row {number}", "expected": f"class {label}", "text": f"class {best}", "right": label == best}
        for number, (label, best) in enumerate(ranked, 1)
    ]


def _transcripts(evidence: OutputEvidence) -> list[dict[str, Any]]:
    """What is said or expected, and what is written, of the first rows."""
    what, is_right = ("sound", _says) if evidence.is_heard else ("row", matches)
    return [
        {"prompt": f"{what} {number}", "expected": one, "text": other, "right": is_right(one, other)}
        for number, (one, other) in enumerate(evidence.transcripts[:N_ANSWERS], 1)
    ]


def _sample(row: Mapping[str, Any]) -> dict[str, str]:
    return {"prompt": row["prompt"], "expected": row["expected"], "generated": row["text"]}


def _says(one: str, other: str) -> bool:
    return bare_words(one) == bare_words(other)
