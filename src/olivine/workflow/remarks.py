"""What a person should hear of a model's scores, whether the config sets a goal or not."""

from collections.abc import Iterator, Mapping
from typing import Any

LARGE_DROP = 0.05  # of label accuracy, from one model to the next
LEAST_COSINE = 0.95  # of outputs: below it the result can hardly stand for its source
# Nats a token. Rounding to 4 bits costs hundredths, to 2 bits tenths; more is another function, not a coarser one.
IMPOSSIBLE_KL = 1.0


def remarks(
    row: Mapping[str, Any], before: Mapping[str, Any] | None, *, trained: bool, has_goal: bool = False
) -> Iterator[str]:
    """A sentence for each thing that is wrong or doubtful. before: the row of the model that this one was made from.

    trained: the step was meant to change what the model says. has_goal: the config says how much accuracy may be lost,
    so that a loss is either allowed or told as a missed goal.
    """
    if "degenerate" in row:
        yield f"its output is degenerate: {row['degenerate']}"
    if row.get("n_empty", 0) * 2 >= row.get("n_rows", 0) > 0:
        yield f"{row['n_empty']} of {row['n_rows']} answers are empty"
    if before is None:
        return
    if not has_goal and row.get("drop", 0.0) >= LARGE_DROP - 5e-7:
        yield (
            f"label accuracy fell by {100 * row['drop']:.1f} points from '{before['model']}'; "
            "quality.max_drop says how far it may fall"
        )
    if not trained and row.get("cosine") is not None and row["cosine"] < LEAST_COSINE:
        yield (
            f"its outputs have a cosine of {row['cosine']:.3f} to those of '{before['model']}'; below {LEAST_COSINE} "
            "it can hardly stand for that model"
        )
    if not trained and row.get("kl") is not None and row["kl"] > IMPOSSIBLE_KL:
        yield (
            f"its KL divergence from '{before['model']}' is {row['kl']:.2f} nat, which no sound conversion or "
            "quantization costs: the two do not compute the same function"
        )
