"""Jobs and their events at an address where files go, for a worker that nobody can talk to.

jobs/NAME/job-000001         a job; the worker takes one after the other, so that a queue is waited for once
jobs/NAME/end                no more will come
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

_PIECE_SECONDS = 1.0  # a store of objects is paid for by the request
_N_TRIES = 6
ENDINGS = ("done", "failed")


def write_job(far: RemoteFiles, name: str, number: int, job: Job) -> None:
    """Leave a job there, for the worker of that name."""
    far.write(f"jobs/{name}/job-{number:06}", json.dumps(job.to_json()).encode())


def write_end(far: RemoteFiles, name: str) -> None:
    """Let the worker of that name end when it has nothing to do."""
    far.write(f"jobs/{name}/end", b"")


def jobs(
    far: RemoteFiles, name: str, patience_seconds: float, pause_seconds: float = _PIECE_SECONDS
) -> Iterator[tuple[int, Any]]:
    """The jobs left for a worker, as they come, with their numbers; until the end is said, or none came for that long.

    A worker that was started again, after the one before was taken away, goes on with the job that has not ended.
    """
    number = next_number(far, name)
    waited_since = time.monotonic()
    while True:
        content = far.read(f"jobs/{name}/job-{number:06}")
        if content is not None:
            yield number, json.loads(content)
            number, waited_since = number + 1, time.monotonic()
        elif far.read(f"jobs/{name}/end") is not None or time.monotonic() - waited_since > patience_seconds:
            return
        else:
            time.sleep(pause_seconds)


def next_number(far: RemoteFiles, name: str) -> int:
    """Which job of a worker is the first that has not ended."""
    return 1 + sum(fields["event"] in ENDINGS for fields in Pieces(far, name).new())


def publish(log: EventLog, far: RemoteFiles, name: str) -> None:
    """Write the events of a log there until it is closed; behind those of a worker that was there before."""
    n_before = len(far.names(f"jobs/{name}/events"))
    for number, texts in enumerate(log.after(0), start=n_before + 1):
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
    """The events of a worker there, read as they come. after: those of so many jobs are passed over."""

    def __init__(self, far: RemoteFiles, name: str, after: int = 0) -> None:
        self._far, self._folder, self._n_read, self._n_jobs = far, f"jobs/{name}/events", 0, after

    def new(self) -> Iterator[dict[str, Any]]:
        """Those that came since the last look; OlivineError when the first of them cannot be reached."""
        first = self._n_read + 1
        for name in self._far.names(self._folder):
            if int(name) == self._n_read + 1:  # a listing may not have all of them at once
                try:
                    content = self._far.read(f"{self._folder}/{name}") or b""
                except OlivineError:
                    if self._n_read + 1 == first:
                        raise
                    return  # the next look begins with it
                self._n_read += 1
                for fields in events_in(content.decode("utf-8", errors="replace").splitlines()):
                    if self._n_jobs <= 0:
                        yield fields
                    elif fields["event"] in ENDINGS:
                        self._n_jobs -= 1
