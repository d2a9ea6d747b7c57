"""Trials that are given up after a few rows: how many good ones that may cost."""

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from olivine.evaluate import rows_of
from olivine.workflow.few_rows import chance, looks


@pytest.mark.parametrize(("n_rows", "n_least", "n_few"), [(7, 4, 3), (8, 8, 4), (6, 0, 2), (9, 5, 5)])
def test_chance_is_the_share_of_all_samples(n_rows, n_least, n_few):
    rows = [True] * n_least + [False] * (n_rows - n_least)
    samples = [sum(sample) for sample in itertools.combinations(rows, n_few)]
    for n_right in range(n_few + 1):
        share = sum(found <= n_right for found in samples) / len(samples)
        assert chance(n_right, n_few, n_least, n_rows) == pytest.approx(share)


@given(st.integers(128, 1000), st.floats(0.05, 1.0), st.sampled_from([0.001, 0.01, 0.05, 0.2]))
def test_of_models_that_just_meet_their_goal_no_more_than_the_error_are_given_up(n_rows, least, error):
    n_right = math.ceil(least * n_rows - 1e-9)
    lost = 0.0
    for look in looks(n_rows, error):
        stopping = [k for k in range(look.n_few + 1) if look.stops(k / look.n_few, least)]
        lost += chance(max(stopping), look.n_few, n_right, n_rows) if stopping else 0.0
    assert lost <= error + 1e-12


def test_model_that_is_far_off_is_given_up_at_the_first_look_and_one_that_is_near_is_not():
    first, second = looks(512, 0.01)
    assert (first.n_few, second.n_few) == (32, 128)
    assert first.stops(0.5, 0.9)
    assert not first.stops(0.8, 0.9)
    assert second.stops(0.75, 0.9)
    assert not second.stops(0.85, 0.9)


def test_few_rows_or_no_error_are_not_looked_at_twice():
    assert looks(100, 0.01) == []
    assert looks(1000, 0) == []
    assert [look.n_few for look in looks(128, 0.01)] == [32]


def test_few_are_some_of_the_rows_and_the_same_every_time():
    params = {"max_rows": 100}
    every = rows_of(range(1000), params)
    few = rows_of(range(1000), params | {"n_few": 32})
    assert few == rows_of(range(1000), params | {"n_few": 32})
    assert len(few) == 32
    assert set(few) < set(every)
    assert few != every[:32]
    assert rows_of(range(20), params | {"n_few": 32}) == list(range(20))
