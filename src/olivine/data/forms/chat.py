"""Messages of a chat in the column `messages`, through a chat template."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from olivine import lazy
from olivine.data.forms._base import Parts, encodable
from olivine.errors import DataError, Unsupported

if TYPE_CHECKING:
    import jinja2
else:
    jinja2 = lazy.module("jinja2")

COLUMN = "messages"


class Chat:
    """Messages through the tokenizer's own template (template is True), or through a Jinja template.

    tokenizer: None where rows are only checked.
    """

    key = "chat_template"
    columns = (COLUMN,)
    target = COLUMN

    def __init__(self, template: bool | str, tokenizer: Any) -> None:
        self._template = template if isinstance(template, str) else None
        self._tokenizer = tokenizer

    def check(self, row: Mapping[str, Any]) -> None:
        """Raise DataError when the row's messages are not a list of {role, content}."""
        _messages(row)

    def text(self, row: Mapping[str, Any]) -> str:
        """The whole chat."""
        return self._render(_messages(row))

    def parts(self, row: Mapping[str, Any], target: str | None = None) -> Parts:
        """The chat up to the last turn of the assistant, and that turn; what comes after it is left out."""
        if target not in (None, COLUMN):
            raise DataError(f"the target of a chat is the last turn of the assistant, not the column '{target}'")
        messages = _messages(row)
        turns = [index for index, message in enumerate(messages) if message["role"] == "assistant"]
        if not turns:
            raise DataError(f"the column '{COLUMN}' has no turn of the assistant to predict")
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

    def _render(self, messages: list[Mapping[str, str]], *, add_generation_prompt: bool = False) -> str:
        if self._template is None and not getattr(self._tokenizer, "chat_template", None):
            raise Unsupported(
                "'chat_template: true' needs a tokenizer with a chat template, and this model has none; "
                "write a Jinja template as chat_template, or use text_template"
            )
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


def _messages(row: Mapping[str, Any]) -> list[Mapping[str, str]]:
    if COLUMN not in row:
        raise DataError(f"the row has no column '{COLUMN}'; its columns are: {', '.join(map(str, row)) or 'none'}")
    messages = row[COLUMN]
    if not isinstance(messages, list) or not messages:
        raise DataError(f"the column '{COLUMN}' must be a list of messages, but is {messages!r:.40}")
    for index, message in enumerate(messages):
        for key in ("role", "content"):
            value = message.get(key) if isinstance(message, Mapping) else None
            if not isinstance(value, str):
                raise DataError(f"'{COLUMN}[{index}].{key}' must be text, but is {value!r:.40}")
    return messages
