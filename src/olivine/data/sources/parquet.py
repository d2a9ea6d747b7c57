"""Parquet files. Rows have no line: messages count them from 1."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from olivine import lazy
from olivine.data import parquet_footer
from olivine.data.sources._base import FileSource, Item
from olivine.data.sources._opened import PLAIN, Options
from olivine.errors import DataError

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq
else:
    pa, pq = lazy.module("pyarrow"), lazy.module("pyarrow.parquet")


class Parquet(FileSource):
    """Parquet files. Rows have no line: messages count them from 1."""

    suffixes: ClassVar[tuple[str, ...]] = (".parquet",)
    needs_package: ClassVar[bool] = True
    has_lines: ClassVar[bool] = False

    def read(self, path: Path, options: Options = PLAIN) -> Iterator[Item]:
        """See `read`."""
        return read(path, options)

    def columns(self, path: Path) -> list[str]:
        """Those of the footer."""
        return list(parquet_footer.read(path).columns)

    def n_rows(self, path: Path) -> int:
        """As many as the footer says."""
        return parquet_footer.read(path).n_rows


def read(path: Path, options: Options = PLAIN) -> Iterator[Item]:  # noqa: ARG001 - it says itself how it is read
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
