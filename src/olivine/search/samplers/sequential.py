"""Every point of the space, one after the other."""

from collections.abc import Iterator
from typing import ClassVar

from olivine.search.samplers._base import Sampler
from olivine.search.space import Point


class Sequential(Sampler):
    """Try every point once, in the order in which the values stand; the last dimension changes fastest."""

    aliases: ClassVar[tuple[str, ...]] = ("exhaustive", "SequentialSampler")
    lists: ClassVar[bool] = True
    _left: Iterator[Point]

    def begin(self) -> None:
        """Stand before the first point."""
        self._left = self.space.points()

    def propose(self, seed: int) -> Point | None:  # noqa: ARG002 - nothing is drawn
        """The next point that was not told."""
        return next((point for point in self._left if not self.is_seen(point)), None)
