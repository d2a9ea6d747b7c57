"""A worker whose files lie elsewhere: jobs go without places, files by content, and results come back as made here."""

import shutil
import uuid
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from olivine import lazy
from olivine.absent import absent, address_of
from olivine.errors import StepFailed
from olivine.store.hashes import Hashes
from olivine.store.packing import OUTPUT
from olivine.systems._base import System, Worker
from olivine.systems._process import WorkerProcess
from olivine.systems._protocol import Job, Listener

if TYPE_CHECKING:
    from olivine.systems import _parcel
else:
    _parcel = lazy.module("olivine.systems._parcel")


def opened(system: System, cache_dir: Path) -> Worker:
    """A worker of the system, which takes jobs that name places here. cache_dir: remembers hashes of files here."""
    return system.worker() if system.reads_here else Elsewhere(system, cache_dir)


class Elsewhere(Worker):
    """Sends what the system lacks before each job, and fetches what the job made."""

    def __init__(self, system: System, cache_dir: Path) -> None:
        self._system, self._hashes, self._worker = system, Hashes(cache_dir), system.worker()
        self._arriving = cache_dir / "scratch" / "arriving"

    def run(self, job: Job, listen: Listener) -> dict[str, Any]:
        """See Worker."""
        if job.kind == "fetch":  # from there a model goes on by content, as any other
            with WorkerProcess() as here:
                return here.run(job, listen)
        sent = _parcel.parcel(job, self._hashes)
        for hashed in sorted(self._system.missing(sent.sources)):
            source = sent.sources[hashed]
            if absent(source) is not None:
                raise StepFailed(job.step, f"'{address_of(source.parent)}' is no longer in the store; run it again")
            self._system.put(source, hashed)
        places = {**sent.places, OUTPUT: str(job.output)}

        def tell(event: str, fields: Mapping[str, Any]) -> None:
            listen(event, _parcel.named(fields, places))

        listen("submitted", {"title": sent.job.title})
        try:
            result = self._worker.run(sent.job, tell)
        except StepFailed as failure:
            cause, tail = _parcel.named([failure.cause, failure.tail], places)
            raise StepFailed(failure.step, cause, failure.log, tail=tail, is_refused=failure.is_refused) from None
        if job.kind != "take":  # what a node takes stays there, and is named by its hashes
            self._fetch(result.pop("files"), job)
        answered: dict[str, Any] = _parcel.named(result, places)
        return answered

    def close(self) -> None:
        """See Worker."""
        self._worker.close()

    def kill(self) -> None:
        """See Worker."""
        self._worker.kill()

    @property
    def has_line(self) -> bool:
        """See Worker."""
        return self._worker.has_line

    def hang_up(self) -> None:
        """See Worker."""
        self._worker.hang_up()

    def _fetch(self, files: Mapping[str, str], job: Job) -> None:
        for name, hashed in files.items():
            if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
                raise StepFailed(job.step, f"its worker names a file outside of the result: '{name}'")
            self._bring(hashed, job.output / name)

    def _bring(self, hashed: str, target: Path) -> None:
        """Fetch a file by way of a folder that outlives a run that is interrupted meanwhile."""
        arrived = self._arriving / uuid.uuid4().hex  # another run may fetch the same
        self._system.get(hashed, arrived)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(arrived, target)
