"""What each rung of a ladder cost and bought, told while it is climbed, and all of them together."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from olivine.workflow.units import distance, duration, in_unit

if TYPE_CHECKING:
    from olivine.workflow.events import Event, TrialDone
    from olivine.workflow.steps import Asked


class Rungs:
    """Lines of the events of a run. asked: the numbers that have goals or a priority."""

    def __init__(self, asked: "Sequence[Asked]") -> None:
        self._asked = list({one.number: one for one in asked}.values())
        self._before: Mapping[str, float] = {}
        self._rows: list[list[str]] = []

    def __call__(self, event: "Event") -> list[str]:
        """What is told of a rung that was climbed, and of all of them at the end."""
        from olivine.workflow.events import SearchDone, TrialDone

        if isinstance(event, TrialDone):
            return [self._told(event)]
        return ["", *self._table(event.chosen), ""] if isinstance(event, SearchDone) and self._rows else []

    def _told(self, event: "TrialDone") -> str:
        name, bought = event.name or f"trial {event.trial}", self._bought(event.values)
        missed = "; ".join(event.missed)
        told = event.cause or (f"misses: {missed}" if missed else "meets every goal")
        numbers = [self._number(one, event.values) for one in self._asked]
        self._rows.append([str(event.trial), name, duration(event.seconds), *numbers, _verdict(event)])
        if event.values:
            self._before = {**self._before, **event.values}
        return f"rung {name}: {duration(event.seconds)}{', bought ' + bought if bought else ''}; {told}"

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

    def _table(self, chosen: int | None) -> list[str]:
        """All rungs, the one that ships marked."""
        head = ["", "rung", "took", *(one.name for one in self._asked), "goals"]
        rows = [["→" if row[0] == str(chosen) else "", *row[1:]] for row in self._rows]
        widths = [max(len(line[place]) for line in (head, *rows)) for place in range(len(head))]
        written = [[cell.ljust(width) for cell, width in zip(line, widths, strict=True)] for line in (head, *rows)]
        rule = "|".join("-" * (width + 2) for width in widths)
        lines = [f"| {' | '.join(line)} |" for line in written]
        return [lines[0], f"|{rule}|", *lines[1:]]


def _verdict(event: Any) -> str:
    if event.outcome == "failed":
        return "failed"
    return "missed" if event.missed else "met"
