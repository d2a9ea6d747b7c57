"""Text from a stepper: sampled for windows to compare on, greedy to see where two models part."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from olivine import lazy
from olivine.evaluate.parity._steppers import Stepper

if TYPE_CHECKING:
    import numpy as np
else:
    np = lazy.module("numpy")


def sample(
    stepper: Stepper,
    n_rows: int,
    length: int,
    seed: int,
    begin: int,
    end: Sequence[int],
    n_vocabulary: int,
    report: Callable[[int, int], None],
) -> list[list[int]]:
    """Rows of `length` ids at temperature 1; `begin` stands first, and again after an end token that was drawn."""
    random = np.random.default_rng(seed)
    rows = np.full((n_rows, length), begin, dtype=np.int64)
    for column in range(1, length):
        logits = stepper.feed(rows[:, column - 1 : column].tolist(), fresh=column == 1)[:, -1, :n_vocabulary]
        drawn = draw(logits, random.random(n_rows))
        rows[:, column] = np.where(np.isin(rows[:, column - 1], end), begin, drawn)
        report(column, length)
    return [[int(token) for token in row] for row in rows]


def draw(logits: Any, uniform: Any) -> Any:
    """The token of each row whose share of the cumulated probabilities holds that row's number in [0, 1)."""
    shifted = logits.astype(np.float64) - np.nanmax(logits, axis=-1, keepdims=True)
    cumulated = np.nan_to_num(np.exp(shifted)).cumsum(axis=-1)
    reached = cumulated > (uniform * cumulated[:, -1])[:, None]
    return reached.argmax(axis=-1)


def greedy(stepper: Stepper, prompts: Sequence[Sequence[int]], n_new: int, n_vocabulary: int) -> list[list[int]]:
    """The `n_new` most likely tokens after each prompt; the prompts have one length."""
    tokens = [stepper.feed(prompts, fresh=True, last_only=True)[:, -1, :n_vocabulary].argmax(axis=-1)]
    while len(tokens) < n_new:
        logits = stepper.feed(tokens[-1][:, None].tolist(), fresh=False)
        tokens.append(logits[:, -1, :n_vocabulary].argmax(axis=-1))
    return [[int(token) for token in row] for row in np.stack(tokens, axis=1)]
