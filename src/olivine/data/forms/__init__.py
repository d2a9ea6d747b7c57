"""How a row becomes text: a template, a pair of prompt and target, or a chat; one form a module.

A form says what is wrong with a row in a DataError without a place; who knows the place adds it.
"""

from typing import Any

from olivine.config.schema import PreProcess
from olivine.data.forms._base import Form, Parts
from olivine.data.forms.chat import Chat
from olivine.data.forms.pair import Pair
from olivine.data.forms.template import Template

__all__ = ["Chat", "Form", "Pair", "Parts", "Template", "form_of"]


def form_of(settings: PreProcess, tokenizer: Any = None) -> Form:
    """The form that the settings ask for: chat_template wins over a pair's columns, over text_template, over text_cols.

    tokenizer: needed to render a chat, not to check rows. Raises DataError when a template cannot be read.
    """
    if settings.chat_template:
        return Chat(settings.chat_template, tokenizer)
    if settings.strategy == "pair" and (settings.pair_format != "default" or not settings.text_template):
        return Pair.of(settings)
    if settings.text_template is not None:
        return Template.parse(settings.text_template, "text_template")
    columns = settings.text_cols or "text"
    return Template.of_columns([columns] if isinstance(columns, str) else columns)
