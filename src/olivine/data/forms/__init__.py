"""How a row becomes text: a template, a pair of prompt and target, or a chat; one form a module.

A form says what is wrong with a row in a DataError without a place; who knows the place adds it.
"""

from typing import Any

from olivine.config.schema import PreProcess
from olivine.data.forms._base import Form, Parts, Text
from olivine.data.forms._messages import MessageColumn, Reader
from olivine.data.forms._turns import TurnColumns, prompt_columns
from olivine.data.forms.chat import Chat, template_of
from olivine.data.forms.pair import Pair
from olivine.data.forms.template import Template
from olivine.errors import DataError

__all__ = ["Chat", "Form", "Pair", "Parts", "Template", "Text", "form_of", "reads_pairs", "template_of"]


def reads_pairs(settings: PreProcess) -> bool:
    """Whether prompt and target come from columns of their own. Strategy `pair` prefers them to text_cols."""
    if settings.chat_template:
        return False
    if settings.prompt_col is not None:
        return True
    if settings.strategy == "pair":
        return settings.pair_format not in (None, "default") or not settings.text_template
    return settings.pair_format is not None and settings.text_template is None and not settings.text_cols


def form_of(settings: PreProcess, tokenizer: Any = None) -> Form:
    """The form that the settings ask for: chat_template wins over a pair's columns, over text_template, over text_cols.

    The settings are `resolved`, so that a form that the columns tell stands in them. tokenizer: needed to render a
    chat, not to check rows. Raises DataError when a template cannot be read.
    """
    if (settings.prompt_col is None) != (settings.answer_col is None):
        raise DataError("'prompt_col' and 'answer_col' go together: the columns of what is asked and what is answered")
    if settings.chat_template:
        return Chat(settings.chat_template, tokenizer, _reader(settings))
    if reads_pairs(settings):
        return Pair.of(settings)
    if settings.text_template is not None:
        return Template.parse(settings.text_template, "text_template")
    columns = settings.text_cols or "text"
    return Template.of_columns([columns] if isinstance(columns, str) else columns)


def _reader(settings: PreProcess) -> Reader:
    """Where a chat's messages stand: in a column of their own, or turn by turn."""
    if settings.prompt_col is None or settings.answer_col is None:
        return MessageColumn(settings.message_col, settings.system_col)
    return TurnColumns(prompt_columns(settings.prompt_col), settings.answer_col, settings.system_col)
