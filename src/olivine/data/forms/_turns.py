"""A row as a chat of one question and its answer, which stand in columns of their own. Standard library alone."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from olivine.data.forms._base import is_blank, value_of
from olivine.data.forms._messages import HISTORY_COLUMN, Message, message_of, system_columns, with_system
from olivine.errors import DataError

# Usual names of what is asked and what is answered, those that say it most clearly first.
_PROMPTS = ("prompt", "instruction", "question", "query", "user", "human", "problem", "request", "input")
_ANSWERS = ("completion", "response", "answer", "output", "assistant", "gpt", "bot", "solution", "reply", "target")
# Pairs of which one name alone may mean something else.
_TOGETHER = (
    *(("input", "label"), ("source", "target"), ("text", "label"), ("text", "summary"), ("document", "summary")),
    *(("text", "target"), ("text", "response"), ("text", "answer"), ("text", "output"), ("text", "completion")),
)
_BELOW = ("input", "context")  # what an instruction or a question is about


@dataclass(frozen=True)
class TurnColumns:
    """What the user says and what the assistant says, in columns of their own; `history` holds earlier pairs of them.

    prompt: of several columns, the further ones may be empty and stand below the first. A prompt or an answer may be
    a list of messages, too (TRL's form). system: as for MessageColumn.
    """

    prompt: tuple[str, ...]
    target: str
    system: str | None = None

    @property
    def columns(self) -> tuple[str, ...]:
        """See Reader."""
        return (self.prompt[0], self.target, *((self.system,) if self.system else ()))

    @property
    def read(self) -> tuple[str, ...]:
        """See Reader."""
        return (*self.prompt, self.target, HISTORY_COLUMN, *system_columns(self.system))

    def messages(self, row: Mapping[str, Any]) -> list[Message]:
        """See Reader."""
        asked = _said(row, self.prompt[0], "user", lambda: prompt_text(self.prompt, row))
        answered = _said(row, self.target, "assistant", lambda: str(value_of(row, self.target)))
        return with_system([*_history(row), *asked, *answered], row, self.system)


def prompt_columns(given: str | Sequence[str]) -> tuple[str, ...]:
    """The columns that `prompt_col` names. DataError for an empty list."""
    if not given:
        raise DataError("'prompt_col' names no column")
    return (given,) if isinstance(given, str) else tuple(given)


def prompt_text(columns: Sequence[str], row: Mapping[str, Any]) -> str:
    """What is asked: the first column, and below it what the others hold."""
    first = str(value_of(row, columns[0]))
    below = [str(value_of(row, name)) for name in columns[1:] if not is_blank(row.get(name))]
    return "\n".join([*([first] if first or not below else []), *below])


def turn_columns(columns: Sequence[str]) -> dict[str, Any] | None:
    """The keys of a config that say which columns are asked and answered, told by usual names; None where none are."""
    known = {str(column).strip().lower().replace(" ", "_"): column for column in columns}
    pairs = [(prompt, answer) for prompt in _PROMPTS for answer in _ANSWERS]
    for prompt, answer in (*pairs, *_TOGETHER):
        if prompt in known and answer in known:
            below = [known[name] for name in _BELOW if name in known and prompt not in (name, "text", "source")]
            first = known[prompt]
            return {"prompt_col": [first, *below] if below else first, "answer_col": known[answer]}
    return None


def _said(row: Mapping[str, Any], column: str, role: str, text: Any) -> list[Message]:
    value = row.get(column)
    if isinstance(value, list) and value and all(isinstance(message, Mapping) for message in value):
        return [message_of(message, f"{column}[{index}]") for index, message in enumerate(value)]
    return [{"role": role, "content": text()}]


def _history(row: Mapping[str, Any]) -> list[Message]:
    """Earlier turns, as pairs of what was asked and answered (LLaMA-Factory's form of Alpaca)."""
    history = row.get(HISTORY_COLUMN)
    if is_blank(history):
        return []
    if not isinstance(history, list):
        raise DataError(f"the column '{HISTORY_COLUMN}' must be a list of pairs, but is {history!r:.40}")
    messages: list[Message] = []
    for index, pair in enumerate(history):
        if not isinstance(pair, list) or len(pair) != 2 or not all(isinstance(text, str) for text in pair):
            raise DataError(f"'{HISTORY_COLUMN}[{index}]' must be a pair of texts, but is {pair!r:.40}")
        messages += [{"role": "user", "content": pair[0]}, {"role": "assistant", "content": pair[1]}]
    return messages
