"""A worker that was started elsewhere and calls in: in a container, on a node of a cluster."""

import queue
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from olivine.errors import StepFailed
from olivine.messages import events_in
from olivine.systems._base import Worker
from olivine.systems._line import TOKEN, Door, Line, new_token
from olivine.systems._protocol import Job, Listener, answer

_LOOK_SECONDS = 0.2


class Started(ABC):
    """What a system started: a container, a pod, a process of another machine."""

    @abstractmethod
    def ended(self) -> str | None:
        """How it ended, in words that follow "its worker ": "ended with exit code 3"; None while it has not."""

    @abstractmethod
    def kill(self) -> None:
        """End it and everything it started, now; nothing when it has ended."""


Start = Callable[[Sequence[str], Mapping[str, str]], Started]


class ConnectedWorker(Worker):
    """Runs jobs in a worker that calls in by `--connect`; a line that breaks is taken up where it broke.

    start: starts a Python with WORKER, the arguments and the environment that it is given. address: of this machine as
    it is seen from there. bind: its address where it listens, one that is reached from there. patience_seconds: how
    long a worker may be without a line, the first one included.
    """

    def __init__(
        self,
        start: Start,
        address: str,
        *,
        bind: str = "127.0.0.1",
        patience_seconds: float = 600.0,
    ) -> None:
        self._start, self._address, self._bind, self._patience_seconds = start, address, bind, patience_seconds
        self._door: Door | None = None
        self._started: Started | None = None
        self._line: Line | None = None
        self._reader: threading.Thread | None = None
        self._changing = threading.RLock()
        self._heard: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._n_seen, self._n_jobs, self._silent_since = 0, 0, 0.0
        self._at_work: dict[str, Any] | None = None

    def run(self, job: Job, listen: Listener) -> dict[str, Any]:
        """See Worker."""
        try:
            with self._gone_unless_fit(job):
                self._send(job)
                return self._result(job, listen)
        finally:
            self._at_work = None

    def close(self) -> None:
        """See Worker."""
        if self._line is not None:
            with suppress(OSError):  # it has gone already
                self._line.send({"end": True})
            self._wait_for_end()
        self.kill()

    def kill(self) -> None:
        """See Worker."""
        with self._changing:
            started, door, line = self._started, self._door, self._line
            self._started = self._door = self._line = None
        if door is not None:
            door.close()
        if started is not None:
            started.kill()
        if line is not None:
            line.close()

    @property
    def has_line(self) -> bool:
        """See Worker."""
        return True

    def hang_up(self) -> None:
        """See Worker."""
        with self._changing:
            line, reader = self._line, self._reader
            self._line = self._reader = None
            if line is not None:
                line.close()
            self._silent_since = time.monotonic()
        if reader is not None and reader is not threading.current_thread():
            reader.join()

    def _send(self, job: Job) -> None:
        if self._started is None or self._started.ended() is not None:
            self.kill()
            self._begin()
        with self._changing:
            self._n_jobs += 1
            self._at_work = {"id": self._n_jobs, **job.to_json()}
            if self._line is not None:
                with suppress(OSError):  # it is sent again on the next line
                    self._line.send(self._at_work)

    def _begin(self) -> None:
        """Start another worker, which knows nothing of what came before."""
        token = new_token()
        self._heard, self._n_seen, self._n_jobs = queue.SimpleQueue(), 0, 0
        self._silent_since = time.monotonic()
        self._door = door = Door(self._bind, token, self._seen, self._opened)
        arguments = ["--connect", f"{self._address}:{door.port}", "--patience", str(self._patience_seconds)]
        self._started = self._start(arguments, {TOKEN: token})

    def _seen(self) -> int:
        """How many events have come; of an earlier line, none come any more."""
        self.hang_up()
        return self._n_seen

    def _opened(self, line: Line) -> None:
        with self._changing:
            self._line = line
            self._reader = threading.Thread(target=self._read, args=(line, self._heard), daemon=True, name="events")
            self._reader.start()
            if self._at_work is not None:
                with suppress(OSError):
                    line.send(self._at_work)

    def _read(self, line: Line, heard: "queue.SimpleQueue[str]") -> None:
        with suppress(OSError, ValueError):  # the line has ended, or was ended here while it was read
            for text in line.texts:
                if not text.endswith("\n"):  # cut in two: it comes again, whole
                    break
                self._n_seen += 1
                heard.put(text)
        with self._changing:
            if self._line is line:
                self._line, self._silent_since = None, time.monotonic()

    def _result(self, job: Job, listen: Listener) -> dict[str, Any]:
        how: str | None = None
        while True:
            try:
                text = self._heard.get(timeout=_LOOK_SECONDS)
            except queue.Empty:
                if how is not None:
                    self.kill()
                    raise StepFailed(job.step, f"its worker {how}", job.log_path) from None
                how = self._gone()  # what it said last may still be on its way
                continue
            for fields in events_in([text]):
                if (result := answer(fields, job, listen)) is not None:
                    return result

    def _gone(self) -> str | None:
        """Why no event will come any more, in words; None while some may."""
        if self._started is None:
            return "was ended"
        if (ending := self._started.ended()) is not None:
            return ending
        if self._line is None and time.monotonic() - self._silent_since > self._patience_seconds:
            return f"has not called for {self._patience_seconds:.0f} seconds"
        return None

    def _wait_for_end(self, seconds: float = 5.0) -> None:
        """A worker with nothing to do ends by itself when it is told to."""
        until = time.monotonic() + seconds
        while self._started is not None and self._started.ended() is None and time.monotonic() < until:
            time.sleep(0.05)
