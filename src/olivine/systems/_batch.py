"""A system with a queue: it takes a command, runs it some time, and says how it goes.

Files, jobs and their events lie at an address of fsspec that both sides reach. Nobody talks to a job: the machine that
submitted it may be closed, and whoever asks for the same job later finds it where it is.
"""

import json
import time
import uuid
from abc import abstractmethod
from collections.abc import Iterable, Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from olivine.errors import Interrupted, StepFailed
from olivine.store.hashes import digest
from olivine.store.remote import RemoteFiles
from olivine.systems._base import System, Worker
from olivine.systems._pieces import Pieces, write_job
from olivine.systems._protocol import Job, Listener, answer


class Batch(System):
    """What a queue is asked; the rest of a system follows.

    pause_seconds: between two looks at a job.
    """

    pause_seconds: ClassVar[float] = 2.0

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

    @abstractmethod
    def cancel(self, identity: str) -> None:
        """End a command, whether it waits or runs; nothing when it has ended."""

    @cached_property
    def far(self) -> RemoteFiles:
        """Those of `files`, opened once."""
        return self.files()

    def worker(self) -> "BatchWorker":
        """One that submits each job as a command of its own."""
        return BatchWorker(self)

    def missing(self, hashes: Iterable[str]) -> set[str]:
        """See System."""
        return self.far.missing(hashes)

    def put(self, source: Path, hashed: str) -> None:
        """See System."""
        self.far.put(source, hashed)

    def get(self, hashed: str, target: Path) -> None:
        """See System."""
        self.far.get(hashed, target)


class BatchWorker(Worker):
    """Submits jobs to a queue and follows their events; a job that is there already is followed, not submitted."""

    def __init__(self, system: Batch) -> None:
        self._system, self._far = system, system.far
        self._identity: str | None = None

    def run(self, job: Job, listen: Listener) -> dict[str, Any]:
        """See Worker."""
        try:
            name, self._identity = self._attached(job) or self._submitted(job)
            return self._result(name, self._identity, job, listen)
        except KeyboardInterrupt as stop:
            self.kill()
            raise Interrupted.by(stop, f" in step '{job.step}'") from None
        except StepFailed:
            raise
        except BaseException:  # the listener failed: nobody waits for the job
            self.kill()
            raise
        finally:
            self._identity = None

    def close(self) -> None:
        """See Worker."""

    def kill(self) -> None:
        """See Worker."""
        if self._identity is not None:
            self._system.cancel(self._identity)

    def _attached(self, job: Job) -> tuple[str, str] | None:
        """Name and id of the same job when it is there: waiting, running, or done."""
        content = self._far.read(f"jobs/{_title(job)}.json")
        if content is None:
            return None
        with suppress(ValueError, KeyError):
            known = json.loads(content)
            name, identity = str(known["name"]), str(known["id"])
            is_done = any(fields["event"] == "done" for fields in Pieces(self._far, name).new())
            if is_done or self._system.ended(identity) is None:
                return name, identity
        return None

    def _submitted(self, job: Job) -> tuple[str, str]:
        title = _title(job)
        name = f"{title}-{uuid.uuid4().hex[:8]}"
        write_job(self._far, name, job)
        identity = self._system.submit(name, ["--batch", name])
        self._far.write(f"jobs/{title}.json", json.dumps({"name": name, "id": identity}).encode())
        return name, identity

    def _result(self, name: str, identity: str, job: Job, listen: Listener) -> dict[str, Any]:
        pieces, how = Pieces(self._far, name), None
        while True:
            for fields in pieces.new():
                if (result := answer(fields, job, listen)) is not None:
                    return result
            if how is not None:
                raise StepFailed(job.step, f"its worker {how}", job.log_path)
            how = self._system.ended(identity)  # what it said last is read once more
            if how is None:
                time.sleep(self._system.pause_seconds)


def _title(job: Job) -> str:
    """What a job is called: the same for the same job, wherever and whenever it is submitted."""
    record = job.to_json()
    del record["machine"]  # how much disk is free there is no other job
    return digest(record)[:24]
