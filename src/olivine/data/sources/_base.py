"""The contract of a source: it reads the rows of one kind of local file."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

from olivine.data.sources._opened import PLAIN, Options
from olivine.errors import DataError

Row = Mapping[str, Any]
Item = tuple[int, Row | DataError]


class FileSource(ABC):
    """Reads one kind of file; a config names it as `data_name`, and a suffix tells it in a folder.

    suffixes: those of such files, with the dot. needs_package: whether reading takes more than the standard library:
    then a plan looks no further than `columns` and `n_rows`. has_lines: whether the number of a row is its line.
    is_whole_file: whether a file is one row, which its folder says something of; only `data_name` tells such files.
    """

    name: ClassVar[str]
    aliases: ClassVar[tuple[str, ...]] = ()
    suffixes: ClassVar[tuple[str, ...]]
    needs_package: ClassVar[bool] = False
    has_lines: ClassVar[bool] = True
    is_whole_file: ClassVar[bool] = False

    @abstractmethod
    def read(self, path: Path, options: Options = PLAIN) -> Iterator[Item]:
        """The number of each row and the row, or a DataError without a place; it goes on where it can.

        The number is the row's line, from 1; below 0 its place in the file, where rows share a line.
        """

    def columns(self, path: Path) -> list[str] | None:  # noqa: ARG002
        """The columns, where the file tells them without its rows being read."""
        return None

    def n_rows(self, path: Path) -> int | None:  # noqa: ARG002
        """How many rows there are, where the file tells it without their being read."""
        return None
