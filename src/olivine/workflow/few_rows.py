"""A few rows before all of them: a trial whose accuracy surely misses its goal is not scored on the rest.

The few are drawn at random out of the rows. Were a model right on as many of all rows as the goal asks for, the number
of right answers among the few would be hypergeometric. A trial is stopped where one so small has a probability of
`error` at most, which the looks share (Bonferroni): so of those that would meet the goal, at most that share is lost.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

LOOKS = (32, 128)  # rows of the first and the second look
_LEAST = 4  # times as many rows there must be: else little would be saved
_ROUNDING = 1e-9  # of a share


@dataclass(frozen=True)
class Look:
    """What a look at a few rows tells. error: the share of good trials that all looks together may lose."""

    n_few: int
    n_rows: int
    n_looks: int
    error: float

    def stops(self, accuracy: float, least: float) -> bool:
        """Whether a model with that accuracy on the few can be given up, where all rows ask for `least`."""
        n_least = min(self.n_rows, math.ceil(least * self.n_rows - _ROUNDING))
        n_right = round(accuracy * self.n_few)
        return chance(n_right, self.n_few, n_least, self.n_rows) <= self.error / self.n_looks


def looks(n_rows: int, error: float, sizes: Sequence[int] = LOOKS) -> list[Look]:
    """The looks at rows of that number, the smallest first; none where the rows are few or no error is allowed."""
    fitting = [size for size in sizes if _LEAST * size <= n_rows]
    return [Look(size, n_rows, len(fitting), error) for size in fitting] if error else []


def chance(n_right: int, n_few: int, n_least: int, n_rows: int) -> float:
    """P(X <= n_right), X the right answers among `n_few` of `n_rows` rows of which `n_least` are right."""
    ways = sum(math.comb(n_least, k) * math.comb(n_rows - n_least, n_few - k) for k in range(n_right + 1))
    return ways / math.comb(n_rows, n_few)
