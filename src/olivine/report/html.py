"""HTML from the templates of the report; whatever they are given is text, unless it is Markup."""

import functools
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from olivine.report.values import FILTERS

if TYPE_CHECKING:
    import jinja2


@functools.cache
def _environment() -> "jinja2.Environment":
    import jinja2

    from olivine.report.compiled import Compiled

    templates = jinja2.FunctionLoader(lambda name: read("templates", name))
    environment = jinja2.Environment(
        loader=templates,
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
        bytecode_cache=Compiled(Path(__file__).parent / "__pycache__"),
    )
    environment.filters.update(FILTERS)
    return environment


def read(folder: str, name: str) -> str:
    """A file that the package brings."""
    return (files("olivine.report") / folder / name).read_text(encoding="utf-8")


def rendered(template: str, **context: Any) -> Markup:
    """The template of that name, filled in."""
    return Markup(_environment().get_template(template).render(context))  # noqa: S704 - autoescaped
