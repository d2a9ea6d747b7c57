"""Parquet files. Rows have no line: messages count them from 1."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from olivine import lazy
from olivine.data.sources._opened import PLAIN, Options
from olivine.errors import DataError

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq
else:
    pa, pq = lazy.module("pyarrow"), lazy.module("pyarrow.parquet")


def read(path: Path, options: Options = PLAIN) -> Iterator[tuple[int, Mapping[str, Any] | DataError]]:  # noqa: ARG001 - it says itself how it is read
    """Each row with its number from 1, read a batch at a time."""
    number = 0
    try:
        for batch in pq.ParquetFile(path).iter_batches():
            for row in batch.to_pylist():
                number += 1
                yield number, row
    except (pa.lib.ArrowException, OSError, ValueError, OverflowError) as error:
        reason = str(error).partition("\n")[0]
        yield number + 1, DataError(f"not a Parquet file that can be read: {reason}")
