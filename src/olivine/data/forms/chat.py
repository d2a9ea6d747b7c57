"""Messages of a chat in one column, through a chat template; as {role, content}, or as ShareGPT's {from, value}."""

import re
from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

from olivine import lazy
from olivine.data.forms._base import Parts, Span, Text, encodable
from olivine.errors import DataError, Unsupported

if TYPE_CHECKING:
    import jinja2
    from transformers.utils import chat_template_utils
else:
    jinja2 = lazy.module("jinja2")
    chat_template_utils = lazy.module("transformers.utils.chat_template_utils")

Messages = list[Mapping[str, str]]

_MARKS = re.compile(r"\{%-?\s*generation\s*-?%\}")
_PROBE = "\u2063olivine\u2063"  # invisible separators: no template writes them
# Names of the speakers in chats that were shared (ShareGPT and what followed its form).
_ROLES = {
    **dict.fromkeys(("human", "user", "prompter"), "user"),
    **dict.fromkeys(("gpt", "assistant", "chatgpt", "bing", "bard", "model"), "assistant"),
    "system": "system",
    **dict.fromkeys(("tool", "function", "observation"), "tool"),
}


class Chat:
    """Messages through the tokenizer's own template (template is True), or through a Jinja template.

    tokenizer: None where rows are only checked. column: where the messages stand.
    """

    key = "chat_template"

    def __init__(self, template: bool | str, tokenizer: Any, column: str = "messages") -> None:
        self._template = template if isinstance(template, str) else None
        self._tokenizer = tokenizer
        self.target = column

    @property
    def columns(self) -> tuple[str, ...]:
        """The column of the messages."""
        return (self.target,)

    def check(self, row: Mapping[str, Any]) -> None:
        """Raise DataError when the row's messages are not a list of {role, content}."""
        self._messages(row)

    def text(self, row: Mapping[str, Any]) -> str:
        """The whole chat."""
        return self._render(self._messages(row))

    def parts(self, row: Mapping[str, Any], target: str | None = None) -> Parts:
        """The chat up to the last turn of the assistant, and that turn; what comes after it is left out."""
        if target not in (None, self.target):
            raise DataError(f"the target of a chat is the last turn of the assistant, not the column '{target}'")
        messages = self._messages(row)
        turns = _turns(messages)
        if not turns:
            raise DataError(f"the column '{self.target}' has no turn of the assistant to predict")
        last = turns[-1]
        label = messages[last]["content"]
        whole = self._render(messages[: last + 1])
        prompt = self._render(messages[:last], add_generation_prompt=True)
        if not whole.startswith(prompt):  # some templates write a finished turn in another way than one to be written
            at = whole.rfind(label)
            if at < 0:
                raise DataError("the chat template does not write the last turn of the assistant as it stands")
            prompt = whole[:at]
        return Parts(prompt, whole[len(prompt) :], label)

    def marked(self, row: Mapping[str, Any], train_on: str) -> Text:
        """The whole chat with the spans of the assistant's turns, each with the token that ends it.

        1. A template that marks what the assistant writes (`{% generation %}`) says itself where that is. 2. Otherwise
        a turn is what rendering with it adds to rendering without it. 3. Where a template writes earlier turns in
        another way once later ones follow, the turn is found by its words. A "completion" is the last turn alone.
        """
        messages = self._messages(row)
        wanted = _turns(messages) if train_on == "assistant" else _turns(messages)[-1:]
        if not wanted:
            return Text(self._render(messages), spans=())
        if self._has_marks:
            text, found = self._render_marked(messages)
            spans = list(found) if train_on == "assistant" else list(found)[-1:]
        else:
            text = self._render(messages)
            spans = list(self._by_rendering(messages, wanted, text))
        return Text(text, spans=_joined(self._with_end(text, span) for span in spans))

    def _by_rendering(self, messages: Messages, wanted: list[int], text: str) -> Iterator[Span]:
        at = 0
        for turn in wanted:
            is_last = turn == len(messages) - 1
            before = self._render(messages[:turn], add_generation_prompt=True)
            after = text if is_last else self._render(messages[: turn + 1])
            if text.startswith(after) and after.startswith(before):
                start, at = len(before), len(after)
            else:
                words = messages[turn]["content"].strip()
                start = text.find(words, at)
                if start < 0:
                    raise DataError(f"the chat template does not write '{self.target}[{turn}].content' as it stands")
                at = start + len(words)
            yield start, at

    def _with_end(self, text: str, span: Span) -> Span:
        """The span up to and with the token that ends a turn: a model that never saw it trained does not stop."""
        start, stop = span
        end = self._turn_end
        if not end:
            return span
        stop = start + len(text[start:stop].rstrip())
        if text.endswith(end, start, stop):
            return start, stop
        gap = len(text) - stop - len(text[stop:].lstrip())
        return (start, stop + gap + len(end)) if text.startswith(end, stop + gap) else span

    @cached_property
    def _turn_end(self) -> str:
        """The special token that the template writes after a turn of the assistant; empty when it writes none."""
        probe: Messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": _PROBE}]
        try:
            after = self._render(probe).partition(_PROBE)[2].lstrip()
        except DataError:  # it wants more than such a chat; the turns are then taken as they were found
            return ""
        known = sorted(map(str, getattr(self._tokenizer, "all_special_tokens", ())), key=len, reverse=True)
        added = [token.content for token in self._tokenizer.added_tokens_decoder.values() if token.special]
        return next((token for token in [*known, *sorted(added, key=len, reverse=True)] if after.startswith(token)), "")

    @cached_property
    def _has_marks(self) -> bool:
        template = self._template or getattr(self._tokenizer, "chat_template", None)
        if isinstance(template, dict):
            template = template.get("default")
        return bool(template and _MARKS.search(template))

    def _render_marked(self, messages: Messages) -> tuple[str, list[Span]]:
        """The chat, and the characters that the template marks as written by the assistant."""
        try:
            (text,), (spans,) = chat_template_utils.render_jinja_template(
                conversations=[[dict(message) for message in messages]],
                chat_template=self._tokenizer.get_chat_template(self._template),
                return_assistant_tokens_mask=True,
                **self._tokenizer.special_tokens_map,
            )
        except (jinja2.TemplateError, TypeError) as error:
            raise DataError(f"the chat template refuses the messages: {error}") from error
        return encodable(text), spans

    def _render(self, messages: Messages, *, add_generation_prompt: bool = False) -> str:
        if self._template is None and not getattr(self._tokenizer, "chat_template", None):
            raise Unsupported(
                "'chat_template: true' needs a tokenizer with a chat template, and this model has none; "
                "write a Jinja template as chat_template, or use text_template"
            )
        if not messages:
            return ""
        try:
            text: str = self._tokenizer.apply_chat_template(
                messages,
                tokenize=False,
                chat_template=self._template,
                add_generation_prompt=add_generation_prompt,
            )
        except (jinja2.TemplateError, TypeError) as error:
            raise DataError(f"the chat template refuses the messages: {error}") from error
        return encodable(text)

    def _messages(self, row: Mapping[str, Any]) -> Messages:
        if self.target not in row:
            there = ", ".join(map(str, row)) or "none"
            raise DataError(f"the row has no column '{self.target}'; its columns are: {there}")
        messages = row[self.target]
        if not isinstance(messages, list) or not messages:
            raise DataError(f"the column '{self.target}' must be a list of messages, but is {messages!r:.40}")
        return [self._message(message, f"{self.target}[{index}]") for index, message in enumerate(messages)]

    def _message(self, message: Any, where: str) -> Mapping[str, str]:
        is_shared = isinstance(message, Mapping) and "from" in message and "role" not in message
        keys = ("from", "value") if is_shared else ("role", "content")
        for key in keys:
            value = message.get(key) if isinstance(message, Mapping) else None
            if not isinstance(value, str):
                raise DataError(f"'{where}.{key}' must be text, but is {value!r:.40}")
        if not is_shared:
            return dict(message)
        role = _ROLES.get(message["from"].lower())
        if role is None:
            raise DataError(f"'{where}.from' is '{message['from']:.40}', but must be one of: {', '.join(_ROLES)}")
        return {"role": role, "content": message["value"]}


def _turns(messages: Messages) -> list[int]:
    return [index for index, message in enumerate(messages) if message["role"] == "assistant"]


def _joined(spans: Iterator[Span]) -> list[Span]:
    """Spans in order; what overlaps or touches is one."""
    joined: list[Span] = []
    for start, stop in sorted(spans):
        if joined and start <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(stop, joined[-1][1]))
        elif start < stop:
            joined.append((start, stop))
    return joined
