"""How values are written on the page."""

import difflib
import json
import re
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from markupsafe import Markup, escape

from olivine.workflow.columns import COLUMNS
from olivine.workflow.units import duration, in_unit, readable_bytes

MAX_TEXT = 400  # characters of a value in a table
_FORMS = {key: form for _, key, form in COLUMNS}  # a score is written on the page as in the table of the seams
_SHARES = ("accuracy", "f1", "precision", "recall", "drop")


def moment(seconds: float) -> str:
    """A time of day as a person reads it, in the zone of this machine."""
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))


def size(n_bytes: float | None) -> str:
    """Bytes, or a dash where they are not known."""
    return readable_bytes(n_bytes) if n_bytes else "—"


def plain(value: Any) -> str:
    """A value of a config or a trial in a line."""
    if isinstance(value, str):
        return value
    if isinstance(value, float):
        return f"{value:.4g}"
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= MAX_TEXT else f"{text[:MAX_TEXT]}…"


def pretty(value: Any) -> str:
    """A config as JSON to be read."""
    return json.dumps(value, indent=2, ensure_ascii=False, default=str)


def number(value: float | None, key: str = "") -> str:
    """A score by its name."""
    if value is None:
        return "—"
    if key.endswith("bytes"):
        return readable_bytes(value)
    if key.endswith("seconds"):
        return duration(value)
    return _FORMS.get(key, "{:.1%}" if key in _SHARES else "{:.4g}").format(value)


def words(name: str) -> str:
    """A key as words: label_accuracy is told as "label accuracy"."""
    return name.replace("_bytes", "").replace("_", " ")


def breakable(name: str) -> Markup:
    """A key or a path that a narrow table may break after its dots and low lines, rather than inside a word."""
    return Markup("").join(escape(part) + Markup("<wbr>") for part in re.split(r"(?<=[._/])", name))


def marked(text: str, expected: str) -> Markup:
    """An answer with the words marked that are not those of the expected one."""
    parts, others = _words(text), _words(expected)
    matcher = difflib.SequenceMatcher(None, others, parts, autojunk=False)
    pieces = []
    for kind, _, _, start, end in matcher.get_opcodes():
        piece = escape("".join(parts[start:end]))
        pieces.append(piece if kind == "equal" or not piece.strip() else Markup("<mark>{}</mark>").format(piece))
    return Markup("").join(pieces)


def _words(text: str) -> list[str]:
    return re.findall(r"\s+|[^\s\w]|\w+", text)


def flat(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Every leaf of a config by its path, as `--set` writes it."""
    if isinstance(value, Mapping) and value:
        for key, item in value.items():
            yield from flat(item, f"{name}.{key}" if name else str(key))
    elif isinstance(value, (list, tuple)) and any(isinstance(item, Mapping) for item in value):
        for place, item in enumerate(value):
            yield from flat(item, f"{name}.{place}")
    else:
        yield name, value


FILTERS: Mapping[str, Callable[..., Any]] = {
    "moment": moment,
    "duration": duration,
    "size": size,
    "plain": plain,
    "pretty": pretty,
    "number": number,
    "words": words,
    "breakable": breakable,
    "in_unit": in_unit,
}
