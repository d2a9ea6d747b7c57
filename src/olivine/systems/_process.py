"""A worker in a process of its own: started when first needed, watched, and named with its step when it dies."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from olivine import lazy, memory
from olivine.errors import StepFailed
from olivine.messages import Heard, ending
from olivine.systems._base import Worker
from olivine.systems._protocol import Ahead, Job, Listener, answer

if TYPE_CHECKING:
    import psutil
else:
    psutil = lazy.module("psutil")

# What a Python is given to be a worker. -P: a file in the current folder must not stand in for a library
WORKER = ("-P", "-m", "olivine.systems._worker")
_END_SECONDS = 5.0  # how long a worker with nothing to do may take to end


class WorkerProcess(Worker):
    """Runs jobs one after the other in a process of its own, which stays warm between them.

    command: starts a Python with WORKER, and `--store FOLDER` where it reads and writes in a store of its own; the
    Python that runs this one when none is given. folder: its current one, else ours. environment: its own, else ours.
    """

    def __init__(
        self,
        command: Sequence[str] = (),
        folder: Path | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self._command, self._folder = list(command) or [sys.executable, *WORKER], folder
        self._environment = environment
        self._process: subprocess.Popen[str] | None = None
        self._heard: Heard | None = None
        self._log = Path(os.devnull)

    def run(self, job: Job, listen: Listener) -> dict[str, Any]:
        """See Worker."""
        kills = memory.kernel_kills()
        with self._gone_unless_fit(job):
            for fields in self._send(job).until(self._is_gone):
                if (result := answer(fields, job, listen)) is not None:
                    return result
        raise self._died(job, memory_ran_out=memory.kernel_kills() > kills)

    def warm(self, ahead: Ahead) -> None:
        """See Worker."""
        if self._process is None:
            with suppress(OSError), self._log.open("ab") as log:  # the first job tells why none starts
                self._start(log)
                self._write({"ahead": asdict(ahead)})

    def close(self) -> None:
        """See Worker."""
        if self._process is None:
            return
        if self._process.stdin is not None:
            with suppress(OSError):  # it has gone already
                self._process.stdin.close()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=_END_SECONDS)
        self.kill()

    def kill(self) -> None:
        """See Worker."""
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

    def _send(self, job: Job) -> Heard:
        """Hand the job to a worker that is there, and give what it says."""
        self._log = Path(job.log or os.devnull)
        process, heard = self._process, self._heard
        if process is None or heard is None or process.poll() is not None:
            self.kill()
            with self._log.open("ab") as log:
                heard = self._start(log if job.has_places else subprocess.PIPE)
        self._write(job.to_json())
        return heard

    def _write(self, record: Mapping[str, Any]) -> None:
        """A line for the worker."""
        if self._process is None or self._process.stdin is None:
            raise RuntimeError("the worker has no input")
        with suppress(OSError):  # it died; its output ends, and that is what is told
            self._process.stdin.write(json.dumps(record) + "\n")
            self._process.stdin.flush()

    def _start(self, log: IO[bytes] | int) -> Heard:
        """Start the process; what it prints before it has a job goes to `log`."""
        self._process = process = subprocess.Popen(
            self._command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            cwd=self._folder,
            env=self._environment,
            text=True,
            encoding="utf-8",
            errors="replace",
            # Ctrl-C reaches the parent only, which ends the worker in order.
            start_new_session=os.name == "posix",
            creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),
        )
        if process.stdout is None:
            raise RuntimeError("the worker has no output")
        self._heard = heard = Heard(process.stdout)
        if process.stderr is not None:
            threading.Thread(target=self._write_log, args=(process.stderr,), daemon=True, name="log").start()
        return heard

    def _write_log(self, stream: IO[str]) -> None:
        """What a worker without a log here prints goes to the log of the job that it is at."""
        with stream:
            for line in stream:
                with self._log.open("a", encoding="utf-8") as log:
                    log.write(line)

    def _is_gone(self) -> bool:
        return self._process is None or self._process.poll() is not None

    def _died(self, job: Job, *, memory_ran_out: bool) -> StepFailed:
        process = self._process
        if process is None:
            return StepFailed(job.step, "its worker was ended", Path(job.log) if job.log else None)
        try:
            how = ending(process.wait(timeout=_END_SECONDS), memory_ran_out=memory_ran_out)
        except subprocess.TimeoutExpired:
            how = "closed its output without a result, and hung"
        self.kill()
        log = Path(job.log) if job.log else None
        tail = _tail(log)
        cause = f"its worker {how}"
        if tail:
            cause += f"; the log ends: {_short(tail)}"
        return StepFailed(job.step, cause, log, tail=tail)


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
