"""Lines of a UTF-8 file, each with its number."""

import codecs
from collections.abc import Iterator
from pathlib import Path

from olivine.data.sources._opened import guessed, opened
from olivine.errors import DataError


def lines(path: Path, encoding: str | None = None) -> Iterator[tuple[int, str | DataError]]:
    """Each line with its ending, numbered from 1; a byte order mark is no part of it.

    A line that is not UTF-8 gives a DataError in its place.
    """
    with opened(path, encoding) as file:
        for number, raw in enumerate(file, 1):
            yield number, decoded(raw.removeprefix(codecs.BOM_UTF8) if number == 1 else raw, path)


def decoded(raw: bytes, path: Path) -> str | DataError:
    """The text of UTF-8 bytes of a file, or what is wrong with them."""
    try:
        text = raw.decode()
    except UnicodeDecodeError as error:
        return not_utf_8(error, path)
    if "\0" in text and (encoding := guessed(path)) is not None and encoding.startswith("utf-16"):
        return DataError(f"it looks like {encoding}: write encoding: {encoding} in load_dataset_config")
    return text


def not_utf_8(error: UnicodeDecodeError, path: Path) -> DataError:
    """What is wrong with the bytes of a file, and what to do."""
    encoding = guessed(path)
    fix = f"it looks like {encoding}: write encoding: {encoding} in load_dataset_config, or " if encoding else ""
    return DataError(f"byte 0x{error.object[error.start]:02x} is not UTF-8; {fix}save the file as UTF-8")
