"""Label accuracy: is the generated text the expected label?"""

import math
import string

from pydantic import Field

from olivine.evaluate._base import Evidence, Metric, MetricParams, Number

ACCURACIES = dict.fromkeys(
    ("accuracy", "accuracy_score", "label", "label_accuracy"),
    Number("label_accuracy", higher_is_better=True, unit="share"),
)
"""The one number of an accuracy, by the names that configs have for it."""


class LabelAccuracy(Metric):
    """Share of rows whose generated text is the label, exactly, after normalisation."""

    class Params(MetricParams):
        """What counts as the same."""

        ignore_case: bool = Field(True, description="whether Joy is joy")

    params: Params
    types = ("accuracy",)
    numbers = ACCURACIES
    needs_labels = True

    def compute(self, evidence: Evidence) -> dict[str, float]:
        """`label_accuracy` in 0..1, and its `label_accuracy_standard_error`."""
        pairs = zip(evidence.labels, evidence.generated, strict=True)
        hits = [matches(label, generated, ignore_case=self.params.ignore_case) for label, generated in pairs]
        if not hits:
            return {}
        error = standard_error(sum(hits), len(hits))
        return {"label_accuracy": sum(hits) / len(hits), "label_accuracy_standard_error": error}


def standard_error(n_hits: int, n_rows: int) -> float:
    """How far a share of rows is from that of all rows of their kind, as a rule: in two of three cases no further.

    Half the width of Wilson's interval for a binomial share at one standard error (Wilson 1927, doi:10.2307/2276774):
    close to sqrt(p (1 - p) / n), but not 0 where all rows are alike.
    """
    share = n_hits / n_rows
    return math.sqrt(share * (1 - share) / n_rows + 1 / (4 * n_rows**2)) / (1 + 1 / n_rows)


def matches(label: str, generated: str, *, ignore_case: bool = True) -> bool:
    """Whether the generated text is the label.

    A label of one line is compared with the first line that holds text, so that what a model adds afterwards does not
    count against the label; a longer label is compared with everything.
    """
    said = generated if "\n" in label.strip() else first_line(generated)
    return normalize(said, ignore_case=ignore_case) == normalize(label, ignore_case=ignore_case)


def first_line(text: str) -> str:
    """The first line that holds more than white space; empty when there is none."""
    return next((line for line in text.splitlines() if line.strip()), "")


def normalize(text: str, *, ignore_case: bool = True) -> str:
    """Casefolded, inner white space as single spaces, no white space or punctuation around."""
    return " ".join((text.casefold() if ignore_case else text).split()).strip(string.punctuation + string.whitespace)
