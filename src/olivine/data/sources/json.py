"""JSON files: an object a line, one array of objects, or one object that holds the array under `data`."""

import codecs
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

from olivine.data.json_text import StandsTwiceError, loads
from olivine.data.sources._base import FileSource, Item
from olivine.data.sources._json_cursor import Cursor, Fault
from olivine.data.sources._lines import decoded, lines
from olivine.data.sources._opened import PLAIN, Options, opened
from olivine.errors import DataError

_LINE = 2**20  # bytes: a first line that is longer is not read whole to tell what the file is
_FORMS = "expected an object a line, an array of objects, or {'data': [...]}"


class Json(FileSource):
    """JSON files: an object a line, one array of objects, or one object that holds the array under `data`."""

    suffixes: ClassVar[tuple[str, ...]] = (".json", ".jsonl", ".ndjson")

    def read(self, path: Path, options: Options = PLAIN) -> Iterator[Item]:
        """See `read`."""
        return read(path, options)


def read(path: Path, options: Options = PLAIN) -> Iterator[Item]:
    """Each object under the line that it begins on; a piece of the file is in memory, however large it is.

    A file whose first line is a whole JSON value is read line by line; any other as one document.
    """
    yield from (_document if _is_document(path, options.encoding) else _json_lines)(path, options.encoding)


def _is_document(path: Path, encoding: str | None) -> bool:
    with opened(path, encoding) as file:
        pieces = (piece.removeprefix(codecs.BOM_UTF8) for piece in iter(lambda: file.readline(_LINE), b""))
        first = next((piece for piece in pieces if piece.strip()), b"")
        if first.lstrip().startswith(b"["):
            return True
        last = first
        while last and not last.endswith(b"\n"):
            last = next(pieces, b"")
        is_only = not any(piece.strip() for piece in pieces)
    if len(first) >= _LINE:
        return is_only and _begins_a_table(path, encoding)
    text = decoded(first, path)
    if isinstance(text, DataError) or not text.strip():
        return False
    try:
        value = loads(text)
    except StandsTwiceError:
        return is_only and _begins_a_table(path, encoding)
    except (ValueError, RecursionError):
        return True
    return is_only and isinstance(value, dict) and _is_table(value.get("data"))


def _begins_a_table(path: Path, encoding: str | None) -> bool:
    """Whether the file is an object whose `data` begins as an array of objects: one line, too long to look at whole."""
    with opened(path, encoding) as file:
        cursor = Cursor(file, path)
        try:
            for key in _keys(cursor) if cursor.peek() == "{" else ():
                if key != "data":
                    cursor.value()
                elif cursor.peek() != "[":
                    return False
                else:
                    cursor.step()
                    return cursor.peek() in ("{", "]")
        except Fault:
            pass  # the lines say what is wrong
    return False


def _is_table(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(row, dict) for row in value)


def _json_lines(path: Path, encoding: str | None) -> Iterator[Item]:
    for number, line in lines(path, encoding):
        if isinstance(line, DataError):
            yield number, line
        elif line.strip():
            yield number, _row(_parsed(line))


def _parsed(line: str) -> Any:
    """The value of a line, or what is wrong with it."""
    try:
        return loads(line)
    except RecursionError as error:  # thousands of nested lists
        return DataError(f"not JSON that can be read: {error}")
    except ValueError as error:
        return DataError(str(error))


def _row(value: Any) -> Mapping[str, Any] | DataError:
    if isinstance(value, DataError | dict):
        return value
    return DataError(f"a row must be an object of columns, but this is {json.dumps(value)[:40]}")


def _document(path: Path, encoding: str | None) -> Iterator[Item]:
    with opened(path, encoding) as file:
        try:
            yield from _rows(Cursor(file, path))
        except Fault as fault:
            yield fault.line, fault.error


def _rows(cursor: Cursor) -> Iterator[Item]:
    """The rows of the document, and nothing after it."""
    if cursor.peek() == "[":
        yield from _elements(cursor)
    elif cursor.peek() == "{":
        yield from _rows_of_table(cursor)
    else:
        cursor.value()
        raise cursor.fault(_FORMS)
    if cursor.peek():
        raise cursor.fault("Extra data after the document")


def _rows_of_table(cursor: Cursor) -> Iterator[Item]:
    """The elements of the array under `data`; other keys are gone through."""
    has_rows = False
    for key in _keys(cursor):
        if key != "data":
            cursor.value()
            continue
        if cursor.peek() != "[":
            raise cursor.fault(_FORMS)
        if has_rows:
            raise cursor.fault("the key 'data' stands there twice")
        has_rows = True
        yield from _elements(cursor)
    if not has_rows:
        raise Fault(1, DataError(f"not JSON that holds rows: {_FORMS}"))


def _keys(cursor: Cursor) -> Iterator[str]:
    """The keys of an object, each when the cursor stands before its value; who asks for the next has read the value."""
    cursor.step()
    while cursor.peek() != "}":
        if cursor.peek() != '"':
            raise cursor.fault("Expecting property name enclosed in double quotes")
        key = cursor.value()
        if cursor.peek() != ":":
            raise cursor.fault("Expecting ':' delimiter")
        cursor.step()
        yield key
        _go_on(cursor, "}")
    cursor.step()


def _elements(cursor: Cursor) -> Iterator[Item]:
    """The values of the array that begins here.

    Each has the number of its line. Where two begin on one line, that tells neither: they are counted, see `place`.
    """
    waiting: list[tuple[int, Any]] = []
    n_rows, before = 0, 0  # given so far, and the line of the last of them

    def given(after: int) -> Iterator[Item]:
        nonlocal n_rows, before
        for line, value in waiting:
            n_rows += 1
            row = {"text": value} if isinstance(value, str) else _row(value)
            yield (-n_rows if line in (before, after) else line), row
            before = line

    try:
        for line, value in _values(cursor):
            yield from given(line)
            waiting = [(line, value)]
    except Fault:
        yield from given(0)
        raise
    yield from given(0)


def _values(cursor: Cursor) -> Iterator[tuple[int, Any]]:
    """Each value of the array with its line; the cursor then stands behind the array."""
    cursor.step()
    while cursor.peek() != "]":
        line = cursor.line()
        yield line, cursor.value()
        _go_on(cursor, "]")
    cursor.step()


def _go_on(cursor: Cursor, end: str) -> None:
    """Past the comma to what comes next, or to the bracket that ends it all."""
    found, line = cursor.peek(), cursor.line()
    if found == end:
        return
    if found != ",":
        raise cursor.fault(f"Expecting ',' or '{end}'")
    cursor.step()
    if cursor.peek() == end:
        raise Fault(line, DataError(f"not JSON: a comma stands before the closing '{end}'"))
