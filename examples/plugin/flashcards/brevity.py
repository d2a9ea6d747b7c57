"""Brevity: how many words the answers have."""

from typing import ClassVar

from olivine.evaluate import Evidence, Metric, Number


class Brevity(Metric):
    """Mean number of words of an answer."""

    numbers: ClassVar = {"words": Number("words_of_an_answer", higher_is_better=False)}

    def compute(self, evidence: Evidence) -> dict[str, float]:
        """Nothing where there are no answers."""
        words = [len(answer.split()) for answer in evidence.generated]
        return {"words_of_an_answer": sum(words) / len(words)} if words else {}
