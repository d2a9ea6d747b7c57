"""Distance of a model's outputs to those of the model one seam before."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from olivine import lazy
from olivine.evaluate._base import Metric, Number, OutputEvidence

if TYPE_CHECKING:
    import numpy as np
else:
    np = lazy.module("numpy")


class OutputAgreement(Metric):
    """Cosine and largest difference of outputs to the step before, and how often both rank the same class first.

    An output that has another name or shape than before is not compared.
    """

    reads = OutputEvidence
    numbers: ClassVar = {
        "cosine": Number("cosine", higher_is_better=True, compares=True, best=1.0),
        "largest_difference": Number("largest_difference", higher_is_better=False, compares=True, best=0.0),
        "top1_agreement": Number("top1_agreement", higher_is_better=True, unit="share", compares=True),
    }

    def compute(self, evidence: OutputEvidence) -> dict[str, float]:
        """`cosine`: mean over the rows, of the output where it is least; `largest_difference`; `top1_agreement`.

        The last one only where an output is scores of classes: the share of them, of all rows, whose largest is the
        same.
        """
        pairs = list(_pairs(evidence))
        if not pairs:
            return {}
        by_output: dict[str, list[float]] = {}
        for name, before, after in pairs:
            by_output.setdefault(name, []).append(cosine(before, after))
        numbers = {
            "cosine": float(np.min([np.mean(values) for values in by_output.values()])),
            "largest_difference": float(np.max([_difference(before, after) for _, before, after in pairs])),
        }
        ranked = [(before, after) for name, before, after in pairs if name in evidence.scores and before.ndim]
        same = [before.argmax(-1).reshape(-1) == after.argmax(-1).reshape(-1) for before, after in ranked]
        if same and sum(map(len, same)):
            numbers["top1_agreement"] = float(np.concatenate(same).mean())
        return numbers


def _pairs(evidence: OutputEvidence) -> Iterator[tuple[str, Any, Any]]:
    """Every output of every row before and now, as float64."""
    for before, after in zip(evidence.previous or (), evidence.outputs, strict=False):
        for name, values in _shared(before, after).items():
            yield name, before[name].astype(np.float64), values.astype(np.float64)


def _shared(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Any]:
    return {name: values for name, values in after.items() if name in before and before[name].shape == values.shape}


def _difference(before: Any, after: Any) -> Any:
    """The largest; of what is the same infinity, or NaN in both, none."""
    is_same = (before == after) | (np.isnan(before) & np.isnan(after))
    return np.abs(np.where(is_same, 0, after) - np.where(is_same, 0, before)).max(initial=0)


def cosine(one: Any, other: Any) -> float:
    """Of the angle between two outputs, each as one long vector; 1 where both are nothing but zeros.

    What is infinite or NaN in both alike is left out; NaN where they differ in that.
    """
    is_number = np.isfinite(one) & np.isfinite(other)
    if not np.array_equal(one[~is_number], other[~is_number], equal_nan=True):
        return float("nan")
    one, other = one[is_number], other[is_number]
    lengths = float(np.linalg.norm(one) * np.linalg.norm(other))
    if lengths == 0:
        return 1.0 if np.array_equal(one, other) else 0.0
    return float(np.vdot(one, other)) / lengths
