"""How long a user waits."""

from typing import TYPE_CHECKING, ClassVar

from olivine import lazy
from olivine.evaluate._base import Evidence, Metric, Number, TimingParams, Timings

if TYPE_CHECKING:
    import numpy as np
else:
    np = lazy.module("numpy")

PERCENTILES = {"p50": 50, "p75": 75, "p90": 90, "p95": 95, "p99": 99, "p999": 99.9}


class Latency(Metric):
    """Milliseconds of each token that a decoder writes, and until the first; of any other model, those of a batch."""

    Params = TimingParams
    reads = Timings
    numbers: ClassVar = {
        name: Number(f"latency_{name}", higher_is_better=False, unit="ms", best=0.0)
        for name in ("avg", "min", "max", *PERCENTILES)
    } | {"time_to_first_token": Number("time_to_first_token", higher_is_better=False, unit="ms", of=Evidence, best=0.0)}
    only_when_asked = True

    def compute(self, evidence: Timings) -> dict[str, float]:
        """`latency_avg`, `latency_p90` and so on, and `time_to_first_token` (its median), in milliseconds."""
        steps = 1000 * np.asarray(evidence.steps)
        if not len(steps):
            return {}
        numbers = {"avg": steps.mean(), "min": steps.min(), "max": steps.max()}
        numbers |= {name: np.percentile(steps, share) for name, share in PERCENTILES.items()}
        first = {"time_to_first_token": 1000 * float(np.median(evidence.first))} if evidence.first else {}
        return {f"latency_{name}": float(value) for name, value in numbers.items()} | first
