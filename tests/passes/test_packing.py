"""Plans of batches: every row once, the same steps for any limit and number of ranks, micro-batches within the limit."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from olivine.training.packing import plan_batches, split_step

LENGTHS = st.lists(st.integers(1, 60), min_size=1, max_size=60)


@given(LENGTHS, st.integers(1, 9), st.integers(1, 200), st.integers(0, 5), st.integers(1, 4), st.booleans())
@settings(max_examples=150, deadline=None)
def test_every_row_travels_once_within_the_limit(lengths, rows_per_step, limit, epoch, world_size, packed):
    steps = plan_batches(lengths, rows_per_step, limit, 7, epoch, world_size, packed=packed)
    assert sorted(row for step in steps for row in step.rows) == list(range(len(lengths)))
    for step in steps:
        assert len(step.ranks) == world_size
        assert len({len(rank) for rank in step.ranks}) == 1  # as many micro-batches on each rank
        n_empty = sum(not rows for rank in step.ranks for rows in rank)
        assert n_empty < world_size
        for rows in (rows for rank in step.ranks for rows in rank):
            sizes = [lengths[row] for row in rows]
            cost = sum(sizes) if packed else len(sizes) * max(sizes, default=0)
            assert cost <= limit or len(rows) == 1


@given(
    LENGTHS, st.integers(1, 9), st.integers(1, 200), st.integers(1, 4), st.sampled_from(["random", "group_by_length"])
)
@settings(max_examples=60, deadline=None)
def test_limit_and_ranks_change_no_step(lengths, rows_per_step, limit, world_size, order):
    one = plan_batches(lengths, rows_per_step, 10**9, 3, 1, order=order)
    other = plan_batches(lengths, rows_per_step, limit, 3, 1, world_size, order=order)
    assert [sorted(step.rows) for step in one] == [sorted(step.rows) for step in other]
    assert all(len(step.ranks[0]) == 1 for step in one)


def test_order_is_that_of_seed_and_epoch():
    lengths = list(range(1, 41))

    def order(seed, epoch, **how):
        return [step.rows for step in plan_batches(lengths, 4, 1000, seed, epoch, **how)]

    assert order(1, 0) == order(1, 0)
    assert order(1, 0) != order(1, 1) != order(2, 1)
    assert order(1, 0, order="sequential") == [tuple(range(start, start + 4)) for start in range(0, 40, 4)]


def test_grouping_puts_rows_of_like_length_together():
    lengths = [1 + index * 37 % 100 for index in range(96)]
    steps = plan_batches(lengths, 8, 10**6, 0, 0, order="group_by_length")
    spread = [max(lengths[row] for row in step.rows) - min(lengths[row] for row in step.rows) for step in steps]
    assert max(spread) < 15


def test_short_last_step_is_dropped_only_when_asked_for_and_never_the_only_one():
    assert [len(step.rows) for step in plan_batches([1] * 10, 4, 100, 0, 0)] == [4, 4, 2]
    assert [len(step.rows) for step in plan_batches([1] * 10, 4, 100, 0, 0, drop_last=True)] == [4, 4]
    assert [len(step.rows) for step in plan_batches([1] * 3, 4, 100, 0, 0, drop_last=True)] == [3]


def test_micro_batches_are_about_equal():
    step = split_step([50, 10, 10, 10, 10, 10], range(6), 50)
    assert sorted(step.ranks[0]) == [(0,), (1, 2, 3, 4, 5)]


@pytest.mark.parametrize("world_size", [2, 3])
def test_rank_without_rows_gets_an_empty_micro_batch(world_size):
    step = split_step([5], [0], 100, world_size)
    assert sorted(step.ranks) == [((),)] * (world_size - 1) + [((0,),)]
