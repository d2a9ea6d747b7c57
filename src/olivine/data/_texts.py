"""Rows to text: for training as one, for scoring cut where the target begins."""

import difflib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Self, TypeVar

from olivine.config.schema import DataConfig
from olivine.data._rows import Rows
from olivine.data.forms import Form, form_of
from olivine.errors import DataError

Result = TypeVar("Result")


class Text(str):
    """The text of a row; its first `border` characters are the prompt of a pair."""

    __slots__ = ("border",)
    border: int

    def __new__(cls, text: str, border: int = 0) -> Self:
        """The text with its border."""
        self = super().__new__(cls, text)
        self.border = border
        return self


@dataclass(frozen=True)
class Example:
    """A row to score: `prompt` + `target` is the whole text, without begin and end tokens.

    target: the column's value and what the template writes after it. label: the value alone. where: "train.jsonl:37".
    """

    prompt: str
    target: str
    label: str
    where: str


def texts(config: DataConfig, rows: Rows, tokenizer: Any) -> list[str]:
    """The text of each row, without begin and end tokens; with strategy `pair` a `Text` with its border.

    Raises DataError with file, line and column for a row that does not fit.
    """
    settings = config.pre_process_data_config
    form = _form(config, tokenizer)
    if settings.strategy != "pair":
        return list(_each(config, rows, form, form.text))
    pairs = _each(config, rows, form, form.parts)
    return [Text(prompt + target, len(prompt)) for prompt, target, _ in pairs]


def examples(config: DataConfig, rows: Rows, tokenizer: Any, target: str | None = None) -> list[Example]:
    """Each row cut before the column `target`, which without a name is the one that the text ends with.

    Raises DataError as `texts` does, and when the text does not hold the target column.
    """
    form = _form(config, tokenizer)
    if target is not None and target not in form.columns:
        close = difflib.get_close_matches(target, form.columns, n=1)
        hint = f"; did you mean '{close[0]}'?" if close else ""
        raise DataError(
            f"data config '{config.name}': the target column '{target}' is not in '{form.key}', which names: "
            f"{', '.join(form.columns)}{hint}"
        )
    cut = _each(config, rows, form, lambda row: form.parts(row, target))
    return [Example(*parts, rows.where(index)) for index, parts in enumerate(cut)]


def target_column(config: DataConfig) -> str:
    """The column that the text ends with; `messages` for a chat, whose target is the last turn of the assistant."""
    return _form(config, None).target


def columns(config: DataConfig) -> tuple[str, ...]:
    """The columns that the text is made of. Raises DataError as `target_column` does."""
    return tuple(_form(config, None).columns)


def missing_column(form: Form, column: str, there: list[str]) -> tuple[str, str]:
    """What to say when the data does not have a column that the form needs, and the fix."""
    close = difflib.get_close_matches(column, there, n=1)
    message = f"'{form.key}' needs the column '{column}', which the data does not have; its columns are: "
    return f"{message}{', '.join(there)}.", f"Did you mean '{close[0]}'?" if close else ""


def _form(config: DataConfig, tokenizer: Any) -> Form:
    try:
        return form_of(config.pre_process_data_config, tokenizer)
    except DataError as error:
        raise DataError(f"data config '{config.name}': {error}") from None


def _each(config: DataConfig, rows: Rows, form: Form, make: Callable[[Mapping[str, Any]], Result]) -> Iterator[Result]:
    """What `make` gives for each row; a DataError gets the place of the row, or that of the config when no row fits."""
    for index, row in enumerate(rows):
        try:
            yield make(row)
        except DataError as error:
            there = rows.columns()
            for column in form.columns:
                if column not in there:
                    sentence = " ".join(missing_column(form, column, there)).rstrip()
                    raise DataError(f"data config '{config.name}': {sentence}") from None
            raise DataError(f"{rows.where(index)}: {error}") from error.__cause__
