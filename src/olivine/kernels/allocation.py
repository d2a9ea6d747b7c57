"""Which of its forms each tensor gets, when all of them together have a number of bytes: a knapsack of many choices.

The damage of the whole is taken as the sum of what each tensor does to it. The table below holds, for every number of
bytes, the least damage of the tensors seen so far (dynamic programming over bytes; exact where the sizes have a common
measure that is not too small, else on a grid of 65,536 steps, and what the grid leaves over is given away greedily).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

N_CELLS = 1 << 16


@dataclass(frozen=True)
class Form:
    """One way to store a tensor. damage: in any unit that adds up over tensors, such as nats of divergence."""

    n_bytes: int
    damage: float


Forms = Mapping[str, Sequence[Form]]


def least_damage(forms: Forms, n_bytes: int, *, n_cells: int = N_CELLS) -> dict[str, int]:
    """The number of the form of each tensor such that all take at most `n_bytes`, with the least damage.

    n_cells: of the table. Raises ValueError when even the smallest forms take more.
    """
    smallest = sum(min(form.n_bytes for form in of_one) for of_one in forms.values())
    if smallest > n_bytes:
        raise ValueError(f"the smallest forms take {smallest:,} bytes, and {n_bytes:,} are allowed")
    table = _Table(forms, n_bytes - smallest, n_cells)
    return _filled(forms, table.forms_at(table.n_cells), n_bytes)


def least_bytes(forms: Forms, damage: float, *, n_cells: int = N_CELLS) -> dict[str, int]:
    """The number of the form of each tensor such that all do at most `damage`, in the fewest bytes.

    Raises ValueError when even the best forms do more.
    """
    least = sum(min(form.damage for form in of_one) for of_one in forms.values())
    if least > damage:
        raise ValueError(f"the best forms do a damage of {least:.4g}, and {damage:.4g} is allowed")
    low, high = (sum(pick(form.n_bytes for form in of_one) for of_one in forms.values()) for pick in (min, max))
    table = _Table(forms, high - low, n_cells)
    return table.forms_at(int(np.argmax(table.damage <= damage + 1e-12)))


class _Table:
    """damage [n_cells + 1]: the least for every number of cells beyond the bytes of the smallest forms."""

    def __init__(self, forms: Forms, extra_bytes: int, n_cells: int) -> None:
        self._forms = {name: _undominated(of_one) for name, of_one in forms.items()}
        beyond = {name: [f.n_bytes - kept[0][1].n_bytes for _, f in kept] for name, kept in self._forms.items()}
        measure = math.gcd(*(n for of_one in beyond.values() for n in of_one)) or 1
        self._cell = max(measure, -(-extra_bytes // n_cells))
        self.n_cells = extra_bytes // self._cell
        self._costs = {name: [-(-n // self._cell) for n in of_one] for name, of_one in beyond.items()}
        self.damage: npt.NDArray[np.float64] = np.zeros(self.n_cells + 1)
        self._choices: list[npt.NDArray[np.uint8]] = []
        for name, kept in self._forms.items():
            self._add(self._costs[name], [form.damage for _, form in kept])

    def _add(self, costs: Sequence[int], damages: Sequence[float]) -> None:
        """best'(c) = min over forms i of best(c - cost_i) + damage_i"""
        best = np.full(self.n_cells + 1, np.inf)
        choice = np.zeros(self.n_cells + 1, np.uint8)
        for number, (cost, damage) in enumerate(zip(costs, damages, strict=True)):
            if cost > self.n_cells:
                break
            candidate = self.damage[: self.n_cells + 1 - cost] + damage
            better = candidate < best[cost:]
            best[cost:][better] = candidate[better]
            choice[cost:][better] = number
        self.damage = best
        self._choices.append(choice)

    def forms_at(self, cell: int) -> dict[str, int]:
        """The forms whose damage stands in that cell, by their number among those that were given."""
        numbers: dict[str, int] = {}
        for name, choice in reversed(list(zip(self._forms, self._choices, strict=True))):
            number = int(choice[cell])
            numbers[name] = self._forms[name][number][0]
            cell -= self._costs[name][number]
        return numbers


def _undominated(forms: Sequence[Form]) -> list[tuple[int, Form]]:
    """The forms with their numbers, by rising bytes, without those that another beats in both."""
    kept: list[tuple[int, Form]] = []
    for number, form in sorted(enumerate(forms), key=lambda one: (one[1].n_bytes, one[1].damage)):
        if not kept or form.damage < kept[-1][1].damage:
            kept.append((number, form))
    return kept


def _filled(forms: Forms, numbers: dict[str, int], n_bytes: int) -> dict[str, int]:
    """Take better forms as long as bytes are left, those that mend most for a byte first."""
    left = n_bytes - sum(forms[name][number].n_bytes for name, number in numbers.items())
    while True:
        best, gain = None, 0.0
        for name, number in numbers.items():
            now = forms[name][number]
            for other, form in enumerate(forms[name]):
                more, less = form.n_bytes - now.n_bytes, now.damage - form.damage
                if less > 0 and more <= left and less / max(more, 1) > gain:
                    best, gain = (name, other, more), less / max(more, 1)
        if best is None:
            return numbers
        numbers[best[0]] = best[1]
        left -= best[2]
