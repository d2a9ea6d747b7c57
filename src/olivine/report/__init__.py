"""The report of a run, drawn from its events alone: `write_report(output_dir)`.

One file that loads nothing: sections (see `olivine.report.section`) are filled into templates, plots are SVG drawn
here, curves are drawn by uPlot, which is inlined.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from olivine.errors import RequestError
from olivine.workflow.deliver import write_text
from olivine.workflow.journal import read_journal

if TYPE_CHECKING:
    from olivine.report.run import Run

__all__ = ["REPORT", "html_of", "last_run", "write_report"]

REPORT = "report.html"
_OURS = '<meta name="generator" content="olivine'  # stands in every report, within its first bytes
_N_BYTES = 2000


def last_run(output_dir: Path) -> "Run":
    """The run of an output folder that began last; RequestError where there is none."""
    from olivine.report.run import runs_of

    try:
        runs = runs_of(read_journal(output_dir), output_dir)
    except OSError as error:
        why = (error.strerror or str(error)).lower()
        raise RequestError(
            f"'{output_dir}' has no journal.jsonl that can be read ({why}): name an output folder"
        ) from None
    if not runs:
        raise RequestError(f"the journal of '{output_dir}' holds no run")
    return runs[-1]


def html_of(runs: Sequence["Run"]) -> str:
    """One run as a report, or several of them beside each other, as HTML."""
    from olivine.report.page import draw, draw_several

    return draw(runs[0]) if len(runs) == 1 else draw_several(runs)


def write_report(runs: Sequence["Run"], path: Path) -> None:
    """Write the page of runs to a file; RequestError where another's file has that name, which stays as it is."""
    if path.is_dir() or (path.exists() and not _is_report(path)):
        raise RequestError(f"'{path}' is not a report of olivine, and stays as it is; name another file with --output")
    write_text(path, html_of(runs))


def _is_report(path: Path) -> bool:
    with path.open("rb") as file:
        return _OURS.encode() in file.read(_N_BYTES)
