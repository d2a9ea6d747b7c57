"""How a row becomes text: a template, a pair of prompt and target, or a chat; one form a file.

A form says what is wrong with a row in a DataError without a place; who knows the place adds it.
"""

from typing import Any

from olivine.config.schema import PreProcess
from olivine.data.forms._base import Form, FormParams, Parts, Span, Text, cut_at_prompt, value_of
from olivine.data.forms._messages import unwritten_keys
from olivine.data.forms._turns import prompt_columns, turn_columns
from olivine.errors import DataError
from olivine.registry import Registry

forms: Registry[Form] = Registry("olivine.data.forms", Form, group="olivine.data.forms")  # type: ignore[type-abstract]

__all__ = [
    "Form",
    "FormParams",
    "Parts",
    "Span",
    "Text",
    "cut_at_prompt",
    "form_of",
    "forms",
    "kind_of",
    "prompt_columns",
    "turn_columns",
    "unwritten_keys",
    "value_of",
]


def kind_of(settings: PreProcess) -> type[Form]:
    """The form that the settings name, else the first that fits: a chat, a pair, a template. DataError for no form."""
    if settings.form is not None:
        named = forms.find(settings.form)
        if named is None:
            raise DataError(forms.missing(settings.form, "data form"))
        return named
    tried = sorted(forms.own.values(), key=lambda kind: kind.precedence or 0)
    return next(kind for kind in tried if kind.precedence is not None and kind.fits(settings))


def form_of(settings: PreProcess, tokenizer: Any = None) -> Form:
    """The form that the settings ask for: chat_template wins over a pair's columns, over text_template, over text_cols.

    The settings are `resolved`, so that a form that the columns tell stands in them. tokenizer: needed to render a
    chat, not to check rows. Raises DataError when a template cannot be read.
    """
    if (settings.prompt_col is None) != (settings.answer_col is None):
        raise DataError("'prompt_col' and 'answer_col' go together: the columns of what is asked and what is answered")
    return kind_of(settings).of(settings, tokenizer)
