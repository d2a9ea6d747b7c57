"""What a person sees while a workflow runs and when it is done."""

import os
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from olivine.cli._common import say
from olivine.workflow.columns import COLUMNS
from olivine.workflow.events import (
    Event,
    Noted,
    Progress,
    RowsRead,
    RunDone,
    RunStarted,
    Scored,
    SearchDone,
    StepDone,
    StepFailed,
    StepStarted,
    TrialDone,
    TrialStarted,
    Warned,
)
from olivine.workflow.units import distance, duration, in_unit, readable_bytes
from olivine.workflow.words import DOUBT

if TYPE_CHECKING:
    from olivine.cli._board import Board, State
    from olivine.cli._pulse import Pulse


class Screen:
    """A listener that draws events: as a list of steps that moves where the terminal can draw one, else as lines.

    Lines tell the begin and the end of a step, and between them where it is, once a minute.

    Everything goes to standard error; standard output carries the result only.

    steps: names of the workflow's own, in their order: a line tells each as "step 2 of 4". progress: whether a list may
    move; without it there are lines in a terminal too.
    """

    def __init__(self, steps: Sequence[str] = (), *, progress: bool = True) -> None:
        self._board: Board | None = None
        self._pulse: Pulse | None = None
        self._may_move = progress
        self._steps, self._started = list(steps), time.monotonic()
        self.has_begun = False  # whether a run writes its journal by now

    def __call__(self, event: Event) -> None:
        """Draw an event; those that a person need not see draw nothing."""
        match event:
            case RunStarted():
                self.has_begun = True
            case TrialStarted() | TrialDone() | SearchDone():
                self._search(event)
            case RunDone():
                self.close()
                say(f"all in {duration(time.monotonic() - self._started)}", err=True, dim=True)
            case Noted():
                self._say(f"{event.step}: {event.message}", "dim")
            case Warned():
                about = f"{event.step}: " if event.step else ""
                self._say(f"! {about}{event.message}", "yellow")
            case _:
                self._step(event)

    def _step(self, event: Event) -> None:
        match event:
            case StepStarted():
                self._start(event.step, event.description)
            case Progress():
                if (shown := self._board or self._pulse) is not None:
                    shown.move(event.step, event.done, event.total, event.metrics)
            case StepDone():
                self._end(event.step, [event.summary, *_cost(event)], "cached" if event.is_cached else "done")
            case StepFailed():  # the command itself says why, as the last thing
                if self._board is not None:
                    self._board.end(event.step, "failed", "failed")
                elif self._pulse is not None:
                    self._pulse.end(event.step)
            case Scored() if self._board is not None and event.step is not None and event.size_bytes:
                self._board.add(event.step, readable_bytes(event.size_bytes))
            case RowsRead():
                self._end(event.step, [f"{event.n_rows:,} rows"], "done")

    def note(self, message: str) -> None:
        """What was made of the config, before anything runs; what is doubted of it looks like any warning."""
        if message.startswith(DOUBT):
            self._say(f"! {message.removeprefix(DOUBT)}", "yellow")
        else:
            self._say(f"note: {message}", "dim")

    def line(self, text: str) -> None:
        """What a command tells of a run while it goes on: above the list where there is one."""
        self._say(text)

    def close(self) -> None:
        """Leave the terminal as it was."""
        if self._board is not None:
            self._board.close(tells_stopped=self.has_begun)
        if self._pulse is not None:
            self._pulse.close()
        self._board = self._pulse = None

    def _start(self, step: str, description: str) -> None:
        if self._board is None and self._may_move and _can_move():
            from olivine.cli._board import Board

            self._board = Board(self._steps, _metric)
        if self._board is not None:
            self._board.start(step, description)
            return
        place = f" (step {self._steps.index(step) + 1} of {len(self._steps)})" if step in self._steps else ""
        say(f"{step}{place}: {description} ...", err=True)
        if self._pulse is None:
            from olivine.cli._pulse import Pulse

            self._pulse = Pulse(lambda line: self._say(line, "dim"), _metric)
        self._pulse.start(step)

    def _end(self, step: str, outcome: Sequence[str], state: "State") -> None:
        if self._board is not None:
            self._board.end(step, state, *outcome[1:], *outcome[:1])  # what it cost stands in columns
            return
        if self._pulse is not None:
            self._pulse.end(step)
        click.secho("✓", fg="green", nl=False, err=True)
        say(f" {step}: {', '.join(filter(None, outcome))}", err=True)

    def _search(self, event: TrialStarted | TrialDone | SearchDone) -> None:
        if self._board is not None and isinstance(event, TrialStarted):
            self._board.begin_again()
        for line, style in _of_search(event):
            self._say(line, style)

    def _say(self, text: str, style: str = "") -> None:
        """A sentence: above the list where there is one. style: of those that click and rich both know."""
        if self._board is not None:
            self._board.say(text, style)
            return
        look: dict[str, Any] = {"bold": True} if style == "bold" else {"dim": True} if style == "dim" else {}
        say(text, err=True, **(look or {"fg": style or None}))


def _can_move() -> bool:
    """Whether standard error is a terminal that draws in place."""
    return sys.stderr.isatty() and os.environ.get("TERM", "") not in ("dumb", "unknown")


def _of_search(event: TrialStarted | TrialDone | SearchDone) -> Iterator[tuple[str, str]]:
    """A line for the begin and the end of a trial, and some for what all came to; each with its style."""
    match event:
        case TrialStarted():
            of = f" of {event.n_trials}" if event.n_trials is not None else ""
            yield f"trial {event.trial}{of}: {event.name or _point(event.point)}", "bold"
        case TrialDone():
            yield f"trial {event.trial}: {_outcome(event)}", "" if event.values else "yellow"
        case SearchDone():
            for line in _search_lines(event):
                yield line, "bold"


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


def _cost(event: StepDone) -> Iterator[str]:
    """What a step took, and what its pass says of it."""
    if event.is_cached:
        yield "cached"
        return
    yield duration(event.seconds)
    if event.peak_memory_bytes is not None:
        yield f"peak memory {event.peak_memory_bytes / 1e9:.1f} GB"
    if "n_trained_parameters" in event.facts:
        yield f"{event.facts['n_trained_parameters']:,} parameters trained"
    if "summary" in event.facts:
        yield str(event.facts["summary"])


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


_N_NEAR = 5  # trials that are told when none meets the goals


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
