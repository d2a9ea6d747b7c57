"""Where rows come from; one kind of file a module, and the hub.

A reader gives the number of each row (its line, from 1) and the row, or a DataError without a place where there should
be one, and goes on after it where it can. JSON, CSV and text need only the standard library.
"""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from olivine.data.sources import csv, json, parquet, text
from olivine.errors import DataError

Row = Mapping[str, Any]
Reader = Callable[[Path], Iterator[tuple[int, Row | DataError]]]

READERS: Mapping[str, Reader] = {"json": json.read, "csv": csv.read, "parquet": parquet.read, "text": text.read}
NEEDS_NO_PACKAGE = frozenset({"json", "csv", "text"})


def place(shown: str, kind: str, number: int) -> str:
    """Where a row stands, as messages say it: train.jsonl:37."""
    return f"{shown}: row {number}" if kind == "parquet" else f"{shown}:{number}"
