"""Search, over names and numbers alone: what can be chosen, what is wanted, which point to try next, which are best.

    Space ─ Sampler.ask ─> point ─ (somebody measures it) ─> Trial ─ Sampler.tell ─ ... ─> pareto.front, pareto.best

Nothing here knows a model. A search goes on from its trials: they are the whole state of a sampler.
"""

from olivine.registry import Registry
from olivine.search.objectives import Goal, Objective, Verdict
from olivine.search.samplers import Sampler, SamplerParams
from olivine.search.space import Categorical, Dimension, Float, Int, Point, Space, Trial

samplers: Registry[Sampler] = Registry("olivine.search.samplers", Sampler, group="olivine.samplers")  # type: ignore[type-abstract]

__all__ = [
    "Categorical",
    "Dimension",
    "Float",
    "Goal",
    "Int",
    "Objective",
    "Point",
    "Sampler",
    "SamplerParams",
    "Space",
    "Trial",
    "Verdict",
    "samplers",
]
