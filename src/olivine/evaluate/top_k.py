"""Accuracy of a classifier that may name several classes."""

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from olivine import lazy
from olivine.evaluate._base import Metric, MetricParams, Number, OutputEvidence
from olivine.evaluate.label_accuracy import standard_error

if TYPE_CHECKING:
    import numpy as np
else:
    np = lazy.module("numpy")


class TopK(Metric):
    """Share of rows whose label is among the `k` classes with the largest scores."""

    class Params(MetricParams):
        """How many classes count."""

        k: int = Field(5, gt=0, description="classes that may hold the label")

    params: Params
    reads = OutputEvidence
    types = ("accuracy",)
    numbers: ClassVar = {
        "top_k": Number("top_k_accuracy", higher_is_better=True, unit="share"),
        "top_k_accuracy": Number("top_k_accuracy", higher_is_better=True, unit="share"),
    }
    only_when_asked = True
    needs_labels = True

    def compute(self, evidence: OutputEvidence) -> dict[str, float]:
        """`top_k_accuracy` in 0..1 and its standard error; nothing without labels."""
        rows = evidence.answered()
        if not rows:
            return {}
        best = [(np.argsort(-scores, kind="stable")[: self.params.k], label) for scores, label in rows]
        n_hits = sum(label in classes for classes, label in best)
        return {
            "top_k_accuracy": n_hits / len(rows),
            "top_k_accuracy_standard_error": standard_error(n_hits, len(rows)),
        }
