"""A row as a chat: its messages in one shape, and what the row says beside them. Standard library alone."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from olivine.data.forms._base import is_blank
from olivine.data.json_text import StandsTwiceError, loads
from olivine.errors import DataError

Message = dict[str, Any]

SYSTEM_COLUMNS = ("system", "system_prompt", "system_message")
HISTORY_COLUMN = "history"
# What `apply_chat_template` takes by name (transformers' and TRL's form of data sets).
_LISTS = ("tools", "documents")
_VARIABLES = "chat_template_kwargs"
# Names that mean something else to `apply_chat_template`, to its templates or to the tokenizer.
_RESERVED = frozenset(
    (
        *("conversation", "messages", "tools", "documents", "chat_template", "add_generation_prompt", "tokenize"),
        *("continue_final_message", "padding", "truncation", "max_length", "return_tensors", "return_dict"),
        *("return_assistant_tokens_mask", "tokenizer_kwargs", "processor_kwargs", "sanitize_control_tokens"),
        *("raise_exception", "strftime_now", "namespace", "range", "loop", "bos_token", "eos_token", "unk_token"),
        *(
            "pad_token",
            "sep_token",
            "cls_token",
            "mask_token",
            "additional_special_tokens",
            "message",
            "content",
            "role",
        ),
    )
)
# Names of the speakers in chats that were shared (ShareGPT and what followed its form).
_ROLES = {
    **dict.fromkeys(("human", "user", "prompter"), "user"),
    **dict.fromkeys(("gpt", "assistant", "chatgpt", "bing", "bard", "model"), "assistant"),
    "system": "system",
    **dict.fromkeys(("tool", "function", "observation"), "tool"),
}
_CALLER = "function_call"  # the assistant, where it calls tools
# What a template does that writes messages whole, with every key: `{{ message | tojson }}`.
_WHOLE = re.compile(r"\b(?:messages?|msg|m)(?:\[[^\]]*\])?\s*\|\s*tojson|\.items\(\)")


@dataclass(frozen=True)
class Conversation:
    """The messages of a row, and what of it the template gets beside them: `tools`, `documents`, its own variables."""

    messages: list[Message]
    beside: Mapping[str, Any]

    def turns(self) -> list[int]:
        """Which messages the assistant wrote."""
        return [index for index, message in enumerate(self.messages) if message["role"] == "assistant"]

    def spoken(self) -> list[int]:
        """Those of them that say something, or call a tool."""
        return [turn for turn in self.turns() if not _is_silent(self.messages[turn])]

    def learnt(self, turns: list[int]) -> list[int]:
        """Those of the turns that are to be learnt: not an empty one, nor one with a `weight` of 0 (OpenAI's form)."""
        return [turn for turn in turns if turn in self.spoken() and self.messages[turn].get("weight", 1)]


class Reader(Protocol):
    """Where in a row the messages stand. columns: those that every row must have. target: that of the answer."""

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that every row must have."""

    @property
    def target(self) -> str:
        """The column of the answer."""

    @property
    def read(self) -> tuple[str, ...]:
        """Every column that messages are made of, where a row has it."""

    def messages(self, row: Mapping[str, Any]) -> list[Message]:
        """The messages of a row. Raises DataError, without a place, for a row that has none."""


@dataclass(frozen=True)
class MessageColumn:
    """Messages in a column of their own, as {role, content} or as ShareGPT's {from, value}.

    system: the column of a system text that becomes the first message; None: the first of the usual ones.
    """

    target: str = "messages"
    system: str | None = None

    @property
    def columns(self) -> tuple[str, ...]:
        """See Reader."""
        return (self.target, self.system) if self.system else (self.target,)

    @property
    def read(self) -> tuple[str, ...]:
        """See Reader."""
        return (self.target, *system_columns(self.system))

    def messages(self, row: Mapping[str, Any]) -> list[Message]:
        """See Reader."""
        if self.target not in row:
            raise DataError(f"the row has no column '{self.target}'; its columns are: {_names(row)}")
        found = _parsed(self.target, row[self.target]) if _is_json_list(row[self.target]) else row[self.target]
        if not isinstance(found, list) or not found:
            raise DataError(f"the column '{self.target}' must be a list of messages, but is {found!r:.40}")
        messages = [message_of(message, f"{self.target}[{index}]") for index, message in enumerate(found)]
        return with_system(messages, row, self.system)


def with_system(messages: list[Message], row: Mapping[str, Any], column: str | None) -> list[Message]:
    """The messages behind the system text of the row, if it has one. DataError when the two contradict each other."""
    for name in system_columns(column):
        text = row.get(name)
        if is_blank(text):
            continue
        if not isinstance(text, str):
            raise DataError(f"the column '{name}' must be text, but is {text!r:.40}")
        if messages[0]["role"] != "system":
            return [{"role": "system", "content": text}, *messages]
        if messages[0]["content"].strip() != text.strip():
            raise DataError(
                f"the column '{name}' and the first message are two system texts; remove one of them, or write "
                "system_col: '' to leave the column out"
            )
        return messages
    return messages


def system_columns(column: str | None) -> tuple[str, ...]:
    """Where a system text may stand beside the messages."""
    return SYSTEM_COLUMNS if column is None else (column,) if column else ()


def beside(row: Mapping[str, Any], template: str) -> dict[str, Any]:
    """What a row holds for the template beside the messages: tools, documents, and every variable that it reads."""
    found: dict[str, Any] = {}
    for column in beside_columns(row, template):
        value = row[column]
        if column in _LISTS:
            value = _list(column, value)
        elif column == _VARIABLES:
            found |= _object(column, value)
            continue
        if not is_blank(value):
            found[column] = value
    return found


def beside_columns(columns: Mapping[str, Any] | list[str], template: str) -> list[str]:
    """The columns that the template gets by their names, because it reads a variable of that name.

    template: its text; empty where it is not known, which lets the usual ones pass.
    """
    return [column for column in columns if _is_beside(str(column), template)]


def _is_beside(column: str, template: str) -> bool:
    if column == _VARIABLES or (column in _LISTS and not template):
        return True
    if column in _RESERVED and column not in _LISTS:
        return False
    return column.isidentifier() and re.search(rf"(?<![\w.'\"]){column}(?![\w'\"])", _code(template)) is not None


def unwritten_keys(messages: Any, template: str) -> list[str]:
    """Keys beside role and content under which messages say something and which a template, its text, never names."""
    if not isinstance(messages, list) or _WHOLE.search(_code(template)):
        return []
    said = [
        key for message in messages if isinstance(message, Mapping) for key in message if not is_blank(message[key])
    ]
    usual = ("role", "content", "from", "value", "weight")
    named = set(re.findall(r"\w+", _code(template)))
    return [key for key in dict.fromkeys(said) if key not in usual and key not in named]


def _code(template: str) -> str:
    """The parts of a Jinja template that are evaluated."""
    return " ".join(re.findall(r"\{[{%].*?[%}]\}", template, flags=re.DOTALL))


def _list(column: str, value: Any) -> list[Any]:
    """A list of objects, or its JSON text; empty where there is nothing. Keys without a value are left out."""
    value = _parsed(column, value)
    if is_blank(value):
        return []
    value = [value] if isinstance(value, Mapping) else value
    if not isinstance(value, list) or not all(isinstance(item, Mapping) for item in value):
        raise DataError(f"the column '{column}' must be a list of objects, or its JSON text, but is {value!r:.40}")
    return [without_nulls(item) for item in value]


def _object(column: str, value: Any) -> dict[str, Any]:
    value = _parsed(column, value)
    if is_blank(value):
        return {}
    if not isinstance(value, Mapping):
        raise DataError(f"the column '{column}' must be an object, or its JSON text, but is {value!r:.40}")
    return {key: item for key, item in value.items() if item is not None and key not in _RESERVED}


def _parsed(column: str, value: Any) -> Any:
    if not isinstance(value, str) or not value.strip():
        return value
    try:
        return loads(value)
    except StandsTwiceError as error:
        raise DataError(f"in the text of the column '{column}', {error}") from None
    except (ValueError, RecursionError):
        raise DataError(f"the column '{column}' must be a list or an object, but its text is not JSON") from None


def _is_silent(message: Message) -> bool:
    return is_blank(message["content"]) and not message.get("tool_calls") and not message.get("function_call")


def without_nulls(value: Any) -> Any:
    """The value without keys that are null: a table gives every row the keys of all of them."""
    if isinstance(value, Mapping):
        return {key: without_nulls(item) for key, item in value.items() if item is not None}
    return [without_nulls(item) for item in value] if isinstance(value, list) else value


def message_of(message: Any, where: str) -> Message:
    """A message as {role, content, ...}. DataError with `where` when it is none."""
    if isinstance(message, Mapping) and "from" in message and "role" not in message:
        return _shared(message, where)
    calls = message.get("tool_calls") if isinstance(message, Mapping) else None
    if isinstance(message, Mapping) and isinstance(message.get("content"), list):
        message = {**message, "content": _joined(message["content"], where)}
    keys = ("role",) if calls and message.get("content") is None else ("role", "content")
    for key in keys:
        value = message.get(key) if isinstance(message, Mapping) else None
        if not isinstance(value, str):
            raise DataError(f"'{where}.{key}' must be text, but is {value!r:.40}")
    found = {key: value for key, value in message.items() if value is not None} | {"content": message.get("content")}
    _check_weight(found, where)
    return found | {"tool_calls": _calls(calls, where)} if calls else found


def _check_weight(message: Mapping[str, Any], where: str) -> None:
    if (weight := message.get("weight")) not in (None, 0, 1):
        raise DataError(f"'{where}.weight' must be 0 or 1, but is {weight!r:.40}")


def _joined(parts: list[Any], where: str) -> str:
    """The text of a content in parts, as OpenAI's form has it. DataError for a part that is no text."""
    if not all(isinstance(part, Mapping) and isinstance(part.get("text"), str) for part in parts):
        raise DataError(f"'{where}.content' has parts that are no text, such as images, which no model here reads")
    return "".join(part["text"] for part in parts)


def _is_json_list(value: Any) -> bool:
    return isinstance(value, str) and value.lstrip().startswith("[")


def _calls(calls: Any, where: str) -> list[Any]:
    """The calls with their arguments as an object, which templates want; data sets also write them as JSON text."""
    if not isinstance(calls, list) or not all(isinstance(call, Mapping) for call in calls):
        raise DataError(f"'{where}.tool_calls' must be a list of objects, but is {calls!r:.40}")
    return [_call(without_nulls(call)) for call in calls]


def _call(call: dict[str, Any]) -> dict[str, Any]:
    if isinstance(call.get("function"), Mapping):
        return call | {"function": _call(dict(call["function"]))}
    arguments = call.get("arguments")
    if not isinstance(arguments, str):
        return call
    try:
        value = loads(arguments)
    except (ValueError, RecursionError):
        return call
    return call | {"arguments": value} if isinstance(value, dict) else call


def _shared(message: Mapping[str, Any], where: str) -> Message:
    for key in ("from", "value"):
        if not isinstance(message.get(key), str):
            raise DataError(f"'{where}.{key}' must be text, but is {message.get(key)!r:.40}")
    speaker = message["from"].lower()
    beside = {key: value for key, value in message.items() if key not in ("from", "value") and value is not None}
    if speaker == _CALLER:
        calls = _shared_calls(message["value"], where)
        return beside | {"role": "assistant", "content": None, "tool_calls": calls}
    role = _ROLES.get(speaker)
    if role is None:
        known = ", ".join([*_ROLES, _CALLER])
        raise DataError(f"'{where}.from' is '{message['from']:.40}', but must be one of: {known}")
    _check_weight(message, where)
    return beside | {"role": role, "content": message["value"]}


def _shared_calls(text: str, where: str) -> list[Any]:
    """What a turn calls, which is its text in LLaMA-Factory's form: one call, or a list of them, as JSON."""
    try:
        calls = loads(text)
    except (ValueError, RecursionError):
        calls = None
    calls = calls if isinstance(calls, list) else [calls]
    if not all(isinstance(call, Mapping) for call in calls):
        raise DataError(f"'{where}.value' must be calls of tools as JSON, but is {text!r:.40}")
    return _calls([{"type": "function", "function": call} for call in calls], where)


def _names(row: Mapping[str, Any]) -> str:
    return ", ".join(map(str, row)) or "none"
