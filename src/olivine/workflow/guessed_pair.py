"""Which columns ask and answer where their names do not tell: guessed by the cells of the first rows."""

from collections.abc import Mapping, Sequence
from typing import Any

_FEW = 4  # words of a label at most
_LONG = 12  # letters of a cell from which it is prose in a script that puts no blanks between words


def guessed_pair(rows: Sequence[Mapping[str, Any]]) -> tuple[str, ...] | None:
    """The column that asks, the one that answers, and others that could; None where the cells leave it open.

    Of two columns the first asks. Of more, the first whose cells are prose asks; the next one of prose answers, and
    where there is none, the last whose cells are few words that come again: a label. Numbers, addresses and words that
    differ in each row are names of rows, which nothing should learn.
    """
    names = [str(name) for name in dict.fromkeys(name for row in rows for name in row)]
    if len(names) == 2:
        return names[0], names[1]
    columns = {name: _filled([row.get(name) for row in rows]) for name in names}
    prose = [name for name, cells in columns.items() if _is_prose(cells)]
    answers = [*prose[1:2], *reversed([name for name, cells in columns.items() if _is_label(cells)])]
    return (prose[0], *answers) if prose and answers else None


def _filled(cells: Sequence[Any]) -> list[Any]:
    """The cells that hold something; none of them where that is less than half."""
    filled = [cell for cell in cells if cell is not None and str(cell).strip()]
    return filled if len(filled) * 2 >= len(cells) else []


def _is_prose(cells: Sequence[Any]) -> bool:
    """Whether most cells are several words, and they are no label."""
    n_texts = sum(isinstance(cell, str) and _has_words(cell.strip()) for cell in cells)
    return n_texts * 2 > len(cells) and not _is_label(cells)


def _has_words(text: str) -> bool:
    """Whether it is more than one word; a date with its time is none."""
    letters = sum(character.isalpha() for character in text)
    if " " in text:
        return letters * 2 > len(text)
    return not text.isascii() and letters >= _LONG


def _is_label(cells: Sequence[Any]) -> bool:
    """Whether each cell is a few words, and half of them have come before."""
    texts = [cell.strip() for cell in cells if isinstance(cell, str)]
    is_short = all(len(text.split()) <= _FEW and any(map(str.isalpha, text)) for text in texts)
    return bool(texts) and len(texts) == len(cells) and is_short and len(set(texts)) * 2 <= len(texts)
