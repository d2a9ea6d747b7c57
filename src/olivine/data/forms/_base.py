"""What every form of text offers."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, NamedTuple, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from olivine.config.schema import PreProcess
from olivine.errors import DataError

Span = tuple[int, int]


class Text(str):
    """The text of a row, and which of its characters are trained on.

    spans: ranges of characters, in order; None: all of them. A `border` is one span, from there to the end: what
    comes before is the prompt.
    """

    __slots__ = ("spans",)
    spans: tuple[Span, ...] | None

    def __new__(cls, text: str, border: int = 0, spans: Sequence[Span] | None = None) -> Self:
        """The text with its border, or its spans."""
        self = super().__new__(cls, text)
        self.spans = tuple(spans) if spans is not None else ((border, len(text)),) if border else None
        return self

    @property
    def border(self) -> int:
        """Where the first span begins; 0 when everything is trained on."""
        return self.spans[0][0] if self.spans else len(self) if self.spans is not None else 0


class Parts(NamedTuple):
    """The text of a row cut where the model is to go on: prompt + target is the whole text.

    label: what is to be named, as the text writes it. lead, tail: what a template puts before and after the label in
    the target; of what stands before it, the part that is the same for every row.
    """

    prompt: str
    target: str
    label: str
    lead: str = ""
    tail: str = ""


class FormParams(BaseModel):
    """What stands in `form_params` of a config that names the form."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Form(ABC):
    """Turns rows into text. Raises DataError, without a place, for a row that does not fit.

    A form of a newcomer says its params, its columns and `parts`; a config names it as `form`.

    precedence: where a config names no form, those that have one are tried in this order until one fits; None: the form
    is used only by its name. takes_row_apart: whether a row is a sample of its own, unless the config says otherwise;
    else rows are joined. trains_on: what of the text is trained on, unless the config says otherwise.
    """

    name: ClassVar[str]
    aliases: ClassVar[tuple[str, ...]] = ()
    Params: ClassVar[type[FormParams]] = FormParams
    precedence: ClassVar[int | None] = None
    takes_row_apart: ClassVar[bool] = True
    trains_on: ClassVar[Literal["all", "completion", "assistant"]] = "completion"

    @classmethod
    def fits(cls, settings: PreProcess) -> bool:  # noqa: ARG003
        """Whether settings that name no form ask for this one."""
        return False

    @classmethod
    def of(cls, settings: PreProcess, tokenizer: Any = None) -> Self:  # noqa: ARG003
        """The form that the settings ask for; DataError for wrong params. tokenizer: None to check rows only."""
        try:
            params = cls.Params.model_validate(dict(settings.form_params))
        except ValidationError as error:
            first = error.errors()[0]
            name = ".".join(map(str, first["loc"]))
            raise DataError(f"'form_params' of the form '{cls.name}': {name}: {first['msg'].lower()}") from None
        return cls(params)

    def __init__(self, params: Any) -> None:
        self.params = params

    @property
    def key(self) -> str:
        """The key of the config that names the columns."""
        return "form"

    @property
    @abstractmethod
    def columns(self) -> tuple[str, ...]:
        """The columns that every row must have."""

    @property
    @abstractmethod
    def target(self) -> str:
        """The column that the text ends with."""

    @abstractmethod
    def parts(self, row: Mapping[str, Any], target: str | None = None) -> Parts:
        """The text cut before the column `target`, or before the one that the form ends with."""

    @property
    def lack(self) -> str:
        """What a row lacks that is not answered, in words."""
        return f"answer in '{self.target}'"

    @property
    def otherwise_asked(self) -> str:
        """How the model will be asked in another form than rows have, in a sentence; empty where it is not."""
        return ""

    def is_answered(self, row: Mapping[str, Any]) -> bool:
        """Whether the row says what is to be learnt; one whose target is empty or missing is left out.

        Of a column with a list or an object, `parts` tells.
        """
        if self.target not in self.columns:
            return True
        value = row.get(self.target)
        if is_blank(value) or not isinstance(value, (list, tuple, dict)):
            return not is_blank(value)
        try:
            return not is_blank(self.parts(row).target)
        except DataError:  # it does not fit, which `check` says
            return True

    def check(self, row: Mapping[str, Any]) -> None:
        """Raise DataError when the row does not fit."""
        self.text(row)

    def said(self, row: Mapping[str, Any]) -> str:
        """What the row says, without a tokenizer: rows that say the same have one text. Raises as `check` does."""
        self.check(row)
        return self.text(row)

    def text(self, row: Mapping[str, Any]) -> str:
        """The whole text of the row."""
        parts = self.parts(row)
        return encodable(parts.prompt + parts.target)

    def marked(self, row: Mapping[str, Any], train_on: str) -> Text:  # noqa: ARG002 - most have one completion
        """The whole text with the spans of its "completion", or of every turn of the "assistant"."""
        return cut_at_prompt(self.parts(row))


def value_of(row: Mapping[str, Any], column: str) -> Any:
    """The value of a column, for a text. Raises DataError when it is missing or has no plain text."""
    if column not in row:
        raise DataError(f"the row has no column '{column}'; its columns are: {', '.join(map(str, row)) or 'none'}")
    value = row[column]
    if value is None or value != value:  # noqa: PLR0124 - NaN, which tables use for a missing number
        raise DataError(f"the column '{column}' is empty: fill it, or remove the row")
    if isinstance(value, (list, tuple, dict, bytes)):
        raise DataError(f"the column '{column}' holds a {type(value).__name__}, which has no plain text")
    return value


def is_blank(value: Any) -> bool:
    """Whether a cell says nothing: missing, NaN, white space, an empty list."""
    if value is None or value != value:  # noqa: PLR0124 - NaN, which tables use for a missing value
        return True
    return not value.strip() if isinstance(value, str) else value in ([], {})


def encodable(text: str) -> str:
    """The same text. Raises DataError when it holds half of a surrogate pair, which no tokenizer takes."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise DataError(f"the text holds half of a surrogate pair (\\u{ord(text[error.start]):04x})") from None
    return text


def cut_at_prompt(parts: Parts) -> Text:
    """Prompt and target as one text, of which the target is trained on."""
    text = parts.prompt + parts.target
    return Text(text, spans=[(len(parts.prompt), len(text))])
