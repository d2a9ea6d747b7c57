"""Folders of sounds or images: each file is a row, and the folder that it lies in names its class."""

from collections.abc import Iterator
from pathlib import Path

from olivine.data.sources._base import Item
from olivine.data.sources._opened import Options
from olivine.errors import DataError

LABEL = "label"
_BESIDE = ("metadata.jsonl", "metadata.csv", "metadata.parquet")


def read_file(path: Path, column: str, options: Options) -> Iterator[Item]:
    """The one row of a file: its path, and the name of its folder where that lies in the folder that was named.

    A file of the columns of all rows beside it, as `datasets` knows it, is a fault: the rows are there, not in names.
    """
    folders = {path.parent, options.folder or path.parent}
    if beside := next((name for name in _BESIDE for folder in folders if (folder / name).is_file()), None):
        kind = {"jsonl": "json"}.get(beside.partition(".")[2], beside.partition(".")[2])
        yield (
            1,
            DataError(
                f"beside it lies {beside}, which holds the rows: write data_name: {kind} with that file as data_files, "
                "and its column file_name as input_cols"
            ),
        )
        return
    told = {} if options.folder is None or path.parent == options.folder else {LABEL: path.parent.name}
    yield 1, {column: str(path), **told}
