"""What a worker keeps of what it said and printed, so that nothing is lost while nobody listens."""

import io
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from olivine.messages import Events

_LOOK_SECONDS = 0.5


class EventLog:
    """The events of a worker in a file, one a line; the number of a line is the number of its event.

    Who lost the connection asks for those after the last one that came.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self._file = path.open("w", encoding="utf-8")
        self._changed = threading.Condition()
        self._n_lines, self._is_closed = 0, False

    def write(self, line: str) -> int:
        """Keep one event."""
        with self._changed:
            self._file.write(line)
            self._file.flush()
            self._n_lines += 1
            self._changed.notify_all()
        return len(line)

    def flush(self) -> None:
        """Do nothing more: what was written is in the file."""

    def close(self) -> None:
        """Say that no event comes any more."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()

    def after(self, number: int, is_over: Callable[[], bool] = lambda: False) -> Iterator[list[str]]:
        """The lines after that many, as many at once as there are, until the log is closed or `is_over()`."""
        with self.path.open(encoding="utf-8") as file:
            for _ in range(number):
                file.readline()
            while not is_over():
                with self._changed:
                    if self._n_lines == number and not self._is_closed:
                        self._changed.wait(_LOOK_SECONDS)
                    n_there, is_closed = self._n_lines, self._is_closed
                if n_there > number:
                    yield [file.readline() for _ in range(n_there - number)]
                    number = n_there
                elif is_closed:
                    return


class Printed:
    """Sends what is printed to a file as events, so that the log of a step lies where it is read."""

    def __init__(self, path: Path, events: Events) -> None:
        self._path, self._events = path, events
        self._n_sent, self._lock = 0, threading.Lock()
        threading.Thread(target=self._follow, daemon=True, name="printed").start()

    def send(self) -> None:
        """Send what came since the last time."""
        with self._lock, self._path.open("rb") as file:
            file.seek(self._n_sent)
            content = file.read()
            if content:
                self._n_sent += len(content)
                self._events.send("printed", text=content.decode("utf-8", errors="replace"))

    def _follow(self) -> None:
        pause = threading.Event()
        while not pause.wait(_LOOK_SECONDS):
            self.send()


def print_to(path: Path) -> None:
    """Everything that is printed from now on, by Python or by native code, goes to the end of that file.

    Where that cannot be opened (the disk is full), it is lost: what the job says of its own end still comes.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    except OSError:
        descriptor = os.open(os.devnull, os.O_WRONLY)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.close(descriptor)
    sys.stdout, sys.stderr = _printed(1), _printed(2)


class _Lossy(io.FileIO):
    """Where a job prints: what the log has no room for (the disk is full) is lost, and stops nothing.

    The write that the result needs fails by itself, and its error still reaches the parent.
    """

    def write(self, data: Any) -> int:
        """As that of FileIO; always all of it."""
        with suppress(OSError):
            super().write(data)
        return len(data)


def _printed(descriptor: int) -> io.TextIOWrapper:
    """A stream of text to a `_Lossy` file, line by line."""
    buffer = io.BufferedWriter(_Lossy(descriptor, "w", closefd=False))
    return io.TextIOWrapper(buffer, encoding="utf-8", errors="backslashreplace", line_buffering=True)
