"""Text files: each line is a row with the one column `text`."""

from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

from olivine.data.sources._base import FileSource, Item
from olivine.data.sources._lines import lines
from olivine.data.sources._opened import PLAIN, Options
from olivine.errors import DataError


class Text(FileSource):
    """Text files: each line is a row with the one column `text`."""

    suffixes: ClassVar[tuple[str, ...]] = (".txt",)

    def read(self, path: Path, options: Options = PLAIN) -> Iterator[Item]:
        """See `read`."""
        return read(path, options)


def read(path: Path, options: Options = PLAIN) -> Iterator[Item]:
    """Each line without its ending; blank lines are rows too."""
    for number, line in lines(path, options.encoding):
        yield number, line if isinstance(line, DataError) else {"text": line.rstrip("\r\n")}
