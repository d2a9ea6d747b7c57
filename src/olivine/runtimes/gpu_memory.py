"""What the process of a model takes of the GPU's memory, by what more of it is in use afterwards.

The driver knows processes by numbers that a container does not see, so it is asked for the whole. What others take
meanwhile would count: models take turns, and nothing else of a run is at work while they do.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from olivine import nvidia


class GpuMemory:
    """Bytes that were taken while one of the things in `counting` was done, and are held. used: asks the driver."""

    def __init__(self, used: Callable[[], int] = nvidia.used_bytes) -> None:
        self._used, self._held, self.peak_bytes = used, 0, 0

    @contextmanager
    def counting(self) -> Iterator[None]:
        """Count what is taken meanwhile. Runtimes keep what they took, so the largest is what is held at last."""
        before = self._used()
        yield
        self._held += self._used() - before
        self.peak_bytes = max(self.peak_bytes, self._held)
