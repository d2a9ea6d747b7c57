"""Where rows come from: one kind of local file a module.

A reader gives the number of each row (its line, from 1; see `place`) and the row, or a DataError without a place where
there should be one, and goes on after it where it can. JSON, CSV and text need only the standard library.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path

from olivine.data.sources._base import FileSource, Item, Row
from olivine.data.sources._opened import (
    PLAIN,
    Options,
    foreign,
    is_encoding,
    is_separator,
    near_encoding,
    other_encoding,
)
from olivine.errors import DataError
from olivine.registry import Registry

sources: Registry[FileSource] = Registry("olivine.data.sources", FileSource, group="olivine.data.sources")  # type: ignore[type-abstract]

_TEXTS = ("csv", "json", "text")

__all__ = [
    "PLAIN",
    "FileSource",
    "Item",
    "Options",
    "Row",
    "guessed_options",
    "is_encoding",
    "is_kind",
    "is_separator",
    "kinds",
    "near_encoding",
    "place",
    "read",
    "source_of",
    "sources",
]


def kinds() -> Mapping[str, tuple[str, ...]]:
    """Kinds of local files, as `data_name` says them, and the suffixes that tell them when it names a folder."""
    return {name: () if source.is_whole_file else source.suffixes for name, source in sources.classes.items()}


def is_kind(name: str) -> bool:
    """Whether files of a kind are called so, in this spelling; only what has the name is imported to know it."""
    return name in sources


def source_of(kind: str) -> FileSource:
    """What reads files of that kind, one of `kinds`."""
    return sources[kind]()


def read(path: Path, kind: str, options: Options) -> Iterator[Item]:
    """The rows of a file, or the one fault: of a file that no reader takes, or of options by which none can be read."""
    if options.encoding is not None and not is_encoding(options.encoding):
        yield 1, DataError(f"'encoding' is '{options.encoding}', which is not known")
        return
    if options.separator is not None and not is_separator(options.separator):
        yield 1, DataError(f"'sep' is {options.separator!r}, but must be one character")
        return
    if sources.is_own(kind) and (what := foreign(path, kind)) is not None:
        yield 1, DataError(what)
        return
    yield from source_of(kind).read(path, options)


def guessed_options(path: Path, kind: str) -> Options:
    """How a file seems to be written, as far as it is not UTF-8 with the separator that its suffix tells."""
    if kind not in _TEXTS:
        return PLAIN
    encoding = other_encoding(path)
    if kind != "csv":
        return Options(encoding=encoding)
    from olivine.data.sources.csv import other_separator

    return Options(other_separator(path, encoding), encoding)


def place(shown: str, kind: str, number: int) -> str:
    """Where a row stands, as messages say it: train.jsonl:37. A number below 0 counts rows that share a line."""
    is_line = number > 0 and sources[kind].has_lines
    return f"{shown}:{number}" if is_line else f"{shown}: row {abs(number)}"
