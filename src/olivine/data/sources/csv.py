"""CSV files with a header line; .tsv files are separated by tabs. Cells stay text, and an empty one is missing."""

import csv
from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar

from olivine.data.sources._base import FileSource, Item
from olivine.data.sources._lines import lines
from olivine.data.sources._opened import PLAIN, Options
from olivine.errors import DataError

_SEPARATORS = (";", "\t", "|", ",")
_N_OPENING = 50  # lines that header and first row have, at most
_CELL_LIMIT = 2**31 - 1  # characters; the module's own limit of 128 Ki is less than a long document


class Csv(FileSource):
    """CSV files with a header line; .tsv files are separated by tabs. Cells stay text, and an empty one is missing."""

    suffixes: ClassVar[tuple[str, ...]] = (".csv", ".tsv")

    def read(self, path: Path, options: Options = PLAIN) -> Iterator[Item]:
        """See `read`."""
        return read(path, options)


def read(path: Path, options: Options = PLAIN) -> Iterator[Item]:
    """Each record under the line that it begins on; a quoted cell may span lines."""
    csv.field_size_limit(_CELL_LIMIT)
    faults: list[DataError] = []
    separator = options.separator or _usual_separator(path)
    if options.separator is not None and (other := _wrongly_named(path, options)) is not None:
        yield 1, DataError(_told(other, separator))
        return
    reader = csv.reader(_texts(path, options, faults), delimiter=separator, strict=True)
    header: list[str] | None = None
    while True:
        number = reader.line_num + 1
        try:
            cells = next(reader, None)
        except csv.Error as error:
            yield reader.line_num, DataError(str(error))
            return
        if faults:
            yield reader.line_num, faults[0]
            return
        if cells is None:
            return
        if not cells:
            continue
        if header is None:
            header = cells
            if other := _other_separator(header, separator, options):
                yield number, DataError(_told(other, separator))
                return
            if twice := [name for name, count in Counter(header).items() if count > 1]:
                yield number, DataError(f"the header names the column '{twice[0]}' twice")
                return
            continue
        yield number, _row(header, cells)


def other_separator(path: Path, encoding: str | None = None) -> str | None:
    """What seems to stand between the columns of a file, where that is not what its suffix says."""
    first = next(_texts(path, Options(encoding=encoding), []), "")
    try:
        header = next(csv.reader([first], delimiter=_usual_separator(path), strict=True), [""])
    except csv.Error:
        return None
    return _other_separator(header, _usual_separator(path), PLAIN)


def _wrongly_named(path: Path, options: Options) -> str | None:
    """What parts header and first row into as many cells, where the separator that is named parts no header."""
    opening = list(islice(_texts(path, options, []), _N_OPENING))
    if options.separator is None or not opening or options.separator in opening[0]:
        return None
    for other in _SEPARATORS:
        rows = list(islice(csv.reader(opening, delimiter=other), 2))
        if len(rows) == 2 and len(rows[0]) == len(rows[1]) > 1 and all(rows[0]):
            return other
    return None


def _told(other: str, separator: str) -> str:
    return (
        f"the separator of the columns is {other!r} and not {separator!r}; write sep: {other!r} in load_dataset_config"
    )


def _usual_separator(path: Path) -> str:
    return "\t" if path.suffix.lower() == ".tsv" else ","


def _row(header: list[str], cells: list[str]) -> Mapping[str, Any] | DataError:
    if len(cells) != len(header):
        return DataError(f"the row has {len(cells)} cells, but the header names {len(header)} columns")
    return {name: cell or None for name, cell in zip(header, cells, strict=True)}


def _other_separator(header: list[str], separator: str, options: Options) -> str | None:
    """What seems to stand between the columns of a header that is one cell, where the config does not say it."""
    if len(header) > 1 or options.separator is not None:
        return None
    return next((other for other in _SEPARATORS if other != separator and other in header[0]), None)


def _texts(path: Path, options: Options, faults: list[DataError]) -> Iterator[str]:
    """The lines for the parser, up to one that is not UTF-8, which is put into `faults`."""
    for _, line in lines(path, options.encoding):
        if isinstance(line, DataError):
            faults.append(line)
            yield ""
            return
        yield line
