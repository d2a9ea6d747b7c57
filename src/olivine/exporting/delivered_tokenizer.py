"""The delivered tokenizer as onnxruntime-genai reads it, held against transformers: text by text, chat by chat."""

# ruff: noqa: RUF001 - the texts are in many scripts on purpose

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from olivine.data import Encoder
from olivine.models.turns import rendered
from olivine.runtimes.genai_tokenizer import TokenizerRefusedError, open_tokenizer
from olivine.work import Reporter

# White space, digits, marks, scripts, what is composed, what has no letters, what looks like a special token.
TEXTS = (
    "",
    "The quick brown fox jumps over the lazy dog.",
    " a space before, one after ",
    "two  spaces,   three\tand\t\ttabs",
    "lines\nand\n\nparagraphs\n",
    "\r\nas Windows ends them\r\n",
    "1. one\n\n2. two\n  3. three",
    "12345 6789, 3.14 and 1,000,000",
    "don't WE'LL it's they'VE",
    'x = {"a": [1, 2]};\n\n    if y:\n\t\treturn z  # …',
    "café, naïve, Ünïcödé",
    "cafe\u0301 with a combining accent",
    "你好，世界。 こんにちは、日本",
    "Привет мир, γειά σου, שלום, مرحبا ١٢٣, हिन्दी",
    "😀 and 👩‍👩‍👧, € and ½, ﬁ and ①",
    "a\u00a0hard space, \u3000a wide one",
    "— “quoted” – ‘so’ …",
    "a" * 60,
)
CHATS = (
    [{"role": "user", "content": "hello"}],
    [
        {"role": "user", "content": "What is 2 + 2?"},
        {"role": "assistant", "content": "4"},
        {"role": "user", "content": "  And\n\n3?  "},
    ],
)
N_TOLD = 3  # texts that a warning names


def of_runtime(folder: Path, report: Reporter) -> Any | None:
    """The runtime's tokenizer of a built folder; None where there is none, or it reads none, with a warning."""
    if not (folder / "tokenizer.json").is_file():
        return None
    try:
        return open_tokenizer(folder)
    except TokenizerRefusedError as error:
        report.warn(f"onnxruntime-genai cannot read the model's tokenizer, so it takes token ids only: {error}")
        return None


def compare(ours: Any, theirs: Any, report: Reporter) -> None:
    """Warn of every text that the runtime's tokenizer reads otherwise than transformers, naming it.

    Training and scoring use transformers' tokens; where the runtime makes others of the same text, the model answers
    something else than it was trained for. theirs: of `of_runtime`.
    """
    texts = list(_texts(ours))
    differing = [text for text in texts if _ids(ours, text) != theirs.encode(text).tolist()]
    if differing:
        told = ", ".join(json.dumps(text, ensure_ascii=False) for text in differing[:N_TOLD])
        report.warn(
            f"onnxruntime-genai's tokenizer reads {len(differing)} of {len(texts)} texts as other tokens than "
            f"transformers: {told}{' ...' if len(differing) > N_TOLD else ''}"
        )
    if Encoder(ours, add_special_tokens=True).begin is not None:
        begin = ours.bos_token
        report.warn(
            f"transformers puts {begin} before a text, onnxruntime-genai's encode never does: where the model needs "
            f"it, begin prompts that are no chats with {begin}"
        )


def _texts(tokenizer: Any) -> Iterator[str]:
    """Texts, some with every special token in them, and chats as the template renders them."""
    yield from TEXTS
    for token in tokenizer.all_special_tokens:
        yield from (token, f"before{token}after", f"before {token} after\n")
    if tokenizer.chat_template:
        yield from (text for chat in CHATS if (text := rendered(tokenizer, chat)) is not None)


def _ids(tokenizer: Any, text: str) -> list[int]:
    ids: list[int] = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    return ids
