"""Precision, recall and their harmonic mean F1 of classes, for answers in text as well as for classifiers."""

from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from typing import ClassVar, Literal

from pydantic import Field

from olivine.evaluate._base import Evidence, Metric, MetricParams, Number, OutputEvidence
from olivine.evaluate.label_accuracy import first_line, normalize

Pair = tuple[Hashable, Hashable]  # the expected class, and the one that the model gave; None: none that there is


class FScore(Metric):
    """F1, precision and recall, by class and averaged over the classes.

    A class is one that a row has as its label, or that a classifier gives. Text that is no label of any row is an
    answer of no class: it lowers recall, and the precision of none.
    """

    class Params(MetricParams):
        """How the classes make one number."""

        average: Literal["macro", "weighted", "micro", "binary"] = Field(
            "macro",
            description="macro: the mean over the classes; weighted: by how many rows each has; micro: over all rows; "
            "binary: of the class `positive` alone",
        )
        positive: int | str = Field(1, description="the class of `binary`: a number, or the text of the label")

    params: Params
    reads = Evidence | OutputEvidence
    types = ("accuracy",)
    numbers: ClassVar = {
        "f1": Number("f1", higher_is_better=True, unit="share"),
        "f1_score": Number("f1", higher_is_better=True, unit="share"),
        "precision": Number("precision", higher_is_better=True, unit="share"),
        "recall": Number("recall", higher_is_better=True, unit="share"),
    }
    only_when_asked = True
    needs_labels = True

    def compute(self, evidence: Evidence | OutputEvidence) -> dict[str, float]:
        """`f1`, `precision`, `recall` in 0..1; nothing without labels. A class that nothing is predicted as has 0."""
        pairs = _texts(evidence) if isinstance(evidence, Evidence) else _classes(evidence)
        if not pairs:
            return {}
        f1, precision, recall = self._averaged(pairs)
        return {"f1": f1, "precision": precision, "recall": recall}

    def _averaged(self, pairs: Sequence[Pair]) -> tuple[float, float, float]:
        hits = Counter(label for label, said in pairs if label == said)
        labels, given = Counter(label for label, _ in pairs), Counter(said for _, said in pairs if said is not None)
        if self.params.average == "micro":
            return _rates(hits.total(), given.total(), labels.total())
        if self.params.average == "binary":
            positive = self._positive(labels)
            return _rates(hits[positive], given[positive], labels[positive])
        weights = labels if self.params.average == "weighted" else Counter(dict.fromkeys(labels | given, 1))
        each = [(weights[one], _rates(hits[one], given[one], labels[one])) for one in labels | given]
        return _mean(each, 0), _mean(each, 1), _mean(each, 2)

    def _positive(self, labels: Iterable[Hashable]) -> Hashable:
        """The class of `binary` in the form of the labels."""
        is_text = any(isinstance(label, str) for label in labels)
        return normalize(str(self.params.positive)) if is_text else int(self.params.positive)


def _rates(n_hits: int, n_given: int, n_labels: int) -> tuple[float, float, float]:
    """F1, precision and recall; 0 where there is nothing to divide by."""
    f1 = 2 * n_hits / (n_given + n_labels) if n_given + n_labels else 0.0
    return f1, n_hits / n_given if n_given else 0.0, n_hits / n_labels if n_labels else 0.0


def _mean(weighted: Sequence[tuple[int, tuple[float, float, float]]], place: int) -> float:
    total = sum(weight for weight, _ in weighted)
    return sum(weight * rates[place] for weight, rates in weighted) / total


def _texts(evidence: Evidence) -> list[Pair]:
    labels = [normalize(label) for label in evidence.labels]
    known = set(labels)
    said = [_said(text, known) for text in evidence.generated]
    return list(zip(labels, said, strict=True))


def _said(generated: str, known: set[str]) -> str | None:
    """The label that a text is: all of it, or its first line; None where it is none."""
    spellings = normalize(generated), normalize(first_line(generated))
    return next((text for text in spellings if text in known), None)


def _classes(evidence: OutputEvidence) -> list[Pair]:
    return [(label, int(scores.argmax())) for scores, label in evidence.answered()]
