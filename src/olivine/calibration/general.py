"""The general text that comes with olivine, to calibrate with where nobody names another: pages of many kinds."""

from array import array
from collections.abc import Iterator
from typing import Any

from olivine.calibration.general_text import PAGES
from olivine.data import Encoder
from olivine.models.turns import rendered

_BEGINS_A_PAGE = "%%% "
_TURNS = {"user: ": "user", "assistant: ": "assistant"}


def general_tokens(tokenizer: Any) -> Iterator["array[int]"]:
    """Ids of one page after the other, in their order; a chat as the tokenizer's template writes it.

    Where there is no template, or it refuses the chat, its turns are read as they stand.
    """
    plain, framed = (Encoder(tokenizer, add_special_tokens=add) for add in (False, True))
    for kind, text in pages():
        chat = _through_template(tokenizer, text) if kind.startswith("chat") else None
        encoder, page = (framed, text) if chat is None else (plain, chat)
        yield from (tokens.ids for tokens in encoder.encode([page]))


def pages() -> list[tuple[str, str]]:
    """Every page: what it is and where it comes from, and its text."""
    parts = PAGES.split(f"\n{_BEGINS_A_PAGE}")[1:]
    split = (part.partition("\n") for part in parts)
    return [(head, text.strip("\n")) for head, _, text in split]


def _through_template(tokenizer: Any, text: str) -> str | None:
    return rendered(tokenizer, _messages(text), asks=False) if getattr(tokenizer, "chat_template", None) else None


def _messages(text: str) -> list[dict[str, str]]:
    """The turns of a chat: a line that begins with a role begins one, and the lines after it belong to it."""
    messages: list[dict[str, str]] = []
    for line in text.split("\n"):
        role = next((role for mark, role in _TURNS.items() if line.startswith(mark)), None)
        if role is not None:
            messages.append({"role": role, "content": line.partition(": ")[2]})
        else:
            messages[-1]["content"] += f"\n{line}"
    return messages
