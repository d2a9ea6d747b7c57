"""A chat through a chat template: its messages stand in a column, or its turns in columns of their own."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from olivine import lazy
from olivine.config.schema import PreProcess
from olivine.data.forms._base import Form, Parts, Span, Text, encodable, is_blank
from olivine.data.forms._messages import Conversation, Message, MessageColumn, Reader, beside, beside_columns
from olivine.data.forms._turns import TurnColumns, prompt_columns
from olivine.errors import DataError, Unsupported
from olivine.jinja import BY_TEMPLATES, PROBE, in_parts, reads_parts

if TYPE_CHECKING:
    import jinja2
    from transformers.utils import chat_template_utils
else:
    jinja2 = lazy.module("jinja2")
    chat_template_utils = lazy.module("transformers.utils.chat_template_utils")

_MARKS = re.compile(r"\{%-?\s*generation\s*-?%\}")
_PLAIN = ("role", "content", "weight")  # keys of a message that says no more than its content
_THOUGHT_END = "</think>"  # templates cut a message's content there: what comes before it is no answer


class Chat(Form):
    """Messages through the tokenizer's own template (template is True), or through a Jinja template.

    tokenizer: None where rows are only checked. reader: where in a row the messages stand. needs_answer: whether only
    what the assistant says is learnt.
    """

    precedence: ClassVar[int | None] = 1
    trains_on: ClassVar[Literal["all", "completion", "assistant"]] = "assistant"

    @classmethod
    def fits(cls, settings: PreProcess) -> bool:
        """Whether a chat template is asked for."""
        return bool(settings.chat_template)

    @classmethod
    def of(cls, settings: PreProcess, tokenizer: Any = None) -> Self:
        """The messages stand in a column of their own, or turn by turn."""
        if settings.prompt_col is None or settings.answer_col is None:
            reader: Reader = MessageColumn(settings.message_col, settings.system_col)
        else:
            reader = TurnColumns(prompt_columns(settings.prompt_col), settings.answer_col, settings.system_col)
        return cls(settings.chat_template or True, tokenizer, reader, needs_answer=settings.train_on != "all")

    def __init__(
        self, template: bool | str, tokenizer: Any, reader: Reader | None = None, *, needs_answer: bool = True
    ) -> None:
        self._template = template if isinstance(template, str) else None
        self._tokenizer = tokenizer
        self._reader = reader or MessageColumn()
        self._needs_answer = needs_answer

    @property
    def key(self) -> str:
        """The key that makes rows chats."""
        return "chat_template"

    @property
    def target(self) -> str:
        """The column that holds what the assistant says."""
        return self._reader.target

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of the messages."""
        return self._reader.columns

    def read(self, columns: list[str], template: str) -> list[str]:
        """Those of the columns that reach the model. template: the text of its own chat template, where it is known."""
        known = {*self._reader.read, *beside_columns(columns, self._template or template)}
        return [column for column in columns if column in known]

    @property
    def lack(self) -> str:
        """What a row lacks that is not answered, in words."""
        whose = "answer of the assistant" if isinstance(self._reader, MessageColumn) else "answer"
        return f"{whose} in '{self.target}'"

    def is_answered(self, row: Mapping[str, Any]) -> bool:
        """Whether some turn of the assistant says something that is to be learnt."""
        if self.target in self.columns and is_blank(row.get(self.target)):
            return False
        try:
            chat = Conversation(self._reader.messages(row), {})
        except DataError:  # `check` says what is wrong
            return True
        return not self._needs_answer or bool(chat.learnt(chat.turns()))

    def n_silent(self, row: Mapping[str, Any]) -> int:
        """How many turns of the assistant say nothing. Raises as `check` does."""
        chat = Conversation(self._reader.messages(row), {})
        return len(chat.turns()) - len(chat.spoken())

    def check(self, row: Mapping[str, Any]) -> None:
        """Raise DataError when the row has no messages, or what stands beside them cannot be read."""
        self.said(row)

    def said(self, row: Mapping[str, Any]) -> str:
        """The messages and what stands beside them, as JSON."""
        chat = self._conversation(row)
        for message in chat.messages:
            encodable(message["content"] or "")
        return json.dumps([chat.messages, chat.beside], sort_keys=True, default=str)

    def text(self, row: Mapping[str, Any]) -> str:
        """The whole chat."""
        return self._whole(self._conversation(row))

    def parts(self, row: Mapping[str, Any], target: str | None = None) -> Parts:
        """The chat up to the last turn in which the assistant says something, and that turn; no more."""
        if target not in (None, self.target):
            raise DataError(f"the target of a chat is the last turn of the assistant, not the column '{target}'")
        chat = self._conversation(row)
        if not chat.spoken():
            raise DataError(f"the column '{self.target}' has no turn of the assistant to predict")
        last = chat.spoken()[-1]
        chat = Conversation(chat.messages[: last + 1], chat.beside)
        whole, prompt = self._whole(chat), self._prompt(chat, last)
        start, stop = self._answer(chat, last, whole)
        if not whole.startswith(prompt):  # some templates write a finished turn in another way than one to be written
            prompt = whole[:start]
        lead = _fixed(whole[len(prompt) : start], chat.messages[last])
        return Parts(prompt, whole[len(prompt) :], whole[start:stop], lead, whole[stop:])

    def marked(self, row: Mapping[str, Any], train_on: str) -> Text:
        """The whole chat with the spans of the assistant's turns, each with the token that ends it.

        1. A template that marks what the assistant writes (`{% generation %}`) says itself where that is. 2. Otherwise
        a turn is what rendering with it adds to rendering without it. 3. Where a template writes earlier turns in
        another way once later ones follow, the turn is where its content stands. A "completion" is the last turn alone.
        A turn that is empty, that has a `weight` of 0, or of which the template writes nothing is none of them.
        """
        chat = self._conversation(row)
        learnt = chat.learnt(chat.turns() if train_on == "assistant" else chat.spoken()[-1:])
        self._check_written(chat, learnt)
        if not learnt:
            return Text(self._whole(chat), spans=())
        if self._has_marks:
            text, marked = self._render_marked(chat)
            spans = [span for span in _of_turns(marked, chat.turns(), learnt) if text[slice(*span)].strip()]
        else:
            text = self._whole(chat)
            spans = list(self._by_rendering(chat, learnt, text))
        return Text(text, spans=_joined(self._with_end(text, span) for span in spans))

    def _check_written(self, chat: Conversation, turns: list[int]) -> None:
        """DataError for a turn of which the template writes nothing: an empty answer would be learnt."""
        if not self._drops_contents:
            return
        for turn in turns:
            if all(is_blank(value) for key, value in chat.messages[turn].items() if key not in _PLAIN):
                raise DataError(f"the chat template does not write '{self.target}[{turn}].content'")

    @cached_property
    def _drops_contents(self) -> bool:
        """Whether the template takes a chat and writes nothing of what the assistant says in it."""
        text = self._tried(self._texts([{"role": "user", "content": "a"}, {"role": "assistant", "content": PROBE}]))
        return bool(text) and PROBE not in text

    @property
    def otherwise_asked(self) -> str:
        """How a chat asks for an answer and how rows do, in a sentence, where the two are not alike; else empty.

        Templates of models that think begin an answer with a think block when they ask for one, and leave it out where
        the answer is there.
        """
        asked: list[Message] = [{"role": "user", "content": "a"}]
        answered: list[Message] = [*asked, {"role": "assistant", "content": PROBE}]
        try:
            prompt, text = self._render(asked, {}, add_generation_prompt=True), self._render(answered, {})
        except (DataError, Unsupported):  # it wants more than such a chat
            return ""
        before, is_written, _ = text.partition(PROBE)
        if not is_written or before.startswith(prompt):
            return ""
        at = _n_common(before, prompt)
        instead = repr(before[at:]) if before[at:] else "nothing"
        return (
            f"the chat template asks for an answer with {prompt[at:]!r}, and writes {instead} there where rows have "
            "one: in a chat, the model is asked in a form that it was not trained on"
        )

    def _by_rendering(self, chat: Conversation, turns: list[int], text: str) -> Iterator[Span]:
        for turn in turns:
            before = self._prompt(chat, turn)
            is_last = turn == len(chat.messages) - 1
            after = text if is_last else self._render(chat.messages[: turn + 1], chat.beside)
            if text.startswith(after) and after.startswith(before):
                if _writes_calls(after[len(before) :], chat.messages[turn]):
                    yield len(before), len(after)
            else:
                yield self._answer(chat, turn, text)

    def _answer(self, chat: Conversation, turn: int, text: str) -> Span:
        """Where in the text of the chat the template wrote the content of a turn, as it wrote it.

        That is what changes when the content does. Where the content decides what else is written, it is looked for by
        its words behind what all of it has in common with the prompt.
        """
        message = chat.messages[turn]
        if not message["content"] and message.get("tool_calls"):
            return self._calls(chat, turn, text)
        thought, mark, words = message["content"].rpartition(_THOUGHT_END)
        if not words.strip():
            thought, mark, words = "", "", message["content"]
        space = words[: len(words) - len(words.lstrip())]
        probe = message | {"content": thought + mark + space + PROBE}
        try:
            probed = self._render([*chat.messages[:turn], probe, *chat.messages[turn + 1 :]], chat.beside)
        except DataError:  # it takes some contents only
            probed = ""
        before, found, after = probed.partition(PROBE)
        if found and len(before) + len(after) <= len(text) and text.startswith(before) and text.endswith(after):
            return len(before), len(text) - len(after)
        common = _n_common(text, self._prompt(chat, turn))
        start = text.find(words.strip(), common)
        if start < 0:
            raise DataError(f"the chat template does not write '{self.target}[{turn}].content' as it stands")
        return start, start + len(words.strip())

    def _calls(self, chat: Conversation, turn: int, text: str) -> Span:
        """Where a turn stands that calls tools and says nothing: from the prompt to the token that ends the turn."""
        before = self._prompt(chat, turn)
        start = _n_common(text, before)
        after = text if turn == len(chat.messages) - 1 else self._render(chat.messages[: turn + 1], chat.beside)
        stop = _n_common(text, after)
        written = text[start:stop].rstrip()
        if not _writes_calls(written, chat.messages[turn]):
            raise DataError(f"the chat template does not write '{self.target}[{turn}].tool_calls'")
        return start, start + len(written.removesuffix(self._turn_end).rstrip() if self._turn_end else written)

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
        probe: list[Message] = [{"role": "user", "content": "a"}, {"role": "assistant", "content": PROBE}]
        try:
            after = self._render(probe, {}).partition(PROBE)[2].lstrip()
        except DataError:  # it wants more than such a chat; the turns are then taken as they were found
            return ""
        known = sorted(map(str, getattr(self._tokenizer, "all_special_tokens", ())), key=len, reverse=True)
        added = [token.content for token in self._tokenizer.added_tokens_decoder.values() if token.special]
        return next((token for token in [*known, *sorted(added, key=len, reverse=True)] if after.startswith(token)), "")

    @cached_property
    def _has_marks(self) -> bool:
        return bool(_MARKS.search(self._source))

    @cached_property
    def _source(self) -> str:
        """The text of the template; empty where there is none."""
        return self._template or template_of(self._tokenizer)

    def _render_marked(self, chat: Conversation) -> tuple[str, list[Span]]:
        """The chat, and the characters that the template marks as written by the assistant."""
        try:
            text, spans = self._written_marked(self._texts(chat.messages), chat.beside)
        except (jinja2.TemplateError, *BY_TEMPLATES) as error:
            raise DataError(f"the chat template refuses the messages: {error}") from error
        return encodable(text), spans

    def _written_marked(self, messages: list[Message], variables: Mapping[str, Any]) -> tuple[str, list[Span]]:
        (text,), (spans,) = chat_template_utils.render_jinja_template(
            conversations=[[dict(message) for message in messages]],
            chat_template=self._tokenizer.get_chat_template(self._template, variables.get("tools")),
            return_assistant_tokens_mask=True,
            **self._tokenizer.special_tokens_map,
            **variables,
        )
        return text, spans

    def _whole(self, chat: Conversation) -> str:
        return self._render(chat.messages, chat.beside)

    def _prompt(self, chat: Conversation, turn: int) -> str:
        """What a model is given to write the turn."""
        if turn == 0:
            return self._before_first(chat)
        return self._render(chat.messages[:turn], chat.beside, add_generation_prompt=True)

    def _before_first(self, chat: Conversation) -> str:
        """What the template writes before the words of the assistant where they begin a chat.

        No template opens a chat without messages. What comes before ends as every prompt does, else before the content.
        """
        text = self._render(chat.messages[:1], chat.beside)
        opening = self._opening
        if opening and opening in text:
            return text[: text.index(opening) + len(opening)]
        return text[: max(0, text.find((chat.messages[0]["content"] or "").strip()))]

    @cached_property
    def _opening(self) -> str:
        """What the template writes behind a question for the assistant to go on; empty where it does not tell."""
        asked: list[Message] = [{"role": "user", "content": "a"}]
        try:
            before, prompt = (self._render(asked, {}, add_generation_prompt=add) for add in (False, True))
        except DataError:  # it wants more than such a chat
            return ""
        return prompt.removeprefix(before) if prompt.startswith(before) else ""

    def _render(
        self, messages: list[Message], variables: Mapping[str, Any], *, add_generation_prompt: bool = False
    ) -> str:
        if not self._source:
            raise Unsupported(
                "the rows are chats, and the model has no chat template to write them by; write a Jinja template as "
                "chat_template, or a text_template of columns that hold text"
            )
        try:
            try:
                text = self._written(self._texts(messages), variables, add_generation_prompt=add_generation_prompt)
            except (jinja2.TemplateError, *BY_TEMPLATES):  # not every template knows a turn of calls without content
                if all(message.get("content") is not None for message in messages):
                    raise
                texts = self._in_parts(_with_text(messages))
                text = self._written(texts, variables, add_generation_prompt=add_generation_prompt)
        except (jinja2.TemplateError, *BY_TEMPLATES) as error:
            raise DataError(f"the chat template refuses the messages: {error}") from error
        return encodable(text)

    def _texts(self, messages: list[Message]) -> list[Message]:
        """The messages as the template takes them."""
        return self._in_parts(_with_text(messages) if self._writes_none else messages)

    def _in_parts(self, messages: list[Message]) -> list[Message]:
        return in_parts(messages) if self._reads_parts else messages

    @cached_property
    def _reads_parts(self) -> bool:
        """Whether the template reads contents in parts alone."""
        return reads_parts(self._tried)

    def _tried(self, messages: Sequence[Mapping[str, Any]]) -> str:
        """What the template makes of messages; empty where it refuses them."""
        try:
            chat = [dict(message) for message in messages]
            if self._has_marks:
                return self._written_marked(chat, {})[0]
            return self._written(chat, {}, add_generation_prompt=False)
        except (jinja2.TemplateError, *BY_TEMPLATES):
            return ""

    @cached_property
    def _writes_none(self) -> bool:
        """Whether the template writes the word None for the content of a turn that has none."""
        call = {"type": "function", "function": {"name": "f", "arguments": {}}}
        turn: Message = {"role": "assistant", "content": None, "tool_calls": [call]}
        chat: list[Message] = [{"role": "user", "content": "a"}, turn]
        return "None" in self._tried(chat)

    def _written(self, messages: list[Message], variables: Mapping[str, Any], *, add_generation_prompt: bool) -> str:
        text: str = self._tokenizer.apply_chat_template(
            messages,
            tokenize=False,
            chat_template=self._template,
            add_generation_prompt=add_generation_prompt,
            **variables,
        )
        return text

    def _conversation(self, row: Mapping[str, Any]) -> Conversation:
        return Conversation(self._reader.messages(row), beside(row, self._source))


def template_of(tokenizer: Any) -> str:
    """The text of a tokenizer's chat template; empty where it has none."""
    template = getattr(tokenizer, "chat_template", None)
    if isinstance(template, dict):
        template = " ".join(template.get(name, "") for name in ("default", "tool_use"))
    return template or ""


def _fixed(lead: str, message: Message) -> str:
    """The end of what a template writes before a content that is the same for every row: behind the row's own words."""
    thought = str(message["content"] or "").rpartition(_THOUGHT_END)[0].strip()
    own = [str(value) for key, value in message.items() if key not in ("role", "content")] + [thought]
    cuts = [lead.rfind(words.strip()) + len(words.strip()) for words in own if words.strip() and words.strip() in lead]
    return lead[max(cuts, default=0) :]


def _of_turns(marked: list[Span], turns: list[int], learnt: list[int]) -> list[Span]:
    """Those of the spans that a template marks, one for each turn, that are of the turns to be learnt."""
    if learnt == turns:
        return list(marked)
    if learnt == turns[-1:]:
        return list(marked)[-1:]
    if len(marked) != len(turns):
        what = "turns are empty or have a weight of 0" if len(learnt) > 1 else "the last turn alone is trained on"
        raise DataError(f"{what}, and the chat template marks other parts than turns")
    return [span for turn, span in zip(turns, marked, strict=True) if turn in learnt]


def _with_text(messages: list[Message]) -> list[Message]:
    return [message | {"content": message.get("content") or ""} for message in messages]


def _writes_calls(written: str, message: Message) -> bool:
    """Whether the text of a turn names what it calls. One that has words is known by them."""
    calls = () if message["content"] else message.get("tool_calls") or ()
    names = [call.get("function", call).get("name") for call in calls]
    return all(isinstance(name, str) and name in written for name in names)


def _n_common(left: str, right: str) -> int:
    """Characters that two texts begin with alike."""
    length = min(len(left), len(right))
    return next((at for at in range(length) if left[at] != right[at]), length)


def _joined(spans: Iterator[Span]) -> list[Span]:
    """Spans in order; what overlaps or touches is one."""
    joined: list[Span] = []
    for start, stop in sorted(spans):
        if joined and start <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(stop, joined[-1][1]))
        elif start < stop:
            joined.append((start, stop))
    return joined
