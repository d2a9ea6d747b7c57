"""Distance to the model one seam before."""

from typing import TYPE_CHECKING, ClassVar

from olivine import lazy
from olivine.evaluate._base import Evidence, Metric, Number

if TYPE_CHECKING:
    import numpy as np
else:
    np = lazy.module("numpy")


class DivergenceMetric(Metric):
    """Mean KL divergence to the step before on the target tokens, and how often both put the same token first."""

    aliases = ("kl_divergence", "kl")
    numbers: ClassVar = {
        "kl_divergence": Number("kl", higher_is_better=False, compares=True, best=0.0),
        "kl": Number("kl", higher_is_better=False, compares=True, best=0.0),
        "top1_agreement": Number("top1_agreement", higher_is_better=True, unit="share", compares=True),
    }

    def compute(self, evidence: Evidence) -> dict[str, float]:
        """`kl` in nats, `kl_standard_error`, `top1_agreement` in 0..1; empty for the first model or other tokens."""
        from olivine.kernels.divergence import divergence

        if evidence.previous is None or evidence.previous.shape != evidence.log_probabilities.shape:
            return {}
        if not len(evidence.previous):
            return {}
        result = divergence(evidence.previous, evidence.log_probabilities)
        return {
            "kl": result.mean,
            "kl_standard_error": result.standard_error,
            # the first of NaN is no best token, though a model whose logits are flat has the same
            "top1_agreement": 0.0 if np.isnan(result.mean) else result.top1_agreement,
        }
