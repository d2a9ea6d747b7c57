"""A prompt and a target from columns of their own."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from olivine.config.schema import PreProcess
from olivine.data.forms._base import Form, Parts, encodable, is_blank, value_of
from olivine.data.forms._turns import prompt_columns, prompt_text
from olivine.data.forms.template import Template
from olivine.errors import DataError

# The wording that models tuned on data sets of the Alpaca form expect (Taori et al. 2023, Stanford Alpaca).
_ALPACA = (
    "Below is an instruction that describes a task{with_input}. "
    "Write a response that appropriately completes the request.\n\n### Instruction:\n{instruction}\n\n"
)
_WITH_INPUT = ", paired with an input that provides further context"
Part = Callable[[Mapping[str, Any]], str]


@dataclass(frozen=True)
class Pair(Form):
    """A prompt and a target, each read from columns of its own.

    needed: the columns that every row must have. answer: the column of the target. target_of: the target with its label
    and what a template puts round that.
    """

    precedence: ClassVar[int | None] = 2
    needed: tuple[str, ...]
    answer: str
    prompt_of: Part
    target_of: Callable[[Mapping[str, Any]], Parts]
    key: str = "pair_format"

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that every row must have."""
        return self.needed

    @property
    def target(self) -> str:
        """The column of the target."""
        return self.answer

    @classmethod
    def fits(cls, settings: PreProcess) -> bool:
        """Whether prompt and target come from columns of their own. Strategy `pair` prefers them to text_cols."""
        if settings.prompt_col is not None:
            return True
        if settings.strategy == "pair":
            return settings.pair_format not in (None, "default") or not settings.text_template
        return settings.pair_format is not None and settings.text_template is None and not settings.text_cols

    @classmethod
    def of(cls, settings: PreProcess, tokenizer: Any = None) -> Self:  # noqa: ARG003
        """The pair that the settings ask for. Raises DataError when columns of a custom one are not named."""
        if settings.prompt_col is not None and settings.answer_col is not None:
            return cls._of_turns(prompt_columns(settings.prompt_col), settings.answer_col)
        if settings.pair_format == "alpaca":
            return cls(("instruction", "output"), "output", _alpaca_prompt, _bare(_column("output")))
        if settings.pair_format == "chip2":
            return cls(("text",), "text", lambda row: _chip2(row)[0], _bare(lambda row: _chip2(row)[1]))
        if settings.pair_format == "custom":
            return cls._custom(settings)
        prompt, answer = ("prompt", "completion") if settings.pair_format == "self_instruct" else ("input", "output")
        return cls((prompt, answer), answer, _column(prompt), _bare(_column(answer)))

    @classmethod
    def _of_turns(cls, prompt: tuple[str, ...], answer: str) -> Self:
        """What is asked on lines of its own, and what is answered below it."""
        return cls(
            (prompt[0], answer),
            answer,
            lambda row: f"{prompt_text(prompt, row)}\n",
            _bare(_column(answer)),
            key="prompt_col",
        )

    @classmethod
    def _custom(cls, settings: PreProcess) -> Self:
        prompt = _custom_part(settings.input_template, settings.input_col, "input")
        target = _custom_part(settings.output_template, settings.output_col, "output")
        columns = tuple(dict.fromkeys(prompt.columns + target.columns))
        return cls(columns, target.target, prompt.text, target.as_target)

    def is_answered(self, row: Mapping[str, Any]) -> bool:
        """Whether the label says something; what a template puts round it is no answer."""
        try:
            return super().is_answered(row) and not is_blank(self.target_of(row).label)
        except DataError:  # `check` says what is wrong
            return True

    def parts(self, row: Mapping[str, Any], target: str | None = None) -> Parts:
        """Prompt and target. Raises DataError when another column than the pair's own is asked for."""
        if target not in (None, self.target):
            raise DataError(f"the target of these pairs is the column '{self.target}', not '{target}'")
        target_parts = self.target_of(row)
        encodable(target_parts.target)
        return target_parts._replace(prompt=encodable(self.prompt_of(row)))


def _column(name: str) -> Part:
    return lambda row: str(value_of(row, name))


def _bare(text: Part) -> Callable[[Mapping[str, Any]], Parts]:
    """A target that is nothing but its label."""

    def target_of(row: Mapping[str, Any]) -> Parts:
        label = text(row)
        return Parts("", label, label)

    return target_of


def _custom_part(template: str | None, column: str | None, side: str) -> Template:
    if template is not None:
        return Template.parse(template, f"{side}_template")
    if column is None:
        raise DataError(f"'pair_format: custom' needs '{side}_template' or '{side}_col'")
    return Template.of_columns([column], f"{side}_col")


def _alpaca_prompt(row: Mapping[str, Any]) -> str:
    has_input = row.get("input") not in (None, "")
    text = _ALPACA.format(with_input=_WITH_INPUT if has_input else "", instruction=value_of(row, "instruction"))
    given = f"### Input:\n{value_of(row, 'input')}\n\n" if has_input else ""
    return f"{text}{given}### Response: "


def _chip2(row: Mapping[str, Any]) -> tuple[str, str]:
    """The first turn of each side of "<human>: ... <bot>: ..."."""
    prompt, mark, target = str(value_of(row, "text")).partition("\n<bot>: ")
    if not mark:
        raise DataError("the column 'text' has no line that begins with '<bot>: '")
    return prompt.replace("<human>: ", ""), target.partition("\n<bot>: ")[0]
