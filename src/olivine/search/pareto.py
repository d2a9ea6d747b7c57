"""Which of several results are worth keeping: the front, the one to choose, and what just missed a goal."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeVar

from olivine.search.objectives import Objective

Values = Mapping[str, float]
Item = TypeVar("Item")


def dominates(one: Values, other: Values, objectives: Sequence[Objective]) -> bool:
    """Whether `one` is as good in every objective and better in at least one."""
    pairs = [(objective.merit(one), objective.merit(other)) for objective in objectives]
    return all(mine >= theirs for mine, theirs in pairs) and any(mine > theirs for mine, theirs in pairs)


def front(items: Iterable[Item], values: Callable[[Item], Values], objectives: Sequence[Objective]) -> list[Item]:
    """The items that no other dominates, in their order; equal ones are all kept."""
    return _parted(items, values, objectives)[0]


def dominated(items: Iterable[Item], values: Callable[[Item], Values], objectives: Sequence[Objective]) -> list[Item]:
    """The items that some other dominates, in their order."""
    return _parted(items, values, objectives)[1]


def meets(values: Values, objectives: Sequence[Objective]) -> bool:
    """Whether every goal is met."""
    return shortfall(values, objectives) == 0


def shortfall(values: Values, objectives: Sequence[Objective]) -> float:
    """How far the goals are missed, all together, each as a share of its bound; 0 when every goal is met."""
    verdicts = (objective.verdict(values) for objective in objectives)
    return sum(verdict.shortfall for verdict in verdicts if verdict is not None and not verdict.is_met)


def ranked(items: Iterable[Item], values: Callable[[Item], Values], objectives: Sequence[Objective]) -> list[Item]:
    """Best first: what meets every goal, by the objectives in the order of their priority; then what misses least.

    Of equal ones, the earlier comes first.
    """
    by_priority = sorted(objectives, key=lambda objective: objective.priority)

    def order(item: Item) -> tuple[float, ...]:
        measured = values(item)
        return (shortfall(measured, objectives), *(-objective.merit(measured) for objective in by_priority))

    return sorted(items, key=order)


def near_misses(
    items: Iterable[Item], values: Callable[[Item], Values], objectives: Sequence[Objective]
) -> list[tuple[Item, float]]:
    """What misses a goal, the nearest first, each with its shortfall."""
    missed = ((item, shortfall(values(item), objectives)) for item in ranked(items, values, objectives))
    return [(item, amount) for item, amount in missed if amount > 0]


def _parted(
    items: Iterable[Item], values: Callable[[Item], Values], objectives: Sequence[Objective]
) -> tuple[list[Item], list[Item]]:
    """The front and the rest.

    Sorted by merit, an item is only ever dominated by one before it, and then by one of the front so far.
    """
    given = list(items)
    merits = [tuple(objective.merit(values(item)) for objective in objectives) for item in given]
    best: list[int] = []
    for index in sorted(range(len(given)), key=lambda index: merits[index], reverse=True):
        is_beaten = any(
            merits[other] != merits[index] and all(a >= b for a, b in zip(merits[other], merits[index], strict=True))
            for other in best
        )
        if not is_beaten:
            best.append(index)
    kept = set(best)
    return [given[i] for i in sorted(kept)], [item for i, item in enumerate(given) if i not in kept]
