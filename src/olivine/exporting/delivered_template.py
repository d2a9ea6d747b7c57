"""The delivered chat template, rendered by onnxruntime-genai and held against transformers, chat by chat.

The runtime's Jinja knows some of what templates are written with: `replace`, which SmolLM3's has, is unknown to it.
Where the same can be said in its words, that is delivered; where not, the user is told.
"""

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from olivine.exporting.delivered_tokenizer import CHATS
from olivine.models.turns import as_read, rendered
from olivine.work import Reporter

Messages = Sequence[dict[str, str]]
TEMPLATE = "chat_template.jinja"
N_LITERALS = 20  # of the template itself that go into a probe: what it looks for in messages


def settle(tokenizer: Any, theirs: Any, folder: Path, report: Reporter) -> None:
    """Try the template of a built folder in the runtime; rewrite it there, or warn, when it renders otherwise.

    tokenizer: of the model that was built. theirs: the runtime's, of the built folder.
    """
    source = tokenizer.chat_template
    if not isinstance(source, str):
        return
    chats = list(probes(source))
    differs = _difference(theirs, tokenizer, chats, None)
    if differs is None:
        return
    other = in_words_of_the_runtime(source)
    if (folder / TEMPLATE).is_file() and _difference(theirs, tokenizer, chats, other) is None:
        (folder / TEMPLATE).write_text(other, encoding="utf-8")
        report.record(chat_template="rewritten in what onnxruntime-genai knows; it gives the same text")
        return
    report.warn(
        f"onnxruntime-genai cannot render the model's chat template ({differs}): 'olivine chat' has transformers "
        "render it, and other programs must hand the runtime the text of a chat"
    )


def probes(template: str) -> Iterator[Messages]:
    """Chats with and without a system message, of several turns, and with what the template itself looks for."""
    literals = _literals(template)
    odd = {"role": "user", "content": f"  {literals} \n\n{literals}\t"}
    system = {"role": "system", "content": f" be brief {literals}\n"}
    answer = {"role": "assistant", "content": f" so {literals} "}
    for chat in (*CHATS, [odd], [odd, answer, odd]):
        yield chat
        yield [system, *chat]


def _literals(template: str) -> str:
    literals = re.findall(r"'([^'\n{}]{1,40})'|\"([^\"\n{}]{1,40})\"", template)
    return " ".join([one or other for one, other in literals][:N_LITERALS])


def _difference(theirs: Any, tokenizer: Any, chats: Sequence[Messages], template: str | None) -> str | None:
    """How the runtime differs from transformers on the first chat where it does; template: None is the folder's own."""
    for chat in chats:
        for asks in (True, False):
            expected = rendered(tokenizer, chat, asks=asks)
            if expected is None:
                continue
            own = {"template_str": template} if template is not None else {}
            messages = json.dumps(as_read(tokenizer, chat))
            try:
                text = theirs.apply_chat_template(messages, add_generation_prompt=asks, **own)
            except RuntimeError as error:
                return str(error).partition(" at row")[0].partition("\n")[0]
            if text != expected:
                return "it gives another text"
    return None


def in_words_of_the_runtime(template: str) -> str:
    """`x.replace(a, b)` as `(x.split(a) | join(b))`, for every call whose parts can be told apart."""
    place = 0
    while (call := template.find(".replace(", place)) >= 0:
        start, arguments = _subject(template, call), _arguments(template, call + len(".replace("))
        if arguments is None or start == call:
            place = call + 1
            continue
        (old, new), end = arguments
        written = f"({template[start:call]}.split({old.strip()}) | join({new.strip()}))"
        template, place = template[:start] + written + template[end:], start
    return template


def _subject(template: str, end: int) -> int:
    """Where the expression begins that ends there: names, attributes, and what stands in brackets."""
    start, depth = end, 0
    while start > 0:
        letter = template[start - 1]
        if letter in ")]":
            depth += 1
        elif letter in "([":
            if depth == 0:
                break
            depth -= 1
        elif depth == 0 and not (letter.isalnum() or letter in "_."):
            break
        start -= 1
    return start


def _arguments(template: str, start: int) -> tuple[tuple[str, str], int] | None:
    """Both arguments of a call and where it ends; None unless there are two."""
    parts, quote, depth, begun = [], "", 0, start
    for place in range(start, len(template)):
        letter = template[place]
        if quote:
            quote = "" if letter == quote and template[place - 1] != "\\" else quote
        elif letter in "'\"":
            quote = letter
        elif letter in "([":
            depth += 1
        elif letter in ")]" and depth:
            depth -= 1
        elif letter == "," and not depth:
            parts.append(template[begun:place])
            begun = place + 1
        elif letter == ")":
            parts.append(template[begun:place])
            return ((parts[0], parts[1]), place + 1) if len(parts) == 2 else None
    return None
