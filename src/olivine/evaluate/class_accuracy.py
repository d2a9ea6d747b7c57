"""Accuracy of a classifier: is the likeliest class the expected one?"""

from olivine.evaluate._base import Metric, OutputEvidence
from olivine.evaluate.label_accuracy import ACCURACIES, standard_error


class ClassAccuracy(Metric):
    """Share of rows, or of labelled tokens, whose class with the largest score is the label."""

    reads = OutputEvidence
    types = ("accuracy",)
    numbers = ACCURACIES
    needs_labels = True

    def compute(self, evidence: OutputEvidence) -> dict[str, float]:
        """`label_accuracy` in 0..1, and its `label_accuracy_standard_error`; nothing without labels."""
        answered = evidence.answered()
        if not answered:
            return {}
        n_hits = sum(int(scores.argmax()) == label for scores, label in answered)
        return {
            "label_accuracy": n_hits / len(answered),
            "label_accuracy_standard_error": standard_error(n_hits, len(answered)),
        }
