"""Loss and perplexity of the target."""

import math
from typing import ClassVar

from olivine.evaluate._base import Evidence, Metric, Number


class Perplexity(Metric):
    """Mean negative log-likelihood of the target's tokens in nats, and its exponential."""

    types = ("accuracy",)  # evaluators of Olive list it there too
    numbers: ClassVar = {
        "perplexity": Number("perplexity", higher_is_better=False, best=1.0),
        "loss": Number("loss", higher_is_better=False, best=0.0),
    }

    def compute(self, evidence: Evidence) -> dict[str, float]:
        """`loss` in nats a token, `perplexity` = exp(loss) (infinite from 700 nats on)."""
        if not len(evidence.token_losses):
            return {}
        loss = float(evidence.token_losses.mean())
        return {"loss": loss, "perplexity": math.inf if loss >= 700 else math.exp(loss)}
