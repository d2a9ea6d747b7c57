"""Sounds in folders, each a row; the folder that one lies in names its class."""

from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

from olivine.data.sources._base import FileSource, Item
from olivine.data.sources._folder import LABEL, read_file
from olivine.data.sources._opened import PLAIN, Options


class AudioFolder(FileSource):
    """Sounds in folders: a row for each, with the columns `audio` and `label`, the name of the folder it lies in."""

    suffixes: ClassVar[tuple[str, ...]] = (".wav", ".flac", ".mp3", ".ogg", ".opus", ".m4a")
    has_lines: ClassVar[bool] = False
    is_whole_file: ClassVar[bool] = True

    def read(self, path: Path, options: Options = PLAIN) -> Iterator[Item]:
        """See `read_file`."""
        return read_file(path, "audio", options)

    def columns(self, path: Path) -> list[str] | None:  # noqa: ARG002
        """Those of every such file."""
        return ["audio", LABEL]
