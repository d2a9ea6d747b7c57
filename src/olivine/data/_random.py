"""Random numbers that stay the same: for one seed, on every machine and Python version."""

import random


class Draw:
    """Whole numbers from `random.Random(seed).random()`, the one sequence that Python promises to keep."""

    def __init__(self, seed: int) -> None:
        self._generator = random.Random(seed)  # noqa: S311 - reproducible on purpose

    def below(self, n: int) -> int:
        """A number from 0 to n - 1."""
        return int(self._generator.random() * n)
