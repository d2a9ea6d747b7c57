"""What a process at work says: events as lines of JSON, what went wrong as a sentence, and how a process ended."""

import errno
import json
import signal
import threading
import time
from pathlib import Path
from typing import Any, TextIO

from olivine.errors import OlivineError

_PROGRESS_SECONDS = 0.1  # a screen shows no more, and a pipe should not be flooded
_FULL_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class Events:
    """Writes events for the parent; the Reporter of passes and scores. Safe to use from several threads."""

    def __init__(self, stream: TextIO) -> None:
        self._stream, self._lock = stream, threading.Lock()
        self._last_progress = 0.0
        self.facts: dict[str, Any] = {}

    def begin(self) -> None:
        """A new job: nothing is reported of it yet."""
        self._last_progress, self.facts = 0.0, {}

    def send(self, event: str, **fields: Any) -> None:
        """Write one event; TypeError when a field is no JSON value. NaN and infinity, which JSON lacks, become null."""
        record = {"event": event, **fields}
        try:
            line = json.dumps(record, default=_number, allow_nan=False)
        except ValueError:
            line = json.dumps(json.loads(json.dumps(record, default=_number), parse_constant=lambda _: None))
        with self._lock:
            self._stream.write(line + "\n")
            self._stream.flush()

    def progress(self, done: float, total: float, **metrics: float | str) -> None:
        """See passes.Reporter."""
        now = time.monotonic()
        if done >= total or now - self._last_progress >= _PROGRESS_SECONDS:
            self._last_progress = now
            self.send("progress", done=done, total=total, metrics=metrics)

    def warn(self, message: str) -> None:
        """See passes.Reporter."""
        self.send("warning", message=message)

    def record(self, **facts: Any) -> None:
        """See passes.Reporter."""
        self.facts |= facts


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
        full = "the disk is full: " if error.errno in _FULL_DISK else ""
        return f"{full}{error.strerror}{where}"
    if "No space left on device" in text or "File too large" in text:  # native writers have errors of their own
        return f"the disk is full: {_short(text)}"
    return f"{name}: {_short(text)}" if text else name


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
