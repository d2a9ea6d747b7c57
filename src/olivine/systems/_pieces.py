"""Jobs and their events at an address where files go, for a worker that nobody can talk to.

jobs/NAME/job.json           the job
jobs/NAME/events/00000001    some lines, the next ones in the next piece; never written to again
"""

import json
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from olivine.errors import OlivineError
from olivine.messages import events_in
from olivine.store.remote import RemoteFiles
from olivine.systems._log import EventLog
from olivine.systems._protocol import Job

_PIECE_SECONDS = 1.0  # a store of objects is paid for by the write
_N_TRIES = 6


def write_job(far: RemoteFiles, name: str, job: Job) -> None:
    """Leave a job there."""
    far.write(f"jobs/{name}/job.json", json.dumps(job.to_json()).encode())


def read_job(far: RemoteFiles, name: str) -> dict[str, Any]:
    """The job of that name; OlivineError when there is none."""
    content = far.read(f"jobs/{name}/job.json")
    if content is None:
        raise OlivineError(f"'{far.url}' has no job '{name}'")
    record: dict[str, Any] = json.loads(content)
    return record


def publish(log: EventLog, far: RemoteFiles, name: str) -> None:
    """Write the events of a log there until it is closed."""
    for number, texts in enumerate(log.after(0), start=1):
        _write(far, f"jobs/{name}/events/{number:08}", "".join(texts).encode())
        time.sleep(_PIECE_SECONDS)


def _write(far: RemoteFiles, name: str, content: bytes) -> None:
    """Write a piece; an address that cannot be reached for a while is tried again."""
    for number in range(_N_TRIES):
        with suppress(OlivineError):
            far.write(name, content)
            return
        time.sleep(2.0**number)
    far.write(name, content)


class Pieces:
    """The events of a job there, read as they come."""

    def __init__(self, far: RemoteFiles, name: str) -> None:
        self._far, self._folder, self._n_read = far, f"jobs/{name}/events", 0

    def new(self) -> Iterator[dict[str, Any]]:
        """Those that came since the last look."""
        names = self._far.names(self._folder)
        for name in names:
            if int(name) == self._n_read + 1:  # a listing may not have all of them at once
                content = self._far.read(f"{self._folder}/{name}") or b""
                self._n_read += 1
                yield from events_in(content.decode("utf-8", errors="replace").splitlines())
