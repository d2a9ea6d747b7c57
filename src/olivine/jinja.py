"""Chat templates as programs in Jinja: whether one compiles, and what it may raise."""

import re

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
