"""What a person sees while a workflow runs and when it is done."""

import sys
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import click

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
        if not sys.stderr.isatty():
            click.echo(f"{name}: {description} ...", err=True)
            return
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (
            TextColumn("{task.description}"),
            BarColumn(bar_width=30),
            TextColumn("{task.percentage:>3.0f} %"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[metrics]}"),
        )
        self._progress = Progress(*columns, console=Console(stderr=True), transient=True)
        self._task = self._progress.add_task(f"{name}: {description}", total=None, metrics="")
        self._progress.start()

    def progress(self, name: str, done: float, total: float, metrics: Mapping[str, Any]) -> None:  # noqa: ARG002
        """The step that is at work came further."""
        if self._progress is not None and self._task is not None:
            text = "  ".join(f"{key} {_number(value)}" for key, value in metrics.items())
            self._progress.update(self._task, completed=done, total=total, metrics=text)

    def step_done(self, name: str, outcome: str) -> None:
        """A step is done, or was found in the cache; `outcome` says which, and what it cost."""
        self._stop()
        click.echo(f"{click.style('✓', fg='green')} {name}: {outcome}", err=True)

    def warning(self, name: str, message: str) -> None:
        """Something that the user should know, though the run goes on."""
        click.secho(f"! {name}: {message}" if name else f"! {message}", err=True, fg="yellow")

    def note(self, message: str) -> None:
        """What was made of the config, before anything runs."""
        click.secho(f"note: {message}", err=True, dim=True)

    def close(self) -> None:
        """Leave the terminal as it was."""
        self._stop()

    def _stop(self) -> None:
        if self._progress is not None:
            self._progress.stop()
        self._progress = self._task = None


def _number(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


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
