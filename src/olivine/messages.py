"""What a process at work says to the one that started it: events, what went wrong as a sentence, how it ended.

An event is one JSON object a line, whatever carries it: `Events` writes to any text stream, `heard` reads from one that
blocks (a pipe, a socket), `EventFile` from a file that grows.
"""

import errno
import json
import queue
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, Protocol

from olivine.errors import OlivineError

_PROGRESS_SECONDS = 0.1  # a screen shows no more, and a pipe should not be flooded
_LOOK_SECONDS = 0.2  # how often to see whether a silent process is still there
FULL_DISK = "the disk is full"
_FULL_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# what stands in the errors of native writers, and what it means; torch's own writer does not know why
_NATIVE = {
    "No space left on device": FULL_DISK,
    "File too large": FULL_DISK,
    "iostream error": "torch could not write or read a file",
    "inline_container": "torch could not write or read a file",
    "PytorchStreamWriter": "torch could not write or read a file",
}


class Lines(Protocol):
    """What takes lines: a text stream, or a log that keeps them."""

    def write(self, text: str, /) -> int:
        """Take some text."""

    def flush(self) -> None:
        """Let it go on its way."""


class Events:
    """Writes events for the parent; the Reporter of passes and scores. Safe to use from several threads.

    rename: what is done to the fields of every event before they leave.
    """

    def __init__(self, stream: Lines) -> None:
        self._stream, self._lock = stream, threading.Lock()
        self._last_progress = 0.0
        self.facts: dict[str, Any] = {}
        self.rename: Callable[[Any], Any] = _as_it_is

    def begin(self) -> None:
        """A new job: nothing is reported of it yet, and what it reports is sent as it is."""
        self._last_progress, self.facts, self.rename = 0.0, {}, _as_it_is

    def send(self, event: str, **fields: Any) -> None:
        """Write one event; TypeError when a field is no JSON value. NaN and infinity, which JSON lacks, become null."""
        record = {"event": event, **self.rename(fields)}
        try:
            line = json.dumps(record, default=_number, allow_nan=False)
        except ValueError:
            line = json.dumps(json.loads(json.dumps(record, default=_number), parse_constant=lambda _: None))
        with self._lock:
            self._stream.write(line + "\n")
            self._stream.flush()

    def progress(self, done: float, total: float, **metrics: float | str) -> None:
        """Send how far the work is, not more often than a screen shows it; its end always."""
        now = time.monotonic()
        if done >= total or now - self._last_progress >= _PROGRESS_SECONDS:
            self._last_progress = now
            self.send("progress", done=done, total=total, metrics=metrics)

    def note(self, message: str) -> None:
        """See work.Reporter."""
        sys.stderr.write(f"{message}\n")  # a worker's log
        self.send("note", message=message)

    def warn(self, message: str) -> None:
        """Send what the user should know."""
        self.send("warning", message=message)

    def record(self, **facts: Any) -> None:
        """Keep facts, which go out with the result."""
        self.facts |= facts


class Heard:
    """Events from a stream that blocks, read by a thread of its own: who listens is never held up by the stream."""

    def __init__(self, stream: IO[str]) -> None:
        self._queue: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        threading.Thread(target=self._read, args=(stream,), daemon=True, name="events").start()

    def until(self, is_gone: Callable[[], bool]) -> Iterator[dict[str, Any]]:
        """Events until the stream ends or `is_gone()`, even when somebody else holds the stream open."""
        gone = False
        while True:
            try:
                line = self._queue.get(timeout=_LOOK_SECONDS)
            except queue.Empty:
                if gone:
                    return
                gone = is_gone()
                continue
            if line is None:
                return
            yield from events_in([line])

    def _read(self, stream: IO[str]) -> None:
        # a connection that is lost, or closed while it is read, has ended
        with suppress(OSError, ValueError), stream:
            for line in stream:
                self._queue.put(line)
        self._queue.put(None)


class EventFile:
    """Events from a file that another process writes."""

    def __init__(self, path: Path) -> None:
        self._path, self._n_read = path, 0

    def new(self) -> Iterator[dict[str, Any]]:
        """Those that came since the last look; a line that is not whole is left for the next."""
        if not self._path.is_file():
            return
        with self._path.open("rb") as file:
            file.seek(self._n_read)
            whole, newline, _ = file.read().rpartition(b"\n")
        self._n_read += len(whole) + len(newline)
        yield from events_in(whole.decode("utf-8", errors="replace").splitlines())


def events_in(lines: Iterable[str]) -> Iterator[dict[str, Any]]:
    """The events of some lines; what a library has printed between them is none."""
    for line in lines:
        with suppress(ValueError, RecursionError):
            record = json.loads(line)
            if isinstance(record, dict) and "event" in record:
                yield record


def sentence(error: BaseException) -> str:
    """What went wrong, in a line for the user; the log has the traceback."""
    name, text = type(error).__name__, " ".join(str(error).split())
    if isinstance(error, OlivineError):
        return str(error)
    if isinstance(error, MemoryError) or "OutOfMemory" in name or "can't allocate memory" in text:
        return f"out of memory: {name}{': ' if text else ''}{_short(text)}"
    if isinstance(error, SystemExit):
        return f"a library ended the program with exit code {error.code}"
    if isinstance(error, OSError) and error.errno is not None:
        where = f": {error.filename}" if error.filename else ""
        full = f"{FULL_DISK}: " if error.errno in _FULL_DISK else ""
        return f"{full}{error.strerror}{where}"
    meaning = next((meaning for mark, meaning in _NATIVE.items() if mark in text), name)
    return f"{meaning}: {_short(text)}" if text else meaning


def _as_it_is(fields: Any) -> Any:
    return fields


def _short(text: str) -> str:
    return text if len(text) <= 400 else f"{text[:400]} ..."


def _number(value: Any) -> Any:
    """JSON of the scalars that numpy and torch give, and of paths."""
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "item"):
        return value.item()
    raise TypeError(f"{value!r} of type {type(value).__name__} is no JSON value")


def ending(code: int, *, memory_ran_out: bool = False) -> str:
    """How a process ended, in words. code: as subprocess gives it, negative for a signal."""
    if code >= 0:
        return f"ended with exit code {code}" if code < 2**31 else f"crashed (0x{code:08X})"
    name = signal.Signals(-code).name if -code in {*signal.Signals} else f"signal {-code}"
    if name == "SIGKILL" and memory_ran_out:
        return "was killed by the kernel: out of memory"
    if name == "SIGKILL":
        return "was killed (SIGKILL): by someone, or because the memory allowed to it ran out"
    if name in ("SIGTERM", "SIGINT", "SIGHUP"):
        return f"was ended from outside ({name})"
    return f"crashed ({name})"
