"""Which point to try next, one strategy a file."""

from olivine.registry import Registry
from olivine.search.samplers._base import Sampler, SamplerParams

samplers: Registry[Sampler] = Registry("olivine.search.samplers", Sampler, group="olivine.samplers")  # type: ignore[type-abstract]

__all__ = ["Sampler", "SamplerParams", "samplers"]
