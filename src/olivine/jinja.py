"""Chat templates as programs in Jinja: whether one compiles, and what it may raise."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

# transformers' own tags, which say what an assistant wrote; no part of Jinja
_GENERATION = re.compile(r"\{%[-+]?\s*(end)?generation\s*[-+]?%\}")
BY_TEMPLATES = (TypeError, ValueError, ArithmeticError, LookupError, AttributeError, RecursionError)
"""What a template may raise while it renders, beside TemplateError of Jinja: it is a program of the model's maker."""


def syntax_fault(template: str) -> str | None:
    """Why a chat template is no program, with the line; None where it is one."""
    import jinja2

    environment = jinja2.Environment(trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"])  # noqa: S701 - nothing is rendered
    try:
        environment.compile(_GENERATION.sub("", template), raw=True)
    except jinja2.TemplateSyntaxError as error:
        return f"line {error.lineno}: {error.message}"
    except RecursionError:
        return "it is nested too deep"
    return None


PROBE = "\u2063\u2064\u2063"
"""Invisible separators, which no template writes or changes: where they stand, the content of a message stood."""


def reads_parts(written: Callable[[Sequence[Mapping[str, Any]]], str]) -> bool:
    """Whether a template reads contents in parts alone, as those of models do that see images: of text it drops it all.

    written: what the template makes of messages; empty where it refuses them.
    """
    chat = [{"role": role, "content": PROBE} for role in ("user", "assistant")]
    return PROBE not in written(chat) and PROBE in written(in_parts(chat))


def in_parts(messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The messages with their texts as lists of one part; without a text, there is none."""
    return [
        {**message, "content": [{"type": "text", "text": message["content"]}] if message.get("content") else []}
        for message in messages
    ]
