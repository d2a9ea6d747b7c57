"""Exact match: is the generated text the label, character by character?"""

from typing import ClassVar

from olivine.evaluate._base import Evidence, Metric, Number
from olivine.evaluate.label_accuracy import standard_error


class ExactMatch(Metric):
    """Share of rows whose generated text is the label as it is written; only white space around both is left out."""

    types = ("accuracy",)
    numbers: ClassVar = {"exact_match": Number("exact_match", higher_is_better=True, unit="share")}
    only_when_asked = True
    needs_labels = True

    def compute(self, evidence: Evidence) -> dict[str, float]:
        """`exact_match` in 0..1, and its `exact_match_standard_error`."""
        pairs = list(zip(evidence.labels, evidence.generated, strict=True))
        if not pairs:
            return {}
        n_hits = sum(label.strip() == generated.strip() for label, generated in pairs)
        return {"exact_match": n_hits / len(pairs), "exact_match_standard_error": standard_error(n_hits, len(pairs))}
