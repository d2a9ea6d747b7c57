"""A worker on this machine: started when first needed, watched, and named with its step when it dies."""

import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Self

from olivine import lazy
from olivine.errors import Interrupted, StepFailed
from olivine.passes._events import ending
from olivine.systems import _memory
from olivine.systems._job import Job

if TYPE_CHECKING:
    import psutil
else:
    psutil = lazy.module("psutil")

Listener = Callable[[str, Mapping[str, Any]], None]

_LOOK_SECONDS = 0.2  # how often to see whether a silent worker is still there
_END_SECONDS = 5.0  # how long a worker with nothing to do may take to end


class LocalWorker:
    """Runs jobs one after the other in a process of its own, which stays warm between them.

    python: the interpreter to run it in.
    """

    def __init__(self, python: str = sys.executable) -> None:
        self._python = python
        self._process: subprocess.Popen[str] | None = None
        self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def run(self, job: Job, listen: Listener) -> dict[str, Any]:
        """Do the job and give its result; events go to `listen(event, fields)` as they come.

        Raises StepFailed with the cause when the job failed or the worker died (the next job starts another one), and
        Interrupted on Ctrl-C: the worker and all that it started are gone then.
        """
        kills = _memory.kernel_kills()
        try:
            self._send(job)
            for fields in self._events():
                if (result := _take(fields, job, listen)) is not None:
                    return result
        except StepFailed as failure:
            if failure.cause.startswith("out of memory"):  # what it holds would fail the next job too
                self.kill()
            raise
        except KeyboardInterrupt as stop:
            self.kill()
            raise Interrupted.by(stop, f" in step '{job.step}'") from None
        except BaseException:  # the listener failed: the worker is at work on something that nobody waits for
            self.kill()
            raise
        raise self._died(job, memory_ran_out=_memory.kernel_kills() > kills)

    def close(self) -> None:
        """Let the worker go; it has nothing left to do."""
        if self._process is None:
            return
        if self._process.stdin is not None:
            with suppress(OSError):  # it has gone already
                self._process.stdin.close()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=_END_SECONDS)
        self.kill()

    def kill(self) -> None:
        """End the worker and everything it started, now."""
        if self._process is None:
            return
        process, self._process = self._process, None
        with suppress(psutil.NoSuchProcess):
            for child in psutil.Process(process.pid).children(recursive=True):
                with suppress(psutil.NoSuchProcess):
                    child.kill()
        if os.name == "posix":  # orphans of a dead worker are still of its group
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
        process.kill()
        process.wait()
        if process.stdin is not None:
            with suppress(OSError):
                process.stdin.close()

    def _send(self, job: Job) -> None:
        process = self._process
        if process is None or process.poll() is not None:
            self.kill()
            process = self._start(job)
        if process.stdin is None:
            raise RuntimeError("the worker has no input")
        with suppress(OSError):  # it died; its output ends, and that is what is told
            process.stdin.write(json.dumps(job.to_json()) + "\n")
            process.stdin.flush()

    def _start(self, job: Job) -> "subprocess.Popen[str]":
        with Path(job.log or os.devnull).open("ab") as log:
            self._process = subprocess.Popen(
                # -P: a file in the current folder must not stand in for a library
                [self._python, "-P", "-m", "olivine.systems._worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                encoding="utf-8",
                errors="replace",
                # Ctrl-C reaches the parent only, which ends the worker in order.
                start_new_session=os.name == "posix",
                creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),
            )
        self._lines = queue.SimpleQueue()
        threading.Thread(target=_read, args=(self._process.stdout, self._lines), daemon=True, name="events").start()
        return self._process

    def _events(self) -> Iterator[dict[str, Any]]:
        """Events until the worker is gone, even when a process that it started holds its output open."""
        gone = False
        while True:
            try:
                line = self._lines.get(timeout=_LOOK_SECONDS)
            except queue.Empty:
                if gone:
                    return
                gone = self._process is None or self._process.poll() is not None
                continue
            if line is None:
                return
            with suppress(ValueError):  # something printed before the worker had its log
                yield json.loads(line)

    def _died(self, job: Job, *, memory_ran_out: bool) -> StepFailed:
        process = self._process
        if process is None:
            raise RuntimeError("no worker was started")
        try:
            code = process.wait(timeout=_END_SECONDS)
        except subprocess.TimeoutExpired:  # it closed its output and hangs
            self.kill()
            code = process.wait()
        self.kill()
        log = Path(job.log) if job.log else None
        tail = _tail(log)
        cause = f"its worker {ending(code, memory_ran_out=memory_ran_out)}"
        if tail:
            cause += f"; the log ends: {_short(tail)}"
        return StepFailed(job.step, cause, log, tail=tail)


def _read(stream: IO[str] | None, lines: "queue.SimpleQueue[str | None]") -> None:
    """Pass lines on as they come; the parent never blocks on the pipe itself."""
    if stream is not None:
        with stream:
            for line in stream:
                lines.put(line)
    lines.put(None)


def _take(fields: dict[str, Any], job: Job, listen: Listener) -> dict[str, Any] | None:
    """The result of the job when this event has it; anything else goes to the listener."""
    event = fields.pop("event")
    if event == "done":
        result: dict[str, Any] = fields["result"]
        return result
    if event == "failed":
        error = fields["error"]
        log = Path(job.log) if job.log else None
        raise StepFailed(job.step, error["message"], log, tail=error["traceback"])
    listen(event, fields)
    return None


def _tail(log: Path | None, n_lines: int = 12) -> str:
    """The last lines of a log."""
    if log is None or not log.is_file():
        return ""
    with log.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - 16_384))
        lines = file.read().decode("utf-8", errors="replace").splitlines()
    return "\n".join(line for line in lines[-n_lines:] if line.strip())


def _short(tail: str) -> str:
    """The end of a log on one line."""
    text = " / ".join(line.strip() for line in tail.splitlines()[-3:])
    return text if len(text) <= 300 else f"... {text[-300:]}"
