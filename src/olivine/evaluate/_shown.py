"""Answers in the form in which they are shown beside those of other models."""

from collections.abc import Iterable, Mapping
from typing import Any

from olivine.evaluate.label_accuracy import matches

MAX_SHOWN = 600  # characters of a text


def shortened(text: str, *, from_end: bool = False) -> str:
    """A text as it is shown; of a prompt that is too long its end, which is what was asked."""
    if len(text) <= MAX_SHOWN:
        return text
    return f"…{text[-MAX_SHOWN:]}" if from_end else f"{text[:MAX_SHOWN]}…"


def answers_of_samples(samples: Iterable[Mapping[str, str]], *, is_graded: bool) -> list[dict[str, Any]]:
    """The answers of a score that an earlier version kept, which has no more than its first rows.

    is_graded: whether answers are right or wrong, and no passages that are gone on with.
    """
    return [
        {
            "prompt": shortened(one["prompt"], from_end=True),
            "expected": shortened(one["expected"]),
            "text": shortened(one["generated"]),
            "right": matches(one["expected"], one["generated"]) if is_graded else None,
        }
        for one in samples
    ]
