"""Pools of workers: jobs that are asked for at once run at once, as many as there are workers on their host."""

import queue
import threading
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Self

from olivine.systems import Ahead, Job, Listener, System, Worker, opened


class Pool:
    """Workers that any thread may give a job.

    start: makes a worker, whose process starts with its first job. n: how many jobs run at once; the others wait.
    """

    def __init__(self, start: Callable[[], Worker], n: int = 1) -> None:
        self._workers = [start() for _ in range(n)]
        self._idle: queue.LifoQueue[Worker] = queue.LifoQueue()  # the one that worked last is warm
        for worker in reversed(self._workers):
            self._idle.put(worker)
        self._at_work: dict[int | None, Worker] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def run(self, job: Job, listen: Listener) -> dict[str, Any]:
        """The result of the job, from the first worker that is free."""
        worker, thread = self._idle.get(), threading.get_ident()
        self._at_work[thread] = worker
        try:
            return worker.run(job, listen)
        finally:
            del self._at_work[thread]
            self._idle.put(worker)

    def warm(self, ahead: Ahead) -> None:
        """Let one of the workers begin with what the first jobs will need."""
        worker = self._idle.get()
        try:
            worker.warm(ahead)
        finally:
            self._idle.put(worker)

    def kill(self, thread: int | None = None) -> None:
        """End the process that works for a thread, now, or of all workers; the next job starts another."""
        working = [self._at_work[thread]] if thread in self._at_work else []
        for worker in self._workers if thread is None else working:
            worker.kill()

    def close(self) -> None:
        """Let all workers go."""
        for worker in self._workers:
            worker.close()


class Workers:
    """A pool for each host, by its name; None is the host of what names none."""

    def __init__(self, pools: Mapping[str | None, Pool]) -> None:
        self._pools = pools

    @classmethod
    def of(cls, systems: Iterable[tuple[str | None, System]], cache_dir: Path, n: int = 1) -> Self:
        """Pools of `n` workers each. cache_dir: remembers hashes of the files here."""
        return cls({name: Pool(partial(opened, system, cache_dir), n) for name, system in systems})

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def run(self, job: Job, listen: Listener, host: str | None = None) -> dict[str, Any]:
        """The result of the job, from the first worker of the host that is free."""
        return self._pools[host].run(job, listen)

    def warm(self, ahead: Ahead, host: str | None) -> None:
        """Let a worker of the host begin with what its first jobs will need."""
        self._pools[host].warm(ahead)

    def kill(self, thread: int | None = None) -> None:
        """End the jobs that a thread has asked for, now, or all: they fail."""
        for pool in self._pools.values():
            pool.kill(thread)

    def close(self) -> None:
        """Let all workers go."""
        for pool in self._pools.values():
            pool.close()
