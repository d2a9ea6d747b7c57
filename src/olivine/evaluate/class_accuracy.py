"""Accuracy of a classifier: is the likeliest class the expected one?"""

from olivine.evaluate._base import Metric, OutputEvidence
from olivine.evaluate.label_accuracy import ACCURACIES, standard_error


class ClassAccuracy(Metric):
    """Share of rows whose class with the largest score is the label."""

    reads = OutputEvidence
    types = ("accuracy",)
    numbers = ACCURACIES
    needs_labels = True

    def compute(self, evidence: OutputEvidence) -> dict[str, float]:
        """`label_accuracy` in 0..1, and its `label_accuracy_standard_error`; nothing without labels."""
        if not evidence.labels or not evidence.scores:
            return {}
        classes = [row[evidence.scores[0]].reshape(-1).argmax() for row in evidence.outputs]
        n_hits = sum(int(one) == label for one, label in zip(classes, evidence.labels, strict=True))
        return {
            "label_accuracy": n_hits / len(evidence.labels),
            "label_accuracy_standard_error": standard_error(n_hits, len(evidence.labels)),
        }
