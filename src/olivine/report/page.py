"""The page: sections of one run, or several runs beside each other, as one file that loads nothing."""

import base64
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from olivine import __version__
from olivine.registry import Registry
from olivine.report.comparison import compared
from olivine.report.html import read, rendered
from olivine.report.run import Run
from olivine.report.section import Section
from olivine.report.values import moment

sections: Registry[Section] = Registry("olivine.report.sections", Section, "olivine.sections")  # type: ignore[type-abstract]


@dataclass(frozen=True)
class _Drawn:
    name: str
    title: str
    body: Markup


def draw(run: Run) -> str:
    """The report of a run as HTML."""
    plugins = sorted(sections.classes.values(), key=lambda plugin: (plugin.place, plugin.name))
    drawn = [_Drawn(plugin.name, plugin.title, body) for plugin in plugins if (body := plugin().draw(run))]
    return _page(title_of(run), f"Run {run.started.run}, begun {moment(run.started.time)}", drawn)


def draw_several(runs: Sequence[Run]) -> str:
    """Several runs beside each other as HTML, in the order in which they are given."""
    drawn = [_Drawn(name, title, body) for name, title, body in compared(runs)]
    return _page(f"{len(runs)} runs beside each other", f"Drawn from {len(runs)} output folders", drawn)


def title_of(run: Run) -> str:
    """What a run is called: by its output folder."""
    return run.output_dir.resolve().name or "run"


def _page(title: str, below: str, drawn: Sequence[_Drawn]) -> str:
    scripts = list(_scripts(any('class="curve"' in one.body for one in drawn)))
    style = read("static", "style.css") + (read("static", "uPlot.min.css") if len(scripts) > 1 else "")
    html = rendered(
        "page.html",
        title=title,
        below=below,
        version=__version__,
        sections=drawn,
        style=Markup(style),  # noqa: S704 - files of the package
        scripts=[Markup(script) for script in scripts],  # noqa: S704
        hashes=Markup(" ").join(map(_hashed, scripts)) or "'none'",
    )
    return str(html)


def _scripts(has_curves: bool) -> Iterator[str]:
    """What runs on the page; anything else is refused by its policy."""
    if has_curves:
        yield read("static", "uPlot.iife.min.js").strip()
    yield read("static", "report.js").strip()


def _hashed(script: str) -> str:
    """A script as the Content-Security-Policy names it."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"
