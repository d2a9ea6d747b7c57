"""Images in folders, each a row; the folder that one lies in names its class."""

from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

from olivine.data.sources._base import FileSource, Item
from olivine.data.sources._folder import LABEL, read_file
from olivine.data.sources._opened import PLAIN, Options


class ImageFolder(FileSource):
    """Images in folders: a row for each, with the columns `image` and `label`, the name of the folder it lies in."""

    suffixes: ClassVar[tuple[str, ...]] = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm")
    has_lines: ClassVar[bool] = False
    is_whole_file: ClassVar[bool] = True

    def read(self, path: Path, options: Options = PLAIN) -> Iterator[Item]:
        """See `read_file`."""
        return read_file(path, "image", options)

    def columns(self, path: Path) -> list[str] | None:  # noqa: ARG002
        """Those of every such file."""
        return ["image", LABEL]
