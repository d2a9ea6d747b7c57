"""Area under the receiver operating characteristic, as the share of pairs that are in order (Hanley & McNeil 1982)."""

from typing import TYPE_CHECKING, Any, ClassVar

from olivine import lazy
from olivine.evaluate._base import Metric, Number, OutputEvidence

if TYPE_CHECKING:
    import numpy as np
else:
    np = lazy.module("numpy")


class Auroc(Metric):
    """How often a row of a class has a larger score for it than a row of another; the mean over the classes."""

    reads = OutputEvidence
    types = ("accuracy",)
    numbers: ClassVar = dict.fromkeys(("auroc", "auc"), Number("auroc", higher_is_better=True, unit="share"))
    only_when_asked = True
    needs_labels = True

    def compute(self, evidence: OutputEvidence) -> dict[str, float]:
        """`auroc` in 0..1, over the classes that some rows have and others lack; nothing where there are none.

        A classifier with one score for two classes has it for class 1.
        """
        answered = evidence.answered()
        if not answered:
            return {}
        scores = np.stack([one for one, _ in answered]).astype(np.float64)
        labels = np.asarray([label for _, label in answered])
        classes = {1: scores[:, 0]} if scores.shape[1] == 1 else dict(enumerate(_logits_or_shares(scores).T))
        areas = [
            _area(values, labels == one) for one, values in classes.items() if 0 < (labels == one).sum() < len(labels)
        ]
        return {"auroc": float(np.mean(areas))} if areas else {}


def _logits_or_shares(scores: Any) -> Any:
    """Scores that compare between rows: [rows, classes] logits, less the log of the sum of their exponentials.

    Probabilities, which are positive and sum to 1, stay as they are.
    """
    if (scores >= 0).all() and np.allclose(scores.sum(axis=1), 1, atol=1e-3):
        return scores
    shifted = scores - scores.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


def _area(values: Any, is_positive: Any) -> float:
    """Mann-Whitney's U of the positive rows as a share of all pairs; a tie counts half."""
    positive, negative = values[is_positive], np.sort(values[~is_positive])
    below = np.searchsorted(negative, positive, side="left")
    up_to = np.searchsorted(negative, positive, side="right")
    return float((below + up_to).sum() / 2 / (len(positive) * len(negative)))
