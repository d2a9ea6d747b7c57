"""Label accuracy: is the generated text the expected label?"""

import string

from olivine.evaluate._base import Evidence, Metric


class LabelAccuracy(Metric):
    """Share of rows whose generated text is the label, exactly, after normalisation."""

    def compute(self, evidence: Evidence) -> dict[str, float]:
        """`label_accuracy` in 0..1."""
        pairs = zip(evidence.labels, evidence.generated, strict=True)
        hits = [matches(label, generated) for label, generated in pairs]
        return {"label_accuracy": sum(hits) / len(hits)} if hits else {}


def matches(label: str, generated: str) -> bool:
    """Whether the generated text is the label.

    A label of one line is compared with the first line that holds text, so that what a model adds afterwards does not
    count against the label; a longer label is compared with everything.
    """
    if "\n" in label.strip():
        return normalize(generated) == normalize(label)
    first_line = next((line for line in generated.splitlines() if line.strip()), "")
    return normalize(first_line) == normalize(label)


def normalize(text: str) -> str:
    """Casefolded, inner white space as single spaces, no white space or punctuation around."""
    return " ".join(text.casefold().split()).strip(string.punctuation + string.whitespace)
