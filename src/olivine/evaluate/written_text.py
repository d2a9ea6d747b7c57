"""Is the text that an encoder-decoder writes the one that is expected?"""

from typing import ClassVar

from olivine.evaluate._base import Metric, Number, OutputEvidence
from olivine.evaluate.label_accuracy import matches, standard_error


class WrittenText(Metric):
    """Share of rows whose text is the expected one: of T5, BART, Marian and their like, which write it greedily."""

    types = ("accuracy",)
    reads = OutputEvidence
    numbers: ClassVar = {"exact_match": Number("exact_match", higher_is_better=True, unit="share")}
    needs_labels = True
    writes = True

    def compute(self, evidence: OutputEvidence) -> dict[str, float]:
        """`label_accuracy` in 0..1 after normalisation, `exact_match` character by character, and their errors."""
        if not evidence.transcripts or evidence.is_heard:
            return {}
        pairs, n_rows = evidence.transcripts, len(evidence.transcripts)
        hits = {
            "label_accuracy": sum(matches(expected, written) for expected, written in pairs),
            "exact_match": sum(expected.strip() == written.strip() for expected, written in pairs),
        }
        shares = {name: count / n_rows for name, count in hits.items()}
        errors = {f"{name}_standard_error": standard_error(count, n_rows) for name, count in hits.items()}
        return shares | errors
