"""The rows of a data config, each of which knows where it stands."""

from array import array
from collections.abc import Callable, Iterator, Sequence
from typing import Any, overload

from olivine.config.schema import DataConfig
from olivine.data import hub
from olivine.data._files import DataFile, Local, locate, nearest
from olivine.data._split import Slice, slices
from olivine.data.sources import Row, place
from olivine.errors import DataError

_N_SHOWN = 200  # characters of a name in a message


class Rows(Sequence[Row]):
    """A sequence of rows (column -> value) in the order of the data set.

    records: the rows; anything with a length and items by index. where: the place of a row by its index.
    """

    def __init__(self, records: Any, where: Callable[[int], str]) -> None:
        self._records, self._where = records, where

    def __len__(self) -> int:
        return len(self._records)

    @overload
    def __getitem__(self, index: int) -> Row: ...
    @overload
    def __getitem__(self, index: slice) -> "Rows": ...
    def __getitem__(self, index: int | slice) -> "Row | Rows":
        if isinstance(index, slice):
            return self.take(range(len(self))[index])
        row: Row = self._records[range(len(self))[index]]
        return row

    def __iter__(self) -> Iterator[Row]:
        return iter(self._records)

    def where(self, index: int) -> str:
        """Where the row stands: "train.jsonl:37"."""
        return self._where(index)

    def take(self, indices: Sequence[int]) -> "Rows":
        """The rows at these indices, in their order; they keep their places."""
        return Rows([self._records[index] for index in indices], lambda index: self._where(indices[index]))

    def columns(self) -> list[str]:
        """Every column that some row has, in the order of appearance."""
        named = getattr(self._records, "column_names", None)
        if named is not None:
            return list(named)
        return list(dict.fromkeys(column for row in self._records for column in row))


def read_rows(config: DataConfig) -> Rows:
    """Every row of the split that the config names.

    Local files are read without leaving anything in a cache of the user; data sets of the hub go through `datasets`.
    Raises DataError with file and line for the first row that cannot be read, and when there is no row at all.
    """
    local = locate(config)
    if local is None:
        load = config.load_dataset_config
        rows = Rows(remote(config), lambda index: f"{load.data_name}: row {index + 1}")
    else:
        rows = _read_local(config, local)
    if not len(rows):
        raise DataError(f"{where_of(config, local)}: the data set has no rows")
    return rows


def remote(config: DataConfig) -> Any:
    """The rows of data that is not here. DataError when they are no longer those that the run began with."""
    rows = hub.load(config.load_dataset_config)
    if config.content and hub.content(rows) != config.content:
        name = config.load_dataset_config.data_name
        raise DataError(f"the rows of '{name}' have changed since the run began; run it again")
    return rows


def where_of(config: DataConfig, local: Local | None) -> str:
    """The file that a message about a whole data set names, or the data set itself."""
    if local is not None:
        for part in slices(config.load_dataset_config.split):
            for file in local.splits.get(part.name, []):
                return file.shown
    return f"data config '{config.name}'"


def missing_file(local: Local, name: str) -> tuple[str, str]:
    """What to say of a name that no file has, and the fix."""
    shown = name if len(name) <= _N_SHOWN else f"{name[:_N_SHOWN]}..."
    looked = " and ".join(dict.fromkeys(str(folder) for folder in local.folders))
    if why := local.refused.get(name):
        return f"{why}.", ""
    close = nearest(local, name)
    return f"there is no data file '{shown}' (looked in {looked}).", f"Did you mean '{close}'?" if close else ""


def missing_split(local: Local, part: Slice) -> tuple[str, str]:
    """What to say of a split that the files do not make, and the fix."""
    there = ", ".join(local.splits) or "none"
    fix = f"Set split to {next(iter(local.splits))}." if local.splits else "Name the files as data_files."
    return f"the files have no split '{part.name}'; there is: {there}.", fix


def parts_of(config: DataConfig, local: Local) -> list[tuple[Slice, list[DataFile]]]:
    """The slices that the config names, each with the files of its split. DataError for one that is not there."""
    if local.missing:
        raise DataError(" ".join(missing_file(local, local.missing[0])).rstrip())
    parts = slices(config.load_dataset_config.split)
    for part in parts:
        if part.name not in local.splits:
            raise DataError(f"data config '{config.name}': {' '.join(missing_split(local, part))}")
    return [(part, local.splits[part.name]) for part in parts]


def rows_of(files: Sequence[DataFile]) -> Iterator[tuple[int, int, Row]]:
    """The rows of the files in turn: which file, the row's number there, the row. DataError for one that is no row."""
    for index, file in enumerate(files):
        try:
            for number, row in file.rows():
                if isinstance(row, DataError):
                    raise DataError(f"{place(file.shown, file.kind, number)}: {row}")
                yield index, number, row
        except OSError as error:
            raise DataError(f"{file.shown}: the file cannot be read: {error.strerror or error}") from error


def _read_local(config: DataConfig, local: Local) -> Rows:
    parts = parts_of(config, local)
    read = {part.name: _read_files(files) for part, files in parts}
    if [part for part, _ in parts] == [Slice(parts[0][0].name)]:
        return read[parts[0][0].name]
    return _joined([read[part.name].take(part.indices(len(read[part.name]))) for part, _ in parts])


def _read_files(files: Sequence[DataFile]) -> Rows:
    records: list[Row] = []
    numbers, owners = array("q"), array("q")
    for index, number, row in rows_of(files):
        records.append(row)
        numbers.append(number)
        owners.append(index)

    def where(index: int) -> str:
        file = files[owners[index]]
        return place(file.shown, file.kind, numbers[index])

    return Rows(records, where)


def _joined(parts: Sequence[Rows]) -> Rows:
    members = [(part, index) for part in parts for index in range(len(part))]
    return Rows([part[index] for part, index in members], lambda index: members[index][0].where(members[index][1]))
