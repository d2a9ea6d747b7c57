"""What each rung of a ladder cost and bought, told while it is climbed, and all of them together."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from olivine.cli._common import columns
from olivine.workflow.units import distance, duration, in_unit

if TYPE_CHECKING:
    from olivine.workflow.events import Event, SearchDone, TrialDone
    from olivine.workflow.steps import Asked


N_ROWS = 24  # of the table; of more trials, those on the front
N_NAME = 16  # characters that a name has at least, where it is cut short to fit
_NAME, _N_FIXED = 1, 4  # the column of names; those that are no number


class Rungs:
    """Lines of the events of a run. asked: the numbers that have goals or a priority."""

    word = "rung"

    def __init__(self, asked: "Sequence[Asked]") -> None:
        self._asked = list({one.number: one for one in asked}.values())
        self._before: Mapping[str, float] = {}
        self._done: list[TrialDone] = []

    def __call__(self, event: "Event") -> list[str]:
        """What is told of a rung that was climbed, and of all of them at the end."""
        from olivine.workflow.events import SearchDone, TrialDone

        if isinstance(event, TrialDone):
            self._done.append(event)
            return self._told(event)
        return ["", *self._table(event), ""] if isinstance(event, SearchDone) and self._done else []

    def _told(self, event: "TrialDone") -> list[str]:
        name, bought = event.name or f"trial {event.trial}", self._bought(event.values)
        missed = "; ".join(event.missed)
        told = event.cause or (f"misses: {missed}" if missed else "meets every goal")
        if event.values:
            self._before = {**self._before, **event.values}
        return [f"rung {name}: {duration(event.seconds)}{', bought ' + bought if bought else ''}; {told}"]

    def _bought(self, values: Mapping[str, float]) -> str:
        """By how much each number differs from that of the rung before."""
        known = [one for one in self._asked if one.number in values and one.number in self._before]
        changes = ((one, values[one.number] - self._before[one.number]) for one in known)
        return ", ".join(
            f"{'+' if change > 0 else '-'}{distance(abs(change), one.unit)} {one.name}"
            for one, change in changes
            if change
        )

    @staticmethod
    def _number(one: "Asked", values: Mapping[str, float]) -> str:
        return in_unit(values[one.number], one.unit) if one.number in values else ""

    def _table(self, outcome: "SearchDone") -> list[str]:
        """All rungs, the one that ships marked; of many, those on the front."""
        is_long = len(self._done) > N_ROWS
        shown = [one for one in self._done if not is_long or one.trial in (outcome.chosen, *outcome.front)]
        head = ["", self.word, "took", *(one.name for one in self._asked), "goals"]
        rows = [self._row(one, is_chosen=one.trial == outcome.chosen) for one in shown]
        lines_of_cells = _fitted([head, *rows], columns(err=True))
        widths = _widths(lines_of_cells)
        written = [[cell.ljust(width) for cell, width in zip(line, widths, strict=True)] for line in lines_of_cells]
        rule = "|".join("-" * (width + 2) for width in widths)
        lines = [f"| {' | '.join(line)} |" for line in written]
        return [lines[0], f"|{rule}|", *lines[1:]]

    def _row(self, event: "TrialDone", *, is_chosen: bool) -> list[str]:
        numbers = [self._number(one, event.values) for one in self._asked]
        mark, name = "→" if is_chosen else "", event.name or f"trial {event.trial}"
        return [mark, name, duration(event.seconds), *numbers, _verdict(event)]


class Trials(Rungs):
    """The table alone, of the trials of a search that a config asks for; each is told by the screen."""

    word = "trial"

    def _told(self, event: "TrialDone") -> list[str]:
        if not event.name:
            self._done[-1] = replace(event, name=f"{event.trial}: {_chosen(event.point)}")
        return []


def _chosen(point: Mapping[str, Any]) -> str:
    """What a trial chooses; the name of a pass stands before its own choices alone."""
    return ", ".join(f"{name.rpartition('.')[2]} {value}" for name, value in point.items())


def _widths(table: Sequence[Sequence[str]]) -> list[int]:
    return [max(map(len, column)) for column in zip(*table, strict=True)]


def _fitted(table: Sequence[list[str]], width: int | None) -> list[list[str]]:
    """A table of that width at most: names are cut short, then numbers are left out, the last ones first."""
    rows = [list(line) for line in table]
    while width is not None and (excess := sum(_widths(rows)) + 3 * len(rows[0]) + 1 - width) > 0:
        longest = _widths(rows)[_NAME]
        if longest > N_NAME:
            limit = max(N_NAME, longest - excess)
            rows = [[cell if place != _NAME else _cut(cell, limit) for place, cell in enumerate(line)] for line in rows]
        elif len(rows[0]) > _N_FIXED:
            rows = [[*line[:-2], line[-1]] for line in rows]
        else:
            break
    return rows


def _cut(text: str, n_most: int) -> str:
    return text if len(text) <= n_most else f"{text[: n_most - 1]}…"


def _verdict(event: Any) -> str:
    if event.outcome == "failed":
        return "failed"
    return "missed" if event.missed else "met"
