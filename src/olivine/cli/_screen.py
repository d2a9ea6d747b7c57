"""What a person sees while a workflow runs and when it is done."""

import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from olivine.cli._common import say
from olivine.workflow.events import (
    Event,
    Noted,
    Progress,
    RowsRead,
    RunDone,
    SearchDone,
    StepDone,
    StepStarted,
    TrialDone,
    TrialStarted,
    Warned,
)
from olivine.workflow.units import distance, in_unit, readable_bytes

if TYPE_CHECKING:
    from rich.progress import Progress as Bars
    from rich.progress import TaskID


class Screen:
    """A listener that draws events: a line for each step, and a bar below it where the terminal can draw one.

    Everything goes to standard error; standard output carries the result only. Steps that are at work at once have a
    bar each.

    steps: names of the workflow's own, in their order: each is told as "step 2 of 4".
    """

    def __init__(self, steps: Sequence[str] = ()) -> None:
        self._progress: Bars | None = None
        self._bars: dict[str, TaskID] = {}
        self._steps, self._started = list(steps), time.monotonic()

    def __call__(self, event: Event) -> None:
        """Draw an event; those that a person need not see draw nothing."""
        match event:
            case StepStarted():
                self._start(event.step, event.description)
            case Progress():
                self._move(event)
            case StepDone():
                self._end(event.step, ", ".join(filter(None, [event.summary, _cost(event)])))
            case TrialStarted() | TrialDone() | SearchDone():
                _tell_search(event)
            case RunDone():
                say(f"all in {duration(time.monotonic() - self._started)}", err=True, dim=True)
            case Noted():
                say(f"{event.step}: {event.message}", err=True, dim=True)
            case RowsRead():
                self._end(event.step, f"{event.n_rows:,} rows")
            case Warned():
                about = f"{event.step}: " if event.step else ""
                say(f"! {about}{event.message}", err=True, fg="yellow")

    def note(self, message: str) -> None:
        """What was made of the config, before anything runs."""
        say(f"note: {message}", err=True, dim=True)

    def close(self) -> None:
        """Leave the terminal as it was."""
        if self._progress is not None:
            self._progress.stop()
        self._progress, self._bars = None, {}

    def _start(self, step: str, description: str) -> None:
        self._remove(step)
        place = f" (step {self._steps.index(step) + 1} of {len(self._steps)})" if step in self._steps else ""
        say(f"{step}{place}: {description} ...", err=True)
        if not sys.stderr.isatty():
            return
        if self._progress is None:
            self._progress = _bars()
            self._progress.start()
        self._bars[step] = self._progress.add_task(step, total=None, metrics="")

    def _move(self, event: Progress) -> None:
        if self._progress is not None and event.step in self._bars:
            told = {key: value for key, value in event.metrics.items() if key != "seconds_left"}  # beside the bar
            text = "  ".join(_metric(key, value) for key, value in told.items())
            self._progress.update(self._bars[event.step], completed=event.done, total=event.total, metrics=text)

    def _end(self, step: str, outcome: str) -> None:
        self._remove(step)
        click.secho("✓", fg="green", nl=False, err=True)
        say(f" {step}: {outcome}", err=True)

    def _remove(self, step: str) -> None:
        if self._progress is not None and step in self._bars:
            self._progress.remove_task(self._bars.pop(step))
        if not self._bars:
            self.close()


def _tell_search(event: TrialStarted | TrialDone | SearchDone) -> None:
    """A line for the begin and the end of a trial, and some for what all came to."""
    match event:
        case TrialStarted():
            of = f" of {event.n_trials}" if event.n_trials is not None else ""
            say(f"trial {event.trial}{of}: {_point(event.point)}", err=True, bold=True)
        case TrialDone():
            say(f"trial {event.trial}: {_outcome(event)}", err=True, fg=None if event.values else "yellow")
        case SearchDone():
            for line in _search_lines(event):
                say(line, err=True, bold=True)


def _search_lines(event: SearchDone) -> Iterator[str]:
    """What a search came to; what follows is its chosen trial."""
    left_out = f", {event.n_refused} points cannot run" if event.n_refused else ""
    yield f"search: {event.n_trials} trials, {event.n_failed} failed{left_out}"
    if event.near_misses:
        yield "no trial meets the goals; the nearest:"
    for near in event.near_misses[:_N_NEAR]:
        yield f"  trial {near['trial']}: {'; '.join(near['missed'])}"
    if event.chosen is not None:
        yield f"chosen: trial {event.chosen}; on the Pareto front: {', '.join(map(str, event.front))}"


def _point(point: Mapping[str, Any]) -> str:
    """What a trial chooses, in a line."""
    return ", ".join(f"{name} {value}" for name, value in point.items())


def _outcome(event: TrialDone) -> str:
    """What a trial came to, in a line."""
    if not event.values:
        return f"{event.outcome}: {event.cause}"
    told = {key: form for _, key, form in COLUMNS if key in event.values}
    numbers = [
        f"{key.replace('_', ' ')} {form.format(event.values[key])}" for key, form in told.items() if key != "size_bytes"
    ]
    named = {"size_bytes", "drop", "broken", *told}
    numbers += [f"{name.replace('_', ' ')} {value:.4g}" for name, value in event.values.items() if name not in named]
    if "size_bytes" in event.values:
        numbers.append(readable_bytes(event.values["size_bytes"]))
    goal = ", misses a goal" if event.missed else ""
    return f"{', '.join(numbers)}{goal}, {duration(event.seconds)}"


def _bars() -> "Bars":
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars
    from rich.table import Column

    # the numbers come last and are cut where the terminal is narrow; bar, share and time never are
    columns = (
        BarColumn(bar_width=16),
        TextColumn("{task.percentage:>3.0f} %", table_column=Column(no_wrap=True)),
        TimeRemainingColumn(table_column=Column(no_wrap=True)),
        TextColumn("{task.fields[metrics]}", table_column=Column(no_wrap=True, overflow="ellipsis", ratio=1)),
    )
    return Bars(*columns, console=Console(stderr=True), transient=True, expand=True)


def _cost(event: StepDone) -> str:
    """What a step took, and what its pass says of it."""
    if event.is_cached:
        return "cached"
    text = duration(event.seconds)
    if event.peak_memory_bytes is not None:
        text += f", peak memory {event.peak_memory_bytes / 1e9:.1f} GB"
    if "n_trained_parameters" in event.facts:
        text += f", {event.facts['n_trained_parameters']:,} parameters trained"
    if "summary" in event.facts:
        text += f", {event.facts['summary']}"
    return text


def duration(seconds: float) -> str:
    """A time as a person tells it."""
    if seconds < 100:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02} min"


# how a number of the progress is written, by its name
_METRICS = {
    "loss": "loss {:.3f}",
    "tokens_per_second": "{:,.0f} tok/s",
    "rows_per_second": "{:,.0f} rows/s",
    "memory_gb": "{:.1f} GB",
    "share_of_peak": "{:.0%} of peak",
}


def _metric(name: str, value: Any) -> str:
    if value is None:
        return f"{name} not a number"
    if name in _METRICS and isinstance(value, (int, float)):
        return _METRICS[name].format(value)
    return f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}"


# column of the table -> key of a score, and how it is written; perplexity only says once more what the loss does
COLUMNS = (
    ("accuracy", "label_accuracy", "{:.1%}"),
    ("change", "change", "{:+.1%}"),
    ("loss", "loss", "{:.3f}"),
    ("KL", "kl", "{:.4f}"),
    ("same top", "top1_agreement", "{:.1%}"),
    ("cosine", "cosine", "{:.4f}"),
    ("largest diff.", "largest_difference", "{:.3g}"),
    ("size", "size_bytes", "{}"),
)
WIDTH = 80  # of a terminal
_N_NEAR = 5  # trials that are told when none meets the goals
NOTE = (
    "KL: divergence from the model before, in nats a token: 0 after a merge, below 0.05 good after rounding to 4 bits, "
    "above 0.15 look at the answers. Same top: how often both put the same token first."
)
NOTE_ON_OUTPUTS = (
    "Cosine, largest diff.: of the outputs to those of the model before. Same top: how often both rank one class first."
)


def note_on(rows: Iterable[Mapping[str, Any]]) -> str:
    """What the columns of a table of several models mean."""
    return NOTE_ON_OUTPUTS if any("cosine" in row for row in rows) else NOTE


def score_table(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    """The seams as lines of a Markdown table, at most 80 wide: it can be pasted into a README.

    A column without a number is left out, and a name that is too long is cut.
    """
    rows = list(rows)
    columns = [column for column in COLUMNS if any(_cell(row, *column[1:]) for row in rows)]
    cells = [[title for title, _, _ in columns], *([_cell(row, *column[1:]) for column in columns] for row in rows)]
    widths = [max(len(line[column]) for line in cells) for column in range(len(columns))]
    names = ["model", *(str(row["model"]) for row in rows)]
    room = min(max(len(name) for name in names), WIDTH - 4 - sum(width + 3 for width in widths))
    written = [
        f"| {' | '.join([_cut(name, room), *(text.rjust(w) for text, w in zip(line, widths, strict=True))])} |"
        for name, line in zip(names, cells, strict=True)
    ]
    rule = f"|{'-' * (room + 2)}|{''.join('-' * (width + 1) + ':|' for width in widths)}"
    return [written[0], rule, *written[1:]]


def _cut(name: str, room: int) -> str:
    return name.ljust(room) if len(name) <= room else f"{name[: room - 1]}…"


def table_notes(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    """What the table does not say of the models and the rows that were scored, one line each."""
    rows = list(rows)
    return [*_chance(rows), *_of_plugins(rows), *_told(rows)]


def _of_plugins(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    """The numbers of metrics that the table has no column for, a line each."""
    numbers: dict[str, list[str]] = {}
    for row in rows:
        for name in row.get("of_plugins", ()):
            value = row.get(name)
            numbers.setdefault(name, []).append(f"{row['model']} {'none' if value is None else f'{value:.4g}'}")
    return [f"{name}: {', '.join(values)}" for name, values in numbers.items()]


def _chance(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    """How much of an accuracy may be chance: the largest standard error of the table, so that one line serves all."""
    known = [(row["label_accuracy_standard_error"], row["n_rows"]) for row in rows if _has_error(row)]
    if not known:
        return []
    error, n_rows = max(known)
    return [f"Accuracy: ± {100 * error:.1f} points ({n_rows} rows), one standard error."]


def _has_error(row: Mapping[str, Any]) -> bool:
    return row.get("label_accuracy_standard_error") is not None


def _told(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    told = (
        ("n_left_out", "{} rows are longer than the model reads, and left out"),
        ("n_empty", "{} answers are empty"),
        ("token_ids_only", "asked in token ids: onnxruntime-genai reads no tokenizer of it"),
        ("n_other_tokens", "{} prompts have other tokens in onnxruntime-genai"),
    )
    return [f"{row['model']}: {text.format(row[key])}" for row in rows for key, text in told if row.get(key)]


def _cell(row: Mapping[str, Any], key: str, form: str) -> str:
    value = 0.0 - row["drop"] if key == "change" and "drop" in row else row.get(key)
    if value is None:
        return "none" if key in row.get("no_number", ()) else ""
    return readable_bytes(value) if key == "size_bytes" else form.format(value)


def asked_table(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    """What an evaluator asked for as lines of a Markdown table: see `olivine.workflow.verdict.table_of`."""
    cells = [["asked for", "input", "result", "goal", "margin"], *(_asked_cells(row) for row in rows)]
    kept = [place for place in range(5) if place in (0, 2) or any(line[place] for line in cells[1:])]
    cells = [[line[place] for place in kept] for line in cells]
    widths = [max(len(line[place]) for line in cells) for place in range(len(kept))]
    aligned = [[line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])] for line in cells]
    written = [f"| {' | '.join(line)} |" for line in aligned]
    rule = f"|{'-' * (widths[0] + 2)}|{''.join('-' * (width + 1) + ':|' for width in widths[1:])}"
    return [written[0], rule, *written[1:]]


def _asked_cells(row: Mapping[str, Any]) -> list[str]:
    """Name, number of the input model, of the result, goal, and by how much the result is better than that."""
    unit = row["unit"]
    baseline, value = (in_unit(row[key], unit) if row[key] is not None else "" for key in ("baseline", "value"))
    if row["bound"] is None:
        return [row["name"], baseline, value or "none", "missed" if row["is_met"] is False else "", ""]
    goal = f"{'≥' if row['higher_is_better'] else '≤'} {in_unit(row['bound'], unit)}"
    margin = f"{'-' if row['margin'] < 0 else '+'}{distance(abs(row['margin']), unit)}"
    return [row["name"], baseline, value, goal, margin]
