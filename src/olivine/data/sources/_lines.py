"""Lines of a UTF-8 file, each with its number."""

import codecs
from collections.abc import Iterator
from pathlib import Path

from olivine.errors import DataError


def lines(path: Path) -> Iterator[tuple[int, str | DataError]]:
    """Each line with its ending, numbered from 1; a byte order mark is no part of it.

    A line that is not UTF-8 gives a DataError in its place.
    """
    with path.open("rb") as file:
        for number, raw in enumerate(file, 1):
            yield number, decoded(raw.removeprefix(codecs.BOM_UTF8) if number == 1 else raw)


def decoded(raw: bytes) -> str | DataError:
    """The text of UTF-8 bytes, or what is wrong with them."""
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        return not_utf_8(error)


def not_utf_8(error: UnicodeDecodeError) -> DataError:
    """What is wrong with the bytes, and what to do."""
    return DataError(f"byte 0x{error.object[error.start]:02x} is not UTF-8; save the file as UTF-8")
