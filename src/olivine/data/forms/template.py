"""A Python format string over the columns of a row, or columns joined by a space."""

import re
import string
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple, Self

from olivine.config.schema import PreProcess
from olivine.data.forms._base import Form, Parts, encodable, value_of
from olivine.errors import DataError

_CONVERSIONS: Mapping[str, Callable[[Any], Any]] = {"": lambda value: value, "s": str, "r": repr, "a": ascii}
_TOO_WIDE = re.compile(r"\d{5}")  # a width or precision by which a slip of the finger would fill the memory


class Field(NamedTuple):
    """A column in a template: {column!conversion:spec}."""

    column: str
    conversion: str = ""
    spec: str = ""

    def render(self, row: Mapping[str, Any]) -> str:
        """The column's value as text."""
        value = _CONVERSIONS[self.conversion](value_of(row, self.column))
        try:
            return format(value, self.spec)
        except (ValueError, TypeError) as error:
            raise DataError(
                f"the column '{self.column}' does not fit '{{{self.column}:{self.spec}}}': {error}"
            ) from None


@dataclass(frozen=True)
class Template(Form):
    """Literal text and fields, in order."""

    precedence: ClassVar[int | None] = 3
    takes_row_apart: ClassVar[bool] = False
    trains_on: ClassVar[Literal["all", "completion", "assistant"]] = "all"
    pieces: tuple[str | Field, ...]
    key: str = "text_template"

    @classmethod
    def fits(cls, settings: PreProcess) -> bool:  # noqa: ARG003
        """Whatever nothing else fits: the column `text`, at least."""
        return True

    @classmethod
    def of(cls, settings: PreProcess, tokenizer: Any = None) -> Self:  # noqa: ARG003
        """`text_template`, else the columns of `text_cols`."""
        if settings.text_template is not None:
            return cls.parse(settings.text_template, "text_template")
        columns = settings.text_cols or "text"
        return cls.of_columns([columns] if isinstance(columns, str) else columns)

    @classmethod
    def parse(cls, template: str, key: str) -> Self:
        """Read a format string.

        A field is the plain name of a column, which may hold spaces; attributes, items and positions are refused: a
        template only ever reads columns. Raises DataError with what is wrong.
        """
        pieces: list[str | Field] = []
        try:
            for literal, name, spec, conversion in string.Formatter().parse(template):
                pieces.append(literal)
                if name is not None:
                    pieces.append(_field(name, conversion or "", spec or "", key))
        except ValueError as error:
            raise DataError(f"'{key}' cannot be read: {error}; write {{{{ and }}}} for braces of the text") from None
        if not any(isinstance(piece, Field) for piece in pieces):
            raise DataError(f"'{key}' names no column, so that every row would have the same text: {template!r}")
        return cls(tuple(piece for piece in pieces if piece != ""), key)

    @classmethod
    def of_columns(cls, columns: Sequence[str], key: str = "text_cols") -> Self:
        """The columns joined by one space."""
        pieces: list[str | Field] = []
        for column in columns:
            pieces += [" ", Field(column)]
        return cls(tuple(pieces[1:]), key)

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that the template names, in order."""
        return tuple(dict.fromkeys(piece.column for piece in self.pieces if isinstance(piece, Field)))

    @property
    def target(self) -> str:
        """The last column of the template."""
        return next(piece.column for piece in reversed(self.pieces) if isinstance(piece, Field))

    @property
    def lack(self) -> str:
        """What a row lacks that is not answered, in words."""
        return super().lack if self._has_prompt else f"text in '{self.target}'"

    @property
    def _has_prompt(self) -> bool:
        """Whether something stands before the last column or after it."""
        return len(self.pieces) > 1

    def is_answered(self, row: Mapping[str, Any]) -> bool:
        """See Form; a blank line of plain text is none that lacks an answer: however many there are, none is read."""
        is_line = not self._has_prompt and isinstance(row.get(self.target), str)
        return is_line or super().is_answered(row)

    def text(self, row: Mapping[str, Any]) -> str:
        """The template filled with the row."""
        return encodable(_filled(self.pieces, row))

    def parts(self, row: Mapping[str, Any], target: str | None = None) -> Parts:
        """The text cut before the last place where the column `target` stands."""
        wanted = target or self.target
        for index in range(len(self.pieces) - 1, -1, -1):
            piece = self.pieces[index]
            if isinstance(piece, Field) and piece.column == wanted:
                prompt, label, tail = (
                    encodable(_filled(some, row)) for some in (self.pieces[:index], (piece,), self.pieces[index + 1 :])
                )
                return Parts(prompt, label + tail, label, tail=tail)
        raise DataError(f"the target column '{wanted}' is not in '{self.key}', which names: {', '.join(self.columns)}")

    def as_target(self, row: Mapping[str, Any]) -> Parts:
        """The whole text as the target of another prompt: what stands before the last column leads to its label."""
        parts = self.parts(row)
        last = max(index for index, piece in enumerate(self.pieces) if isinstance(piece, Field))
        before = self.pieces[last - 1] if last else ""
        lead = before if isinstance(before, str) else ""
        return Parts("", parts.prompt + parts.target, parts.label, lead, parts.tail)


def _filled(pieces: Sequence[str | Field], row: Mapping[str, Any]) -> str:
    return "".join(piece if isinstance(piece, str) else piece.render(row) for piece in pieces)


def _field(name: str, conversion: str, spec: str, key: str) -> Field:
    shown = "{" + name + "}"
    if not name or name.isdigit():
        raise DataError(f"'{key}' has the field {shown} without the name of a column")
    if any(character in name for character in ".[]"):
        raise DataError(f"'{key}' has the field {shown}; a field is the plain name of a column, without . or [ ]")
    if _TOO_WIDE.search(spec):
        raise DataError(f"'{key}' pads {shown} to more than 9,999 characters: '{spec:.40}'; write less")
    if "{" in spec or "}" in spec:
        raise DataError(f"'{key}' has a field inside the format of {shown}; write the format itself")
    if conversion not in _CONVERSIONS:
        raise DataError(f"'{key}' has the conversion !{conversion} in {shown}; there are !s, !r and !a")
    return Field(name, conversion, spec)
