"""Rows are held out before anything is packed, the same ones every time."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from olivine.data import split
from olivine.data._split import slices
from olivine.errors import DataError


@given(n_rows=st.integers(2, 300), share=st.floats(0.01, 0.99), seed=st.integers(0, 2**32))
def test_split_is_disjoint_complete_ordered_and_deterministic(n_rows, share, seed):
    if not 0 < int(n_rows * share + 0.5) < n_rows:
        with pytest.raises(DataError):
            split(n_rows, share, seed)
        return
    train, held_out = split(n_rows, share, seed)
    assert sorted([*train, *held_out]) == list(range(n_rows))
    assert train == sorted(train)
    assert held_out == sorted(held_out)
    assert split(n_rows, share, seed) == (train, held_out)


def test_split_stays_what_it_was():
    """A change here would move rows of every user from one side to the other."""
    assert split(12, 4, 7) == ([0, 1, 2, 3, 4, 6, 8, 9], [5, 7, 10, 11])


def test_eval_size_from_one_is_a_count():
    assert [len(part) for part in split(10, 1, 0)] == [9, 1]
    assert [len(part) for part in split(10, 4.0, 0)] == [6, 4]


def test_other_seed_gives_other_rows():
    assert split(100, 0.3, 0) != split(100, 0.3, 1)


@pytest.mark.parametrize("eval_size", [10, 11, 0.99, 0.01, 0, -1, 1.5, float("nan"), float("inf")])
def test_split_without_a_row_on_each_side_is_refused(eval_size):
    with pytest.raises(DataError, match="eval size"):
        split(10, eval_size, 0)


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("train", range(10)),
        ("train[:3]", range(3)),
        ("train[-3:]", range(7, 10)),
        ("train[:25%]", range(2)),
        ("train[25%:50%]", range(2, 5)),
        ("train[2:4]", range(2, 4)),
        ("train[:99]", range(10)),
    ],
)
def test_slices_mean_what_datasets_means(spec, expected):
    import datasets

    (part,) = slices(spec)
    assert part.indices(10) == expected
    instruction = datasets.ReadInstruction.from_spec(spec).to_absolute({"train": 10})[0]
    assert range(instruction.from_ or 0, 10 if instruction.to is None else instruction.to) == expected


@pytest.mark.parametrize("spec", ["", "train[", "train[1]", "train[:x]", "train+", "a b"])
def test_unreadable_slices_are_refused(spec):
    with pytest.raises(DataError, match="cannot be read"):
        slices(spec)
