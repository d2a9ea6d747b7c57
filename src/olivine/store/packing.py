"""Results without the places of a run, so that they hold wherever the entry and its input lie."""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

OUTPUT, INPUT = "${output}", "${input}"


def pack(value: Any, output: Path, record: Mapping[str, Any] | None) -> Any:
    """A result without the places of this run: `${output}` for the folder, `${input}` for the input model's record.

    `${input.base}` is the record of what the input model was made from, `${input/encoder}` that of a part of it, and so
    on.
    """
    return _pack(value, str(output), dict(_records("input", record)))


def _records(name: str, record: Mapping[str, Any] | None) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """A record and those in it, each by its placeholder."""
    if record is None:
        return
    yield "${" + name + "}", record
    yield from _records(f"{name}.base", record["base"])
    for part, inner in record.get("parts", {}).items():
        yield from _records(f"{name}/{part}", inner)


def _pack(value: Any, output: str, places: Mapping[str, Any]) -> Any:
    for placeholder, record in places.items():
        if value == record:
            return placeholder
    if isinstance(value, Mapping):
        return {key: _pack(item, output, places) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_pack(item, output, places) for item in value]
    if isinstance(value, str) and (value == output or value.startswith((f"{output}/", f"{output}{os.sep}"))):
        return OUTPUT + value[len(output) :].replace(os.sep, "/")
    return value


def unpack(value: Any, content: Path, record: Mapping[str, Any] | None) -> Any:
    """The inverse of `pack`, for the entry's folder and the input model of this run."""
    if isinstance(value, Mapping):
        return {key: unpack(item, content, record) for key, item in value.items()}
    if isinstance(value, list):
        return [unpack(item, content, record) for item in value]
    if isinstance(value, str) and value.startswith(OUTPUT):
        return str(content / value.removeprefix(OUTPUT).lstrip("/"))
    if isinstance(value, str) and value.startswith("${input") and value.endswith("}"):
        return dict(_records("input", record)).get(value)
    return value
