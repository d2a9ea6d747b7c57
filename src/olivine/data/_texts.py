"""Rows to text: for training as one, for scoring cut where the target begins."""

import difflib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from olivine.config.schema import DataConfig, PreProcess
from olivine.data._answers import Unanswered
from olivine.data._detect import is_known, resolved
from olivine.data._rows import Rows
from olivine.data.forms import Form, cut_at_prompt, form_of
from olivine.data.forms.chat import template_of
from olivine.data.sources import Row
from olivine.errors import DataError

Result = TypeVar("Result")


@dataclass(frozen=True)
class Example:
    """A row to score: `prompt` + `target` is the whole text, without begin and end tokens.

    target: the column's value and what the template writes round it. label: the value alone, as the template writes it.
    where: "train.jsonl:37". lead, tail: what stands before and after the label in the target, see Parts.
    """

    prompt: str
    target: str
    label: str
    where: str
    lead: str = ""
    tail: str = ""


def texts(config: DataConfig, rows: Rows, tokenizer: Any) -> list[str]:
    """The text of each row, without begin and end tokens; a `Text` with its spans where not all of it is trained on.

    Raises DataError with file, line and column for a row that does not fit.
    """
    config = resolved(config, _sample(rows), template_of(tokenizer))
    form = _form(config, tokenizer)
    return list(_each(config, rows, form, text_of_row(config.pre_process_data_config, form)))


def text_of_row(settings: PreProcess, form: Form) -> Callable[[Mapping[str, Any]], str]:
    """What makes the text of a row. settings: resolved."""
    if settings.strategy == "pair":
        return lambda row: cut_at_prompt(form.parts(row))
    wanted = settings.train_on or "all"
    return form.text if wanted == "all" else lambda row: form.marked(row, wanted)


def examples(config: DataConfig, rows: Rows, tokenizer: Any, target: str | None = None) -> list[Example]:
    """Each row cut before the column `target`, which without a name is the one that the text ends with.

    Raises DataError as `texts` does, and when the text does not hold the target column.
    """
    config = resolved(config, _sample(rows), template_of(tokenizer))
    form = _form(config, tokenizer)
    if target and target not in form.columns:
        close = difflib.get_close_matches(target, form.columns, n=1)
        hint = f"; did you mean '{close[0]}'?" if close else ""
        raise DataError(
            f"data config '{config.name}': the target column '{target}' is not in '{form.key}', which names: "
            f"{', '.join(form.columns)}{hint}"
        )
    cut = _each(config, rows, form, lambda row: form.parts(row, target or None))
    return [Example(*parts[:3], rows.where(index), *parts[3:]) for index, parts in enumerate(cut)]


def target_column(config: DataConfig) -> str:
    """The column that the text ends with; for a chat that of its messages: the target is the assistant's last turn.

    Empty where only the rows tell, and they are not here.
    """
    return _form(resolved(config), None).target if is_known(config) else ""


def columns(config: DataConfig) -> tuple[str, ...]:
    """The columns that the text is made of; none where only the rows tell, and they are not here."""
    return tuple(_form(resolved(config), None).columns) if is_known(config) else ()


_NAMING = ("system_col", "prompt_col", "answer_col", "message_col", "input_col", "output_col")  # keys that name columns


def missing_column(config: DataConfig, form: Form, column: str, there: list[str]) -> tuple[str, str]:
    """What to say when the data does not have a column that the form needs, and the fix."""
    close = difflib.get_close_matches(column, there, n=1)
    written = config.pre_process_data_config.model_dump(include=set(_NAMING), exclude_unset=True)
    key = next((key for key in _NAMING if column in _listed(written.get(key))), form.key)
    message = f"'{key}' needs the column '{column}', which the data does not have; its columns are: "
    fix = f"Did you mean '{close[0]}'?" if close else ""
    if not close and form.key == "chat_template" and column == form.target:
        fix = "Name the column of the messages as message_col, or those of the turns as prompt_col and answer_col."
    return f"{message}{', '.join(there)}.", fix


def _listed(names: str | list[str] | None) -> list[str]:
    return [names] if isinstance(names, str) else names or []


def misfit(config: DataConfig, form: Form, there: list[str], where: str, error: DataError) -> DataError:
    """The error of a row with its place, or with that of the config when no row has the column."""
    try:
        refuse_missing(config, form, there)
    except DataError as missing:
        return missing
    return DataError(f"{where}: {error}")


def refuse_missing(config: DataConfig, form: Form, there: list[str]) -> None:
    """Raise DataError when the data does not have a column that the form needs."""
    for column in form.columns:
        if column not in there:
            sentence = " ".join(missing_column(config, form, column, there)).rstrip()
            raise DataError(f"data config '{config.name}': {sentence}")


def answered(config: DataConfig, rows: Rows, tokenizer: Any) -> Rows:
    """The rows that have an answer. Raises DataError when too many have none."""
    config = resolved(config, _sample(rows), template_of(tokenizer))
    form = _form(config, tokenizer)
    kept = [index for index, row in enumerate(rows) if form.is_answered(row)]
    left_out = next((index for index, row in enumerate(rows) if not form.is_answered(row)), None)
    if left_out is None:
        return rows
    if not kept:
        refuse_missing(config, form, rows.columns())
    Unanswered(len(rows) - len(kept), len(rows), rows.where(left_out)).refuse(config, form)
    return rows.take(kept)


def _sample(rows: Rows) -> list[Row]:
    return list(rows[:16]) if len(rows) else []


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
            raise misfit(config, form, rows.columns(), rows.where(index), error) from error.__cause__
