"""Text files: each line is a row with the one column `text`."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from olivine.data.sources._lines import lines
from olivine.data.sources._opened import PLAIN, Options
from olivine.errors import DataError


def read(path: Path, options: Options = PLAIN) -> Iterator[tuple[int, Mapping[str, Any] | DataError]]:
    """Each line without its ending; blank lines are rows too."""
    for number, line in lines(path, options.encoding):
        yield number, line if isinstance(line, DataError) else {"text": line.rstrip("\r\n")}
