"""Points at random, each dimension by itself."""

from typing import ClassVar

from olivine.search.samplers._base import Sampler
from olivine.search.space import Point, shares


class Random(Sampler):
    """Draw every dimension by itself; what was tried is not tried again."""

    aliases: ClassVar[tuple[str, ...]] = ("RandomSampler",)

    def propose(self, seed: int) -> Point:
        """The point that the seed draws."""
        return self.space.point_at(shares(seed))
