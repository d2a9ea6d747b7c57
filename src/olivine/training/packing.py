"""Which rows travel together: optimiser steps, ranks and micro-batches, decided before training from lengths alone."""

import heapq
import random
from collections.abc import Sequence
from dataclasses import dataclass

Rows = tuple[int, ...]  # indices of samples
MicroBatches = tuple[Rows, ...]


@dataclass(frozen=True)
class Step:
    """One update: for each rank, the same number of micro-batches; one that is left without rows is empty."""

    ranks: tuple[MicroBatches, ...]

    @property
    def rows(self) -> Rows:
        """Every row of the step, over all ranks."""
        return tuple(row for micro_batches in self.ranks for rows in micro_batches for row in rows)


def plan_batches(
    lengths: Sequence[int],
    rows_per_step: int,
    tokens_per_micro_batch: int,
    seed: int,
    epoch: int,
    world_size: int = 1,
    *,
    order: str = "random",
    drop_last: bool = False,
    packed: bool = True,
) -> list[Step]:
    """The steps of an epoch: each takes the next `rows_per_step` rows in as few micro-batches as the limit allows.

    Neither the limit nor the number of ranks changes which rows a step holds, so they change no update. A row longer
    than the limit travels alone. order: "random" (anew each epoch), "sequential", or "group_by_length" (random, with
    rows of similar length in a step). packed: a micro-batch costs the sum of its rows, else rows times the longest.
    """
    chosen = _ordered(lengths, rows_per_step, seed, epoch, order)
    n_whole = len(chosen) // rows_per_step * rows_per_step
    end = n_whole if drop_last and n_whole else len(chosen)
    starts = range(0, end, rows_per_step)
    return [
        split_step(lengths, chosen[start : start + rows_per_step], tokens_per_micro_batch, world_size, packed=packed)
        for start in starts
    ]


def split_step(
    lengths: Sequence[int],
    rows: Sequence[int],
    tokens_per_micro_batch: int,
    world_size: int = 1,
    *,
    packed: bool = True,
) -> Step:
    """The fewest micro-batches a rank that keep to the limit, with about as many tokens in each."""
    by_length = sorted(range(len(rows)), key=lambda index: (-lengths[rows[index]], index))
    n_each = -(-sum(lengths[row] for row in rows) // (tokens_per_micro_batch * world_size))
    n_each = max(1, min(n_each, -(-len(rows) // world_size)))  # a row that is over the limit is alone, not many
    while True:
        bins = _balanced([lengths[row] for row in rows], by_length, n_each * world_size)
        sizes = ([lengths[rows[index]] for index in indices] for indices in bins)
        if all(len(size) < 2 or _cost(size, packed=packed) <= tokens_per_micro_batch for size in sizes):
            break
        n_each += 1
    taken = [tuple(rows[index] for index in sorted(indices)) for indices in bins]
    return Step(tuple(tuple(taken[rank::world_size]) for rank in range(world_size)))


def _cost(lengths: Sequence[int], *, packed: bool) -> int:
    return sum(lengths) if packed else len(lengths) * max(lengths)


def _balanced(lengths: Sequence[int], by_length: Sequence[int], n_bins: int) -> list[list[int]]:
    """The rows in so many bins of nearly equal sums: the longest first, each to the emptiest bin so far."""
    bins: list[list[int]] = [[] for _ in range(n_bins)]
    loads = [(0, index) for index in range(n_bins)]
    for row in by_length:
        load, emptiest = heapq.heappop(loads)
        bins[emptiest].append(row)
        heapq.heappush(loads, (load + lengths[row], emptiest))
    return bins


def _ordered(lengths: Sequence[int], rows_per_step: int, seed: int, epoch: int, order: str) -> list[int]:
    rows = list(range(len(lengths)))
    if order == "sequential":
        return rows
    generator = random.Random(f"{seed}/{epoch}")  # noqa: S311 - an order, not a secret; a text seeds alike everywhere
    generator.shuffle(rows)
    if order != "group_by_length":
        return rows
    # neighbours by length within pools of 50 steps, whose steps are then shuffled
    pool = 50 * rows_per_step
    steps = []
    for start in range(0, len(rows), pool):
        pooled = sorted(rows[start : start + pool], key=lambda row: -lengths[row])
        steps += [pooled[first : first + rows_per_step] for first in range(0, len(pooled), rows_per_step)]
    last = [steps.pop()] if len(steps[-1]) < rows_per_step else []  # a short step stays last, as without grouping
    generator.shuffle(steps)
    return [row for step in [*steps, *last] for row in step]
