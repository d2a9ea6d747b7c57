"""Chats as a model's template writes them, and the tokens that end an answer."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from olivine.jinja import BY_TEMPLATES, PROBE, in_parts, reads_parts

_TOKENS = ("bos_token_id", "eos_token_id", "pad_token_id")


def rendered(tokenizer: Any, chat: Sequence[Any], *, asks: bool = True) -> str | None:
    """The chat as transformers renders it; None where the template refuses it. asks: an answer is to follow."""
    return _rendered(tokenizer, as_read(tokenizer, chat), asks=asks)


def as_read(tokenizer: Any, chat: Sequence[Any]) -> Sequence[Any]:
    """The chat as the template reads contents: as texts, or in parts where it knows nothing else."""
    is_in_parts = reads_parts(lambda messages: _rendered(tokenizer, messages, asks=False) or "")
    return in_parts(chat) if is_in_parts else chat


def _rendered(tokenizer: Any, chat: Sequence[Any], *, asks: bool) -> str | None:
    from jinja2 import TemplateError

    try:
        text: str = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=asks)
    except (TemplateError, *BY_TEMPLATES):
        return None
    return text


def end_tokens(tokenizer: Any, folder: Path) -> list[int]:
    """Every token that ends an answer: the tokenizer's, the generation config's, the end of a turn of the template."""
    tokens = token_ids(tokenizer.eos_token_id)
    generation = folder / "generation_config.json"
    if generation.is_file():
        tokens += token_ids(json.loads(generation.read_text(encoding="utf-8")).get("eos_token_id"))
    return list(dict.fromkeys(tokens + turn_end(tokenizer)))


def name_end_tokens(tokenizer: Any, folder: Path) -> None:
    """Let the generation config of a trained checkpoint name every token that ends an answer.

    transformers stops at those alone, where an exported model stops at the end of a turn, too, and so do scores.
    """
    path = folder / "generation_config.json"
    named = path if path.is_file() else folder / "config.json"
    settings = json.loads(named.read_text(encoding="utf-8"))
    if named != path:  # transformers takes them from there, where no generation config lies
        settings = {key: settings[key] for key in _TOKENS if settings.get(key) is not None}
    known = token_ids(settings.get("eos_token_id"))
    ends = list(dict.fromkeys([*known, *end_tokens(tokenizer, folder)]))
    if ends != known:
        settings["eos_token_id"] = ends
        path.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


# some templates demand a system message, some refuse one
_BEFORE_A_CHAT: tuple[list[dict[str, str]], ...] = ([], [{"role": "system", "content": "be brief"}])


def turn_end(tokenizer: Any) -> list[int]:
    """The special token that the chat template puts right after an assistant's words.

    Empty without one, and where the template refuses every chat that it is tried with.
    """
    if not tokenizer.chat_template:
        return []
    chat = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": PROBE}]
    texts = (rendered(tokenizer, [*before, *chat], asks=False) for before in _BEFORE_A_CHAT)
    _, is_written, after = next((text for text in texts if text is not None), "").rpartition(PROBE)
    if not is_written:  # what the text ends with is then no end of an answer
        return []
    ids = tokenizer(after, add_special_tokens=False)["input_ids"]
    # A template that ends a turn with plain text (or nothing) has no turn end that generation could stop at.
    first = next((token for token in ids if tokenizer.decode([token]).strip()), None)
    if first is None or not (first in tokenizer.all_special_ids or _is_added(tokenizer, first)):
        return []
    return [first]


def _is_added(tokenizer: Any, token: int) -> bool:
    added = tokenizer.added_tokens_decoder.get(token)
    return added is not None and added.special


def token_ids(value: int | list[int] | None) -> list[int]:
    """The ids of a config's entry, which names none, one or several."""
    if value is None:
        return []
    return list(value) if isinstance(value, list) else [value]
