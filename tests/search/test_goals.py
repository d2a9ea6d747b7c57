"""Goals of every kind, and which results are best: against slow, obvious versions."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from olivine.errors import RequestError
from olivine.search import Goal, Objective, pareto

OBJECTIVES = (
    Objective("accuracy", higher_is_better=True, priority=1),
    Objective("bytes", higher_is_better=False, priority=2),
    Objective("seconds", higher_is_better=False, priority=3),
)
numbers = st.one_of(st.integers(0, 4).map(float), st.sampled_from([math.nan, math.inf, -math.inf]))
measured = st.fixed_dictionaries({}, optional={objective.name: numbers for objective in OBJECTIVES})


@pytest.mark.parametrize(
    ("kind", "value", "higher", "baseline", "bound"),
    [
        ("threshold", 0.8, True, None, 0.8),
        ("threshold", 100, False, None, 100),
        ("min-improvement", 0.1, True, 0.5, 0.6),
        ("min-improvement", 10, False, 50, 40),
        ("percent-min-improvement", 10, True, 0.5, 0.55),
        ("percent-min-improvement", 10, False, 50, 45),
        ("max-degradation", 0.1, True, 0.5, 0.4),
        ("max-degradation", 10, False, 50, 60),
        ("percent-max-degradation", 10, True, 0.5, 0.45),
        ("percent-max-degradation", 10, False, 50, 55),
        ("percent-max-degradation", 10, True, -50, -55),
        ("percent-min-improvement", 10, False, -50, -55),
    ],
)
def test_bound_of_a_goal_counts_from_the_baseline_in_the_direction_of_the_number(kind, value, higher, baseline, bound):
    goal = Goal(kind, value)
    assert goal.bound(higher_is_better=higher, baseline=baseline) == pytest.approx(bound)
    better, worse = (bound + 1, bound - 1) if higher else (bound - 1, bound + 1)
    met = goal.verdict(better, higher_is_better=higher, baseline=baseline)
    missed = goal.verdict(worse, higher_is_better=higher, baseline=baseline)
    assert (met.is_met, met.margin, met.shortfall) == (True, pytest.approx(1), 0)
    assert (missed.is_met, missed.margin) == (False, pytest.approx(-1))
    assert missed.shortfall == pytest.approx(1 / abs(bound))


def test_value_that_equals_the_bound_meets_it_whatever_the_rounding():
    assert Goal("max-degradation", 0.1).verdict(0.2, higher_is_better=True, baseline=0.3).is_met
    assert Goal("max-degradation", 0.03).verdict(87 / 100, higher_is_better=True, baseline=0.9).is_met
    assert Goal("threshold", 0).verdict(0, higher_is_better=False).is_met
    assert not Goal("threshold", 0).verdict(1e-12, higher_is_better=False).is_met


def test_value_that_is_no_number_or_not_there_misses_every_goal():
    objective = Objective("accuracy", higher_is_better=False, goal=Goal("threshold", 1))
    for values in ({}, {"accuracy": math.nan}):
        verdict = objective.verdict(values)
        assert (verdict.is_met, verdict.margin) == (False, -math.inf)


def test_relative_goal_without_a_baseline_is_refused():
    with pytest.raises(RequestError, match="baseline, which was not measured"):
        Goal("max-degradation", 0.1).verdict(1, higher_is_better=True)
    with pytest.raises(RequestError, match="but got -1"):
        Goal("min-improvement", -1)


def is_beaten(one, others):
    """The definition: some other is nowhere worse and somewhere better."""

    def merits(values):
        raw = [values.get(objective.name, math.nan) for objective in OBJECTIVES]
        signed = [
            value if objective.higher_is_better else -value for value, objective in zip(raw, OBJECTIVES, strict=True)
        ]
        return [-math.inf if math.isnan(value) else value for value in signed]

    mine = merits(one)
    for other in map(merits, others):
        if all(b >= a for a, b in zip(mine, other, strict=True)) and any(
            b > a for a, b in zip(mine, other, strict=True)
        ):
            return True
    return False


@settings(max_examples=150, deadline=None)
@given(st.lists(measured, max_size=12))
def test_front_equals_brute_force(results):
    front = pareto.front(results, dict, OBJECTIVES)
    rest = pareto.dominated(results, dict, OBJECTIVES)
    assert [id(values) for values in front] == [id(v) for v in results if not is_beaten(v, results)]
    assert [id(values) for values in rest] == [id(v) for v in results if is_beaten(v, results)]
    assert all(any(pareto.dominates(best, values, OBJECTIVES) for best in front) for values in rest)


GOALS = (
    Objective("accuracy", higher_is_better=True, goal=Goal("threshold", 3)),
    Objective("bytes", higher_is_better=False, priority=2, goal=Goal("max-degradation", 1), baseline=1),
)


def test_best_meets_every_goal_and_then_goes_by_priority():
    results = {
        "small": {"accuracy": 3, "bytes": 0},
        "accurate": {"accuracy": 4, "bytes": 2},
        "large": {"accuracy": 9, "bytes": 2.5},
        "wrong": {"accuracy": 1, "bytes": 0},
        "failed": {},
    }
    order = pareto.ranked(results, results.get, GOALS)
    assert order == ["accurate", "small", "large", "wrong", "failed"]
    misses = pareto.near_misses(results, results.get, GOALS)
    assert [name for name, _ in misses] == ["large", "wrong", "failed"]
    assert misses[0][1] == pytest.approx(0.25)
    assert [pareto.meets(values, GOALS) for values in results.values()] == [True, True, False, False, False]
