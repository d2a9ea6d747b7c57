"""Which rows are held out, the same ones every time; and the `split` of a data set by name and slice."""

import math
import re
from dataclasses import dataclass

from olivine.data._random import Draw
from olivine.errors import DataError

_SLICE = re.compile(r"(?P<name>\w+(?:[-.]\w+)*)(?:\[(?P<start>-?\d+%?)?:(?P<stop>-?\d+%?)?\])?")


def split(n_rows: int, eval_size: float, seed: int) -> tuple[list[int], list[int]]:
    """Indices of the rows to train on and of those held out, each in the order of the data set.

    eval_size: below 1 the fraction that is held out (rounded to whole rows, a half up), from 1 the count.
    seed: the same seed and number of rows give the same split on every machine and Python: a Fisher-Yates shuffle from
      the end, driven by `random.Random(seed).random()`, whose sequence Python keeps; its first rows are held out.

    Raises DataError unless at least one row lies on each side.
    """
    if not eval_size > 0 or (eval_size > 1 and eval_size % 1 != 0):
        raise DataError(f"the eval size must be a fraction below 1 or a count of rows, but got {eval_size}")
    n_eval = int(n_rows * eval_size + 0.5) if eval_size < 1 else int(eval_size)
    if not 0 < n_eval < n_rows:
        raise DataError(
            f"an eval size of {eval_size:g} leaves {n_eval} of {n_rows} rows to score and {max(0, n_rows - n_eval)} to "
            "train on, but each side needs one at least"
        )
    held_out = set(_shuffled(n_rows, seed)[:n_eval])
    return [index for index in range(n_rows) if index not in held_out], sorted(held_out)


def rows_enough(eval_size: float) -> int:
    """As many rows as make a split of that size possible; more do so too. 1 where the size itself is wrong."""
    if eval_size >= 1:
        return int(eval_size) + 1
    return math.ceil(max(1 / eval_size, 1 / (1 - eval_size))) if 0 < eval_size < 1 else 1


def _shuffled(n_rows: int, seed: int) -> list[int]:
    draw = Draw(seed)
    order = list(range(n_rows))
    for last in range(n_rows - 1, 0, -1):
        other = draw.below(last + 1)
        order[last], order[other] = order[other], order[last]
    return order


@dataclass(frozen=True)
class Slice:
    """A part of one named split, e.g. train[:10%]; bounds as written, a percentage keeps its sign."""

    name: str
    start: str | None = None
    stop: str | None = None

    def indices(self, n_rows: int) -> range:
        """The rows that are meant, when the split has `n_rows`."""
        return range(n_rows)[self._bound(self.start, n_rows) : self._bound(self.stop, n_rows)]

    @staticmethod
    def _bound(bound: str | None, n_rows: int) -> int | None:
        if bound is None:
            return None
        # As in datasets: a percentage is rounded to the closest row.
        return round(n_rows * int(bound[:-1]) / 100) if bound.endswith("%") else int(bound)


def slices(spec: str) -> list[Slice]:
    """The parts of a split as datasets writes it: `train`, `train[:100]`, `train[80%:]+validation`.

    Raises DataError when it cannot be read.
    """
    matches = [_SLICE.fullmatch(part.strip()) for part in spec.split("+")]
    found = [Slice(match["name"], match["start"], match["stop"]) for match in matches if match]
    if len(found) < len(matches):
        raise DataError(f"the split '{spec}' cannot be read; write a name, or one with a slice, such as train[:100]")
    return found
