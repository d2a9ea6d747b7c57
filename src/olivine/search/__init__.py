"""Search, over names and numbers alone: what can be chosen, what is wanted, which point to try next, which are best.

    Space ─ Sampler.ask ─> point ─ (somebody measures it) ─> Trial ─ Sampler.tell ─ ... ─> pareto.front, pareto.best

Nothing here knows a model. A search goes on from its trials: they are the whole state of a sampler.
"""

from typing import TYPE_CHECKING

from olivine import lazy

if TYPE_CHECKING:
    from olivine.search.objectives import Goal, Objective, Verdict
    from olivine.search.samplers import Sampler, SamplerParams
    from olivine.search.space import Categorical, Dimension, Float, Int, Point, Space, Trial

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
]

__getattr__ = lazy.names(
    __name__,
    {
        "objectives": "Goal Objective Verdict",
        "samplers": "Sampler SamplerParams",
        "space": "Categorical Dimension Float Int Point Space Trial",
    },
)
