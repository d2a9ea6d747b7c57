"""What a person sees while a workflow runs and when it is done."""

import sys
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import click

from olivine.cli._common import say

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID


class Screen:
    """Implements the engine's reporter: a line for each step, and a bar below it where the terminal can draw one.

    Everything goes to standard error; standard output carries the result only.
    """

    def __init__(self) -> None:
        self._progress: Progress | None = None
        self._task: TaskID | None = None

    def step_started(self, name: str, description: str) -> None:
        """A step begins to work."""
        self._stop()
        click.echo(f"{name}: {description} ...", err=True)
        if not sys.stderr.isatty():
            return
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
        from rich.table import Column

        # the numbers come last and are cut where the terminal is narrow; bar, share and time never are
        columns = (
            BarColumn(bar_width=16),
            TextColumn("{task.percentage:>3.0f} %", table_column=Column(no_wrap=True)),
            TimeRemainingColumn(table_column=Column(no_wrap=True)),
            TextColumn("{task.fields[metrics]}", table_column=Column(no_wrap=True, overflow="ellipsis", ratio=1)),
        )
        self._progress = Progress(*columns, console=Console(stderr=True), transient=True, expand=True)
        self._task = self._progress.add_task(name, total=None, metrics="")
        self._progress.start()

    def progress(self, name: str, done: float, total: float, metrics: Mapping[str, Any]) -> None:  # noqa: ARG002
        """The step that is at work came further."""
        if self._progress is not None and self._task is not None:
            told = {key: value for key, value in metrics.items() if key != "seconds_left"}  # beside the bar
            text = "  ".join(_metric(key, value) for key, value in told.items())
            self._progress.update(self._task, completed=done, total=total, metrics=text)

    def step_done(self, name: str, outcome: str) -> None:
        """A step is done, or was found in the cache; `outcome` says which, and what it cost."""
        self._stop()
        click.echo(f"{click.style('✓', fg='green')} {name}: {outcome}", err=True)

    def warning(self, name: str, message: str) -> None:
        """Something that the user should know, though the run goes on."""
        say(f"! {name}: {message}" if name else f"! {message}", err=True, fg="yellow")

    def note(self, message: str) -> None:
        """What was made of the config, before anything runs."""
        say(f"note: {message}", err=True, dim=True)

    def close(self) -> None:
        """Leave the terminal as it was."""
        self._stop()

    def _stop(self) -> None:
        if self._progress is not None:
            self._progress.stop()
        self._progress = self._task = None


# how a number of the progress is written, by its name
_METRICS = {
    "loss": "loss {:.3f}",
    "tokens_per_second": "{:,.0f} tok/s",
    "rows_per_second": "{:,.0f} rows/s",
    "memory_gb": "{:.1f} GB",
    "share_of_peak": "{:.0%} of peak",
}


def _metric(name: str, value: Any) -> str:
    if name in _METRICS and isinstance(value, (int, float)):
        return _METRICS[name].format(value)
    return f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}"


# column of the table -> key of a score, and how it is written
COLUMNS = (
    ("accuracy", "label_accuracy", "{:.1%}"),
    ("change", "change", "{:+.1%}"),
    ("loss", "loss", "{:.3f}"),
    ("perplexity", "perplexity", "{:.4g}"),
    ("KL to the step before", "kl", "{:.4f}"),
    ("same top token", "top1_agreement", "{:.1%}"),
    ("size", "size_bytes", "{}"),
)


def score_table(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    """The seams as lines of a Markdown table: it reads well in a terminal and can be pasted into a README."""
    table = [["model", *(title for title, _, _ in COLUMNS)]]
    table += [[str(row["model"]), *(_cell(row, key, form) for _, key, form in COLUMNS)] for row in rows]
    widths = [max(len(line[column]) for line in table) for column in range(len(table[0]))]
    written = [
        "| "
        + " | ".join(
            text.ljust(w) if i == 0 else text.rjust(w) for i, (text, w) in enumerate(zip(line, widths, strict=True))
        )
        + " |"
        for line in table
    ]
    rule = "|" + "|".join("-" * (w + 2) if i == 0 else "-" * (w + 1) + ":" for i, w in enumerate(widths)) + "|"
    return [written[0], rule, *written[1:]]


def _cell(row: Mapping[str, Any], key: str, form: str) -> str:
    value = 0.0 - row["drop"] if key == "change" and "drop" in row else row.get(key)
    if value is None:
        return ""
    return readable_bytes(value) if key == "size_bytes" else form.format(value)


def readable_bytes(n_bytes: float) -> str:
    """Bytes in the unit that a person would choose."""
    for unit in ("B", "kB", "MB"):
        if n_bytes < 1000:
            return f"{n_bytes:.0f} {unit}"
        n_bytes /= 1000
    return f"{n_bytes:.1f} GB"
