"""Where rows come from; one kind of file a module, and the hub.

A reader gives the number of each row (its line, from 1) and the row, or a DataError without a place where there should
be one, and goes on after it where it can. JSON, CSV and text need only the standard library.
"""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from olivine.data.sources import csv, json, parquet, text
from olivine.data.sources._opened import PLAIN, Options, foreign, is_encoding, is_separator
from olivine.errors import DataError

Row = Mapping[str, Any]
Item = tuple[int, Row | DataError]
Reader = Callable[[Path, Options], Iterator[Item]]

__all__ = ["NEEDS_NO_PACKAGE", "PLAIN", "READERS", "Item", "Options", "Row", "place", "read"]

READERS: Mapping[str, Reader] = {"json": json.read, "csv": csv.read, "parquet": parquet.read, "text": text.read}
NEEDS_NO_PACKAGE = frozenset({"json", "csv", "text"})


def read(path: Path, kind: str, options: Options) -> Iterator[Item]:
    """The rows of a file, or the one fault: of a file that no reader takes, or of options by which none can be read."""
    if options.encoding is not None and not is_encoding(options.encoding):
        yield 1, DataError(f"'encoding' is '{options.encoding}', which is not known")
        return
    if options.separator is not None and not is_separator(options.separator):
        yield 1, DataError(f"'sep' is {options.separator!r}, but must be one character")
        return
    if (what := foreign(path, kind)) is not None:
        yield 1, DataError(what)
        return
    yield from READERS[kind](path, options)


def place(shown: str, kind: str, number: int) -> str:
    """Where a row stands, as messages say it: train.jsonl:37."""
    return f"{shown}: row {number}" if kind == "parquet" else f"{shown}:{number}"
