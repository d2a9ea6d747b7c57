"""Points at random, each dimension by itself."""

from typing import ClassVar

from pydantic import Field

from olivine.search.samplers._base import Sampler, SamplerParams
from olivine.search.space import Point, shares


class Random(Sampler):
    """Draw every dimension by itself; what was tried is not tried again."""

    aliases: ClassVar[tuple[str, ...]] = ("RandomSampler",)

    class Params(SamplerParams):
        """What decides the points that are tried."""

        with_replacement: bool = Field(False, description="accepted; no point is tried twice, as its result is known")

    params: Params

    def propose(self, seed: int) -> Point:
        """The point that the seed draws."""
        return self.space.point_at(shares(seed))
