"""The board: the steps of a run as a list in the terminal that moves while they are at work.

The list is drawn anew in its place; what is told meanwhile (notes, warnings, trials) scrolls away above it, and its
last state stays when it is taken down. Everything goes to standard error.
"""

import itertools
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from olivine.cli._common import wrapped
from olivine.workflow.units import duration

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.live import Live
    from rich.text import Text

State = Literal["waiting", "running", "done", "cached", "failed", "stopped"]

_MARKS = {"waiting": "·", "done": "✓", "cached": "✓", "failed": "✗", "stopped": "-"}
_PLAIN_MARKS = {"waiting": ".", "done": "+", "cached": "+", "failed": "x", "stopped": "-"}
_STYLES = {"waiting": "dim", "done": "green", "cached": "green", "failed": "bold red", "stopped": "yellow"}
_SPINNER, _PLAIN_SPINNER = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏", "|/-\\"
_HEIGHTS = "▁▂▃▄▅▆▇█"
_OF_RESULT = ("score:", "materialize:", "time:")  # before the name of the step whose result it is about
_PER_SECOND = 8


@dataclass
class Row:
    """A step on the board. told: of its result, in short. curve: the losses so far."""

    name: str
    state: State = "waiting"
    description: str = ""
    began: float = 0.0
    done: float = 0.0
    total: float = 0.0
    moved: float = 0.0  # when its stage first told how far it is, and how far that was
    moved_from: float = 0.0
    metrics: Mapping[str, Any] = field(default_factory=dict)
    curve: list[float] = field(default_factory=list)
    told: list[str] = field(default_factory=list)

    def move(self, done: float, total: float, metrics: Mapping[str, Any], now: float) -> None:
        """It came further."""
        if not self.moved or done < self.done or total != self.total:  # at first, and when another stage begins
            self.moved, self.moved_from = now, done
        self.done, self.total, self.metrics = done, total, metrics
        if isinstance(loss := metrics.get("loss"), (int, float)):
            self.curve.append(loss)

    def seconds_left(self, now: float) -> float | None:
        """As the step itself says, else by its pace so far; None where neither is known."""
        if isinstance(told := self.metrics.get("seconds_left"), (int, float)):
            return float(told)
        came = self.done - self.moved_from
        if came <= 0 or self.total <= 0 or now - self.moved < 1:
            return None
        return (now - self.moved) * max(0.0, self.total - self.done) / came


class Board:
    """The list of steps. names: those that are known from the start, in their order; others join where they belong.

    write: how a number of the progress is written, by its name. clock: seconds, of which only differences count.
    """

    def __init__(
        self,
        names: Sequence[str],
        write: Callable[[str, Any], str],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        from rich.console import Console

        self._console = Console(stderr=True, highlight=False)
        self._write, self._clock = write, clock
        self._names, self._lock = tuple(names), threading.RLock()
        self._rows = {name: Row(name) for name in names}
        self._live: Live | None = None
        self._is_last = False  # whether what is drawn will stay

    def start(self, name: str, description: str) -> None:
        """A step is at work."""
        with self._lock:
            row = self._row(name)
            row.state, row.description, row.began = "running", description, self._clock()
            row.done = row.total = row.moved = 0.0
            row.curve.clear()
        self._show()

    def move(self, name: str, done: float, total: float, metrics: Mapping[str, Any]) -> None:
        """A step that is at work came further."""
        with self._lock:
            self._row(name).move(done, total, metrics, self._clock())

    def end(self, name: str, state: State, *told: str) -> None:
        """A step is at its end. told: what it came to."""
        with self._lock:
            row = self._row(name)
            row.state, row.told = state, [one for one in told if one]
        self._show()

    def add(self, name: str, told: str) -> None:
        """Tell more of a step that has ended, such as its score; of one that is not on the board nothing."""
        with self._lock:
            if told and name in self._rows and told not in self._rows[name].told:
                self._rows[name].told.append(told)

    def say(self, text: str, style: str = "") -> None:
        """A sentence above the board."""
        from rich.text import Text

        self._console.print(Text(wrapped(text, self._console.width), style=style), soft_wrap=True)

    def begin_again(self) -> None:
        """Every step waits: another trial goes through them."""
        with self._lock:
            if all(row.state != "running" for row in self._rows.values()):
                self._rows = {name: Row(name) for name in self._names}

    def close(self, *, tells_stopped: bool = True) -> None:
        """Take it down; its last state stays. tells_stopped: with what was still at work, as stopped."""
        with self._lock:
            for row in self._rows.values():
                if row.state == "running":
                    row.state = "stopped" if tells_stopped else "waiting"
            live, self._live = self._live, None
        if live is not None:
            self._is_last = True
            live.stop()  # which draws once more
            self._is_last = False

    def _show(self) -> None:
        from rich.live import Live

        if self._live is None:
            self._live = Live(
                get_renderable=self._rendered,
                console=self._console,
                refresh_per_second=_PER_SECOND,
                redirect_stdout=False,
            )
            self._live.start()

    def _row(self, name: str) -> Row:
        if name not in self._rows:
            self._insert(name)
        return self._rows[name]

    def _insert(self, name: str) -> None:
        """Put what is about a result below its step, and anything else above what still waits."""
        names = list(self._rows)
        of = name.partition(":")[2] if name.startswith(_OF_RESULT) else ""
        if of in self._rows:
            place = names.index(of) + 1
            while place < len(names) and names[place].startswith(_OF_RESULT):
                place += 1
        else:
            waiting = (n for n, one in enumerate(names) if self._rows[one].state == "waiting")
            place = next(waiting, len(names))
        names.insert(place, name)
        self._rows = {one: self._rows.get(one) or Row(one) for one in names}

    def _rendered(self) -> "RenderableType":
        from rich.console import Group

        with self._lock:
            return Group(*self.lines(self._console, is_last=self._is_last))

    def lines(self, console: "Console", *, is_last: bool = False) -> list["Text"]:
        """The board as lines that fit the console; of a long one the part that is at work."""
        from rich.text import Text

        rows = list(self._rows.values())
        if is_last:
            rows = [row for row in rows if row.state != "waiting"]
        drawn = [(row, list(self._drawn(row, console))) for row in rows]
        room = console.height - 2 if not is_last else len(drawn) * 2
        lines = [line for _, of_row in drawn for line in of_row]
        if len(lines) > room:
            active = [n for n, (row, _) in enumerate(drawn) if row.state == "running"]
            last = sum(len(of_row) for _, of_row in drawn[: (active[-1] if active else len(drawn) - 1) + 1])
            first = max(0, last - room + 1)
            lines = [Text(f"  … {first} lines above", style="dim"), *lines[first : first + room - 1]]
        return lines

    def _drawn(self, row: Row, console: "Console") -> Iterator["Text"]:
        from rich.text import Text

        is_plain = console.options.ascii_only
        width = min(max((len(one) for one in self._rows), default=0), max(12, console.width // 3))
        name = row.name if len(row.name) <= width else f"{row.name[: width - 1]}{'~' if is_plain else '…'}"
        line = Text(no_wrap=True, overflow="crop" if is_plain else "ellipsis")
        if row.state == "running":
            spinner = _PLAIN_SPINNER if is_plain else _SPINNER
            now = self._clock()
            line.append(spinner[int(now * _PER_SECOND) % len(spinner)], style="cyan")
            line.append(f" {name.ljust(width)}  ", style="bold").append(duration(now - row.began), style="")
            line.append(f"  {row.description}", style="dim")
            yield line
            if row.total > 0:
                yield self._bar(row, now, console)
            return
        line.append((_PLAIN_MARKS if is_plain else _MARKS)[row.state], style=_STYLES[row.state])
        line.append(f" {name.ljust(width)}", style="dim" if row.state == "waiting" else "")
        if row.told:
            line.append("  " + "  ".join(row.told), style="red" if row.state == "failed" else "dim")
        yield line

    def _bar(self, row: Row, now: float, console: "Console") -> "Text":
        """How far a step is; bar, share and time are never cut, the numbers are where there is no room."""
        from rich.text import Text

        is_plain = console.options.ascii_only
        share = min(1.0, max(0.0, row.done / row.total))
        length = 20 if console.width >= 72 else 10
        filled = round(share * length)
        full, empty = ("#", ".") if is_plain else ("━", "─")
        text = Text("  ", no_wrap=True, overflow="crop" if is_plain else "ellipsis")
        text.append(full * filled, style="cyan").append(empty * (length - filled), style="dim")
        text.append(f" {100 * share:>3.0f} %")
        if (left := row.seconds_left(now)) is not None:
            text.append(f"  {clock_time(left)} left")
        numbers = [self._write(key, value) for key, value in row.metrics.items() if key != "seconds_left"]
        if not is_plain and len(row.curve) > 1:
            numbers.insert(1 if "loss" in row.metrics else 0, sparkline(row.curve))
        text.append("".join(f"  {one}" for one in numbers))
        return text


def sparkline(values: Sequence[float], n_most: int = 16) -> str:
    """A curve as one line of blocks, the newest to the right; of many values the means of neighbours."""
    if len(values) > n_most:
        edges = [n * len(values) // n_most for n in range(n_most + 1)]
        values = [sum(values[a:b]) / (b - a) for a, b in itertools.pairwise(edges)]
    low, high = min(values), max(values)
    if not high > low:
        return _HEIGHTS[0] * len(values)
    return "".join(_HEIGHTS[min(7, int(8 * (value - low) / (high - low)))] for value in values)


def clock_time(seconds: float) -> str:
    """A time that is left: 0:07, 12:40, 3:05:00."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
