"""Which point to try next, one strategy a file."""

from olivine.search.samplers._base import Sampler, SamplerParams

__all__ = ["Sampler", "SamplerParams"]
