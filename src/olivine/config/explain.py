"""From pydantic's errors to problems: file:line, the offending value, the nearest known name; each mistake once."""

import difflib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from olivine.config.nodes import plain
from olivine.config.read import Document, Key
from olivine.errors import Problem, ProblemKind

Path = tuple[Key, ...]
KnownNames = Callable[[Path], Iterable[str]]
_Error = tuple[Path, ErrorDetails]

_EXPECTED = {
    "string": "a text",
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "list": "a list",
    "tuple": "a list",
    "dict": "a mapping",
    "model": "a mapping",
    "mapping": "a mapping",
    "none": "null",
}
# names that people know from other tools -> ours, offered where ours is a key of the mapping
_SYNONYMS = {
    "answer_column": "answer_col",
    "assistant_col": "answer_col",
    "base_model": "input_model",
    "completion_col": "answer_col",
    "dataset": "data_name",
    "datasets": "data_configs",
    "data": "data_configs",
    "data_file": "data_files",
    "data_path": "data_files",
    "dropout": "lora_dropout",
    "file": "data_files",
    "files": "data_files",
    "instruction_col": "prompt_col",
    "lora_rank": "r",
    "lora_target_modules": "target_modules",
    "max_len": "max_seq_len",
    "max_length": "max_seq_len",
    "model": "input_model",
    "name_or_path": "model_path",
    "output": "output_dir",
    "path": "model_path",
    "pipeline": "passes",
    "prompt_column": "prompt_col",
    "prompt_template": "text_template",
    "question_col": "prompt_col",
    "rank": "r",
    "response_col": "answer_col",
    "scale": "alpha",
    "seed": "random_seed",
    "separator": "sep",
    "sequence_length": "max_seq_len",
    "steps": "passes",
    "target_col": "answer_col",
    "targets": "target_modules",
    "template": "text_template",
    "user_col": "prompt_col",
}
_BOUNDS = {
    "greater_than": ("gt", "greater than"),
    "greater_than_equal": ("ge", "at least"),
    "less_than": ("lt", "less than"),
    "less_than_equal": ("le", "at most"),
}


@dataclass(frozen=True)
class Fault:
    """One mistake at a path of the validated value.

    missing: the path's last key is what is not there. near: for an unknown key, the key that was probably meant.
    """

    path: Path
    kind: ProblemKind
    message: str
    missing: bool = False
    near: str | None = None


def where(document: Document, path: Sequence[Key] = ()) -> str:
    """The "file:line" of the key at a path, or of the deepest part of the path that is there."""
    return document.where(path)


def explain_params(
    document: Document, path: Sequence[Key], error: ValidationError, known_names: Iterable[str]
) -> list[Problem]:
    """Problems of a section that has a model of its own, such as the params of a pass.

    path: of the section, e.g. ("passes", "lora"). error: what its model raised. known_names: the keys that it may have.
    """
    names = list(known_names)
    value = _at(plain(document.root), path)
    return to_problems(document, faults(error, value, lambda inner: names if not inner else (), tuple(path)))


def to_problems(document: Document, mistakes: Iterable[Fault]) -> list[Problem]:
    """The faults with their file and line, in the order of the file, none twice."""
    problems: dict[Problem, int] = {}
    for fault in mistakes:
        place = document.where(fault.path, of_value=fault.kind == "invalid-value" and not fault.missing)
        key = fault.path if fault.kind == "unknown-key" else ()
        problems[Problem(fault.kind, place, fault.message, key=key)] = line_of(place)
    return sorted(problems, key=lambda problem: problems[problem])


def line_of(place: str) -> int:
    """The line of a "file:line"; 0 when there is none."""
    line = re.search(r":(\d+)$", place)
    return int(line[1]) if line else 0


def faults(error: ValidationError, value: Any, known: KnownNames, base: Path = ()) -> list[Fault]:
    """The mistakes behind a validation error.

    value: what was validated. known: the keys that the mapping at a path below the value may have. base: the path of
    the value itself, with which the paths of the faults begin.
    """
    errors = [(tuple(item["loc"]), item) for item in error.errors(include_url=False)]
    return list(_faults(errors, value, base, lambda path: known(path[len(base) :])))


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name most like `name`, in any case; None when none is near."""
    spellings = {item.lower(): item for item in known}
    meant = synonym(name)
    if meant in spellings:
        return spellings[meant]
    close = difflib.get_close_matches(name.lower(), spellings, n=1, cutoff=0.6)
    return spellings[close[0]] if close else None


def synonym(name: str) -> str | None:
    """Our name of a key that other tools call so."""
    return _SYNONYMS.get(name.lower().replace("-", "_"))


def shown(value: Any) -> str:
    """A value as JSON, cut to a length that fits into a sentence."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _faults(errors: list[_Error], node: Any, path: Path, known: KnownNames) -> Iterator[Fault]:
    """Sort errors by where they go from here: into the value, to a key that is missing, or into an arm of a union."""
    children: dict[Key, list[_Error]] = {}
    arms: dict[Key, list[_Error]] = {}
    missing: list[Key] = []
    for location, error in errors:
        if not location:
            yield from _fault(error, node, path)
        elif _has(node, location[0]):
            children.setdefault(location[0], []).append((location[1:], error))
        elif error["type"] == "missing" and len(location) == 1:
            missing.append(location[0])
        else:
            arms.setdefault(location[0], []).append((location[1:], error))
    unknown = [str(key) for key, inner in children.items() if _is_unknown(inner)]
    misspelt = {key: nearest(key, [str(name) for name in missing]) for key in unknown}
    for key, inner in children.items():
        if key in unknown:
            yield _unknown(str(key), path, misspelt.get(str(key)), known(path))
        else:
            yield from _faults(inner, node[key], (*path, key), known)
    for key in missing:
        if key not in misspelt.values():
            yield Fault((*path, key), "invalid-value", f"the key '{key}' is missing{_in(path)}.", missing=True)
    if arms:
        yield from _union(arms, node, path, known)


def _union(arms: dict[Key, list[_Error]], node: Any, path: Path, known: KnownNames) -> Iterator[Fault]:
    """Of the ways to read a value, explain the one that was meant; when none fits at all, say what there is."""
    inside = {arm: errors for arm, errors in arms.items() if any(_goes_inside(error) for error in errors)}
    if inside and isinstance(node, dict | list):
        is_record = isinstance(node, dict) and "type" in node
        records = [arm for arm, errors in inside.items() if any(_is_record(error) for error in errors)]
        others = [arm for arm in inside if arm not in records]
        candidates = (records or others) if is_record else (others or records)
        meant = min(candidates, key=lambda arm: len(inside[arm]))
        yield from _faults(inside[meant], node, path, known)
        return
    errors = [error for inner in arms.values() for _, error in inner]
    expected = list(dict.fromkeys(filter(None, (_expected(error) for error in errors))))
    if expected:
        yield Fault(path, "invalid-value", f"{_named(path)} must be {' or '.join(expected)}, but is {shown(node)}.")
    else:
        yield from _fault(errors[0], node, path)


def _goes_inside(error: _Error) -> bool:
    return bool(error[0])


def _is_record(error: _Error) -> bool:
    return len(error[0]) >= 1 and error[1]["type"] in ("missing", "extra_forbidden")


def _is_unknown(errors: list[_Error]) -> bool:
    return any(not location and error["type"] == "extra_forbidden" for location, error in errors)


def _unknown(key: str, path: Path, misspelt: str | None, known: Iterable[str]) -> Fault:
    names = list(known)
    near = misspelt or nearest(key, names)
    hint = f"; did you mean '{near}'?" if near else "."
    if not near and names and len(names) <= 12:
        hint = f"; known keys are {', '.join(sorted(names))}."
    return Fault((*path, key), "unknown-key", f"unknown key '{key}'{_in(path)}{hint}", near=near)


def _fault(error: ErrorDetails, node: Any, path: Path) -> Iterator[Fault]:
    """The mistake that one error stands for; a validator that found several raises them a line each."""
    if _expected(error) is None:  # a validator's own error
        text = error["msg"].removeprefix("Value error, ")
        for line in filter(None, (line.strip() for line in text.splitlines())):
            yield _validator_fault(line, node, path)
        return
    yield Fault(
        path, "invalid-value", f"{_named(path)} must be {_expected(error)}, but is {shown(node)}.{_near(error)}"
    )


def _validator_fault(sentence: str, node: Any, path: Path) -> Fault:
    """A validator's own sentence. When it quotes a key of the mapping that it checked, the mistake is at that key."""
    quoted = re.findall(r"'([^']+)'", sentence)
    key = next((word for word in quoted if isinstance(node, Mapping) and word in node), None)
    kind: ProblemKind = "unknown-key" if key is not None and sentence.lower().startswith("unknown") else "invalid-value"
    at = path if key is None else (*path, key)
    text = sentence if quoted or not path else f"{_named(path)}: {sentence}"
    return Fault(at, kind, text if text.endswith((".", "?", "!")) else f"{text}.")


def _expected(error: ErrorDetails) -> str | None:
    kind, context = error["type"], error.get("ctx", {})
    if kind in ("literal_error", "enum"):
        return str(context.get("expected", "another value")).replace("'", "")
    if kind in _BOUNDS:
        key, words = _BOUNDS[kind]
        return f"{words} {context.get(key)}"
    prefix = kind.partition("_")[0]
    return _EXPECTED.get(prefix) if kind.endswith(("_type", "_parsing", "_from_float", "_parsing_size")) else None


def _near(error: ErrorDetails) -> str:
    """The nearest of a fixed list of values."""
    options = re.findall(r"'([^']*)'", str(error.get("ctx", {}).get("expected", "")))
    near = nearest(error["input"], options) if isinstance(error["input"], str) else None
    return f" Did you mean '{near}'?" if near else ""


def _has(node: Any, key: Key) -> bool:
    if isinstance(node, dict):
        return key in node
    return isinstance(node, list) and isinstance(key, int) and key < len(node)


def _at(node: Any, path: Sequence[Key]) -> Any:
    for key in path:
        if _has(node, key):
            node = node[key]
    return node


def _visible(path: Path) -> str:
    """A path as people write it: without the sections that only the schema has."""
    text = ""
    for key in path:
        if isinstance(key, int):
            text += f"[{key}]"
        elif key not in ("params", "config"):
            text += f".{key}" if text else key
    return text


def _named(path: Path) -> str:
    return f"'{_visible(path)}'" if path else "the config"


def _in(path: Path) -> str:
    return f" in '{_visible(path)}'" if path else ""
