"""A pool of workers: jobs that are asked for at once run at once, as many as there are workers."""

import queue
from collections.abc import Callable
from typing import Any, Self

from olivine.systems import Job, Listener, Worker


class Pool:
    """Workers that any thread may give a job.

    start: makes a worker, whose process starts with its first job. n: how many jobs run at once; the others wait.
    """

    def __init__(self, start: Callable[[], Worker], n: int = 1) -> None:
        self._workers = [start() for _ in range(n)]
        self._idle: queue.LifoQueue[Worker] = queue.LifoQueue()  # the one that worked last is warm
        for worker in reversed(self._workers):
            self._idle.put(worker)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def run(self, job: Job, listen: Listener) -> dict[str, Any]:
        """The result of the job, from the first worker that is free."""
        worker = self._idle.get()
        try:
            return worker.run(job, listen)
        finally:
            self._idle.put(worker)

    def close(self) -> None:
        """Let all workers go."""
        for worker in self._workers:
            worker.close()
