"""Files that rows name: sounds and images, by their paths in a column. Standard library alone."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from olivine.config.schema import DataConfig
from olivine.data._files import DataFile, data_files, locate
from olivine.data.sources import Row, source_of
from olivine.errors import DataError
from olivine.paths import could_be, is_file


def named_file(config: DataConfig, name: str) -> Path | None:
    """The file that a row calls so: from the folder of the config, or from that of the file in which the row stands."""
    if could_be(name) and Path(name).is_absolute():
        return _find(name, [Path()])
    return _find(name, _folders(config))


def named_files(config: DataConfig) -> list[Path]:
    """All files that local rows name, in the order of their names; of columns that name one in their first row."""
    local = locate(config)
    folders, read = _folders(config), set(data_files(config))
    files = [file for split in (local.splits.values() if local is not None else ()) for file in split]
    named = {path for file in files if file.path in read for path in _of_file(file, folders)}
    return sorted(named)


def _of_file(file: DataFile, folders: list[Path]) -> Iterator[Path]:
    source = source_of(file.kind)
    if source.needs_package or source.is_whole_file:
        return
    rows = (row for _, row in file.rows() if not isinstance(row, DataError))
    first: Row = next(rows, {})
    columns = [column for column, value in first.items() if _find(_name(value), folders) is not None]
    if not columns:
        return
    for row in (first, *rows):
        for column in columns:
            if (path := _find(_name(row.get(column)), folders)) is not None:
                yield path


def _name(value: Any) -> str:
    """What a cell may have as the name of a file; empty for any other."""
    if isinstance(value, Mapping) and value.get("bytes") is None and value.get("array") is None:
        value = value.get("path")
    return value if isinstance(value, str) else ""


def _folders(config: DataConfig) -> list[Path]:
    return list(dict.fromkeys([Path(config.folder or ".").absolute(), *(file.parent for file in data_files(config))]))


def _find(name: str, folders: list[Path]) -> Path | None:
    """A name with a suffix, as files of sounds and images have one: a word of a text is hardly that of a file."""
    if not name or len(name) > 1024 or "\n" in name or not could_be(name) or not Path(name).suffix:
        return None
    return next((path for folder in folders if is_file(path := folder / name)), None)
