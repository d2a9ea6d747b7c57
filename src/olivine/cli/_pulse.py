"""The pulse of a run in a log: now and then a line of each step at work, so that it never seems to stand still."""

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from olivine.cli._board import Row, clock_time
from olivine.workflow.units import duration

_SECONDS = 60.0  # between two lines of a step; one that ends sooner has none


class Pulse:
    """Tells of steps that take long. say: prints a line. write: how a number of the progress is written, by its name.

    clock: seconds, of which only differences count. A thread asks for lines that are due; `close` ends it.
    """

    def __init__(
        self,
        say: Callable[[str], None],
        write: Callable[[str, Any], str],
        *,
        seconds: float = _SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._say, self._write, self._seconds, self._clock = say, write, seconds, clock
        self._rows: dict[str, Row] = {}
        self._told_at: dict[str, float] = {}
        self._lock, self._is_over = threading.Lock(), threading.Event()
        self._thread: threading.Thread | None = None

    def start(self, name: str) -> None:
        """A step is at work."""
        with self._lock:
            self._told_at[name] = self._clock()
            self._rows[name] = Row(name, began=self._told_at[name])
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="pulse", daemon=True)
            self._thread.start()

    def move(self, name: str, done: float, total: float, metrics: Mapping[str, Any]) -> None:
        """A step that is at work came further."""
        with self._lock:
            if name in self._rows:
                self._rows[name].move(done, total, metrics, self._clock())

    def end(self, name: str) -> None:
        """A step is at its end."""
        with self._lock:
            self._rows.pop(name, None)

    def close(self) -> None:
        """Nothing is at work any more."""
        self._is_over.set()
        with self._lock:
            self._rows.clear()

    def beat(self) -> None:
        """Print the line of every step that has told nothing for long."""
        with self._lock:
            now = self._clock()
            due = [row for name, row in self._rows.items() if now - self._told_at[name] >= self._seconds]
            lines = [f"{row.name}: {', '.join(self._words(row, now))}" for row in due]
            self._told_at |= {row.name: now for row in due}
        for line in lines:
            self._say(line)

    def _run(self) -> None:
        while not self._is_over.wait(self._seconds / 12):
            self.beat()

    def _words(self, row: Row, now: float) -> Iterator[str]:
        """How far a step is, how long it has been at work, what time is left, and its numbers."""
        at_work = f"at work for {duration(now - row.began)}"
        yield at_work if row.total <= 0 else f"{min(1.0, max(0.0, row.done / row.total)):.0%}, {at_work}"
        if (left := row.seconds_left(now)) is not None:
            yield f"{clock_time(left)} left"
        yield from (self._write(key, value) for key, value in row.metrics.items() if key != "seconds_left")
