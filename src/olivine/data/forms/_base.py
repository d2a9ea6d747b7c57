"""What every form of text offers."""

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

from olivine.errors import DataError


class Parts(NamedTuple):
    """The text of a row cut where the model is to go on: prompt + target is the whole text.

    label: what is to be named, bare.
    """

    prompt: str
    target: str
    label: str


class Form(Protocol):
    """Turns rows into text. Raises DataError, without a place, for a row that does not fit."""

    @property
    def key(self) -> str:
        """The key of the config that names the columns."""

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that every row must have."""

    @property
    def target(self) -> str:
        """The column that the text ends with."""

    def check(self, row: Mapping[str, Any]) -> None:
        """Raise DataError when the row does not fit."""

    def text(self, row: Mapping[str, Any]) -> str:
        """The whole text of the row."""

    def parts(self, row: Mapping[str, Any], target: str | None = None) -> Parts:
        """The text cut before the column `target`, or before the one that the form ends with."""


def value_of(row: Mapping[str, Any], column: str) -> Any:
    """The value of a column, for a text. Raises DataError when it is missing or has no plain text."""
    if column not in row:
        raise DataError(f"the row has no column '{column}'; its columns are: {', '.join(map(str, row)) or 'none'}")
    value = row[column]
    if value is None or value != value:  # noqa: PLR0124 - NaN, which tables use for a missing number
        raise DataError(f"the column '{column}' is empty")
    if isinstance(value, (list, tuple, dict, bytes)):
        raise DataError(f"the column '{column}' holds a {type(value).__name__}, which has no plain text")
    return value


def encodable(text: str) -> str:
    """The same text. Raises DataError when it holds half of a surrogate pair, which no tokenizer takes."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise DataError(f"the text holds half of a surrogate pair (\\u{ord(text[error.start]):04x})") from None
    return text
