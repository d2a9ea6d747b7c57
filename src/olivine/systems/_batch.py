"""A system with a queue: it takes a command, runs it some time, and says how it goes.

Files, jobs and their events lie at an address of fsspec that both sides reach. Nobody talks to a job: the machine that
submitted it may be closed, and whoever asks for the same job later finds it where it is.
"""

import json
import time
import uuid
from abc import abstractmethod
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from olivine.errors import OlivineError, StepFailed
from olivine.store.remote import RemoteFiles
from olivine.systems._base import System, Worker
from olivine.systems._pieces import ENDINGS, Pieces, write_end, write_job
from olivine.systems._protocol import Job, Listener, answer

Answer = TypeVar("Answer")


class Batch(System):
    """What a queue is asked; the rest of a system follows.

    pause_seconds: between two looks at a job. patience_seconds: how long a worker there waits for its next job.
    """

    pause_seconds: ClassVar[float] = 2.0
    patience_seconds: ClassVar[float] = 600.0

    @abstractmethod
    def files(self) -> RemoteFiles:
        """Where files, jobs and events lie, as this machine reaches it."""

    @abstractmethod
    def submit(self, name: str, arguments: Sequence[str]) -> str:
        """Let a Python there run WORKER with these arguments, and with `--store` and `--files` as that side sees them.

        name: of letters, digits and hyphens, another one for each time. Gives the id by which the queue knows it.
        Raises OlivineError with one sentence when the queue refuses it.
        """

    @abstractmethod
    def ended(self, identity: str) -> str | None:
        """How a command ended, in words that follow "its worker "; None while it waits or runs.

        "ended with exit code 0" for one that did well: what it did stands in its events.
        """

    def waiting(self, identity: str) -> str:  # noqa: ARG002
        """What a command waits for, as `ended` saw it last; told to the user when it changes."""
        return ""

    @abstractmethod
    def cancel(self, identity: str) -> None:
        """End a command, whether it waits or runs; nothing when it has ended."""

    def let_go(self, identity: str) -> None:
        """A command that was told to end is of no further interest."""

    @cached_property
    def far(self) -> RemoteFiles:
        """Those of `files`, opened once."""
        return self.files()

    def worker(self) -> "BatchWorker":
        """One command in the queue, which does job after job."""
        return BatchWorker(self)

    def end_job(self, title: str) -> str | None:
        """See System: the command goes with it, which waits for more of a run that is lost."""
        place = place_of(self.far, title)
        if place is None or self.ended(place.identity) is not None:
            return None
        self.cancel(place.identity)
        return place.identity

    def missing(self, hashes: Iterable[str]) -> set[str]:
        """See System."""
        return self.far.missing(hashes)

    def put(self, source: Path, hashed: str) -> None:
        """See System."""
        self.far.put(source, hashed)

    def get(self, hashed: str, target: Path) -> None:
        """See System."""
        self.far.get(hashed, target)


@dataclass(frozen=True)
class Place:
    """Where a job is: the worker's name, the id of its command in the queue, and which of its jobs it is."""

    name: str
    identity: str
    number: int


def place_of(far: RemoteFiles, title: str) -> Place | None:
    """Where a job of that title was put last; None where none was, or by another version."""
    content = far.read(_record_of(title))
    with suppress(ValueError, TypeError):
        return Place(**json.loads(content)) if content is not None else None
    return None


def _record_of(title: str) -> str:
    return f"jobs/{title}.json"


class BatchWorker(Worker):
    """Submits a worker to a queue, gives it job after job, and follows their events.

    The queue is waited for once: the worker stays until it is let go, or nothing came for `patience_seconds`. A job
    that is there already, of whoever submitted it, is followed and not given again.
    """

    def __init__(self, system: Batch) -> None:
        self._system, self._far = system, system.far
        self._own: Place | None = None  # the last job of the worker that this one submitted
        self._followed: Place | None = None

    def run(self, job: Job, listen: Listener) -> dict[str, Any]:
        """See Worker."""
        try:
            with self._gone_unless_fit(job):
                self._followed = place = self._attached(job) or self._given(job)
                return self._result(place, job, listen)
        finally:
            self._followed = None

    def close(self) -> None:
        """See Worker."""
        if self._own is not None:
            own, self._own = self._own, None
            write_end(self._far, own.name)
            self._system.let_go(own.identity)

    def kill(self) -> None:
        """See Worker."""
        for place in {self._own, self._followed} - {None}:
            if place is not None:
                self._system.cancel(place.identity)
        self._own = None

    def _attached(self, job: Job) -> Place | None:
        """Where the same job is, when it waits, runs or is done."""
        if (place := place_of(self._far, job.title)) is None:
            return None
        with suppress(ValueError, TypeError, KeyError):  # of another version
            events = Pieces(self._far, place.name, place.number - 1).new()
            ending = next((fields for fields in events if fields["event"] in ENDINGS), None)
            if ending is None:
                return place if self._system.ended(place.identity) is None else None
            if ending["event"] == "done" and not self._system.missing(ending["result"]["files"].values()):
                return place  # else what it made was cleared away since
        return None

    def _given(self, job: Job) -> Place:
        """Give the job to the worker that is there, or to a new one."""
        own = self._own
        if own is not None and self._system.ended(own.identity) is None:
            self._own = place = replace(own, number=own.number + 1)
            write_job(self._far, place.name, place.number, job)
        else:
            name = f"{job.title}-{uuid.uuid4().hex[:8]}"
            write_job(self._far, name, 1, job)
            arguments = ["--batch", name, "--patience", str(self._system.patience_seconds)]
            self._own = place = Place(name, self._system.submit(name, arguments), 1)
        self._far.write(_record_of(job.title), json.dumps(asdict(place)).encode())
        return place

    def _result(self, place: Place, job: Job, listen: Listener) -> dict[str, Any]:
        pieces, how, patience = Pieces(self._far, place.name, place.number - 1), None, _Patience(self._system)
        waiting = ""
        while True:
            for fields in patience.ask(lambda: list(pieces.new())) or ():
                if (result := answer(fields, job, listen)) is not None:
                    return result
            if how is not None:
                self._own = None
                raise StepFailed(job.step, f"its worker {how}", job.log_path)
            how = patience.ask(lambda: self._system.ended(place.identity))  # what it said last is read once more
            if how is None:
                if waiting != (waiting := self._system.waiting(place.identity)) and waiting:
                    listen("note", {"message": waiting})
                time.sleep(self._system.pause_seconds)


class _Patience:
    """Asks a system again that cannot be reached for a while: a lid was closed, a network is down."""

    def __init__(self, system: Batch) -> None:
        self._patience_seconds, self._since = system.patience_seconds, time.monotonic()

    def ask(self, question: Callable[[], Answer]) -> Answer | None:
        """The answer; None while there is none, and the error when there was none for too long."""
        try:
            told = question()
        except OlivineError:
            if time.monotonic() - self._since > self._patience_seconds:
                raise
            return None
        self._since = time.monotonic()
        return told
