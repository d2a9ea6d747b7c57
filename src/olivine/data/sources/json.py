"""JSON files: an object a line, one array of objects, or one object that holds the array under `data`."""

import codecs
import json
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from olivine.data.sources._lines import decoded, lines
from olivine.errors import DataError

_DECODER = json.JSONDecoder()
_SPACE = " \t\r\n"
Item = tuple[int, Mapping[str, Any] | DataError]


def read(path: Path) -> Iterator[Item]:
    """Each object under the line that it begins on.

    A file whose first line is a whole JSON value is read line by line; any other as one document.
    """
    head = list(islice((line for _, line in lines(path) if isinstance(line, DataError) or line.strip()), 2))
    if not head:
        return
    is_document = not isinstance(head[0], DataError) and _is_document(head[0], is_only=len(head) == 1)
    yield from _document(path) if is_document else _json_lines(path)


def _is_document(first_line: str, *, is_only: bool) -> bool:
    if first_line.lstrip().startswith("["):
        return True
    value = _parsed(first_line)
    if isinstance(value, DataError):
        return True
    return is_only and isinstance(value, dict) and _is_table(value.get("data"))


def _is_table(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(row, dict) for row in value)


def _json_lines(path: Path) -> Iterator[Item]:
    for number, line in lines(path):
        if isinstance(line, DataError):
            yield number, line
        elif line.strip():
            yield number, _row(_parsed(line))


def _parsed(line: str) -> Any:
    """The value of a line, or what is wrong with it."""
    try:
        return json.loads(line)
    except json.JSONDecodeError as error:
        return DataError(f"not JSON: {error.msg} at column {error.colno}")
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, thousands of nested lists
        return DataError(f"not JSON that can be read: {error}")


def _row(value: Any) -> Mapping[str, Any] | DataError:
    if isinstance(value, DataError | dict):
        return value
    return DataError(f"a row must be an object of columns, but this is {json.dumps(value)[:40]}")


def _document(path: Path) -> Iterator[Item]:
    text = decoded(path.read_bytes().removeprefix(codecs.BOM_UTF8))
    if isinstance(text, DataError):
        yield from ((number, line) for number, line in lines(path) if isinstance(line, DataError))
        return
    try:
        start = _start_of_rows(text)
        yield from _elements(text, start)
    except json.JSONDecodeError as error:
        yield error.lineno, DataError(f"not JSON: {error.msg} at column {error.colno}")
    except (ValueError, RecursionError) as error:
        yield 1, DataError(f"not JSON that can be read: {error}")


def _start_of_rows(text: str) -> int:
    """Where the array of rows begins."""
    start = _skip(text, 0)
    if text[start] == "[":
        return start
    value = json.loads(text)
    if not isinstance(value, dict) or not isinstance(value.get("data"), list):
        raise json.JSONDecodeError("expected an object a line, an array of objects, or {'data': [...]}", text, start)
    return _start_of_value(text, start, "data")


def _start_of_value(text: str, start: int, wanted: str) -> int:
    """Where the value of a key begins, in an object that is known to be well formed and to have the key."""
    at, found = start + 1, start
    while text[at := _skip(text, at)] != "}":
        key, at = _DECODER.raw_decode(text, at)
        at = _skip(text, _skip(text, at) + 1)
        if key == wanted:
            found = at  # of a key that stands twice, the last one counts, as for json.loads
        _, at = _DECODER.raw_decode(text, at)
        at = _skip(text, at)
        at += text[at] == ","
    return found


def _elements(text: str, start: int) -> Iterator[Item]:
    """The values of the array that begins at `start`, and nothing after the document that the array is."""
    number, counted = 1, 0
    at = _skip(text, start + 1)
    while text[at : at + 1] != "]":
        number += text.count("\n", counted, at)
        counted = at
        value, at = _DECODER.raw_decode(text, at)
        yield number, {"text": value} if isinstance(value, str) else _row(value)
        at = _next(text, at)
    end = _skip(text, at + 1)
    is_whole = not text[:start].strip()
    if is_whole and end < len(text):
        raise json.JSONDecodeError("Extra data after the array", text, end)


def _next(text: str, at: int) -> int:
    """Where the next element begins, or the bracket that ends the array."""
    at = _skip(text, at)
    if text[at : at + 1] == "]":
        return at
    if text[at : at + 1] != ",":
        raise json.JSONDecodeError("Expecting ',' or ']' after a row", text, at)
    after = _skip(text, at + 1)
    if text[after : after + 1] == "]":
        raise json.JSONDecodeError("Illegal trailing comma before the end of the array", text, at)
    return after


def _skip(text: str, at: int) -> int:
    while at < len(text) and text[at] in _SPACE:
        at += 1
    return at
