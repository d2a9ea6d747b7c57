"""What can be chosen: points, their number, and what is refused."""

import json
from itertools import islice, product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from olivine.errors import RequestError
from olivine.search import Categorical, Float, Int, Space
from olivine.search.space import shares

names = ("a", "b", "c", "d")


@st.composite
def spaces(draw):
    """Up to four dimensions, some of them under a value of an earlier one."""
    dimensions = {}
    for name in names[: draw(st.integers(1, 4))]:
        when = {}
        if dimensions and draw(st.booleans()):
            parent = draw(st.sampled_from(list(dimensions)))
            values = [dimensions[parent].value(index) for index in range(dimensions[parent].size)]
            when = {parent: tuple(draw(st.lists(st.sampled_from(values), min_size=1, max_size=2)))}
        kind = draw(st.sampled_from(("categorical", "int", "float")))
        n_values = draw(st.integers(1, 3))
        if kind == "categorical":
            dimensions[name] = Categorical((None, True, "x")[:n_values], when)
        elif kind == "int":
            dimensions[name] = Int(-2, -2 + 3 * (n_values - 1) + draw(st.integers(0, 2)), 3, when=when)
        else:
            dimensions[name] = Float(0.1, 0.1 + 0.2 * (n_values - 1), 0.2, when=when)
    return Space(dimensions)


def by_brute_force(space):
    """Every product of all values, without the dimensions that are not active; each once."""
    lists = [[each.value(i) for i in range(each.size)] for each in space.dimensions.values()]
    points = {}
    for values in product(*lists):
        point = {}
        for name, value in zip(space.dimensions, values, strict=True):
            conditions = space.dimensions[name].when.items()
            if all(parent in point and point[parent] in allowed for parent, allowed in conditions):
                point[name] = value
        points[json.dumps(point)] = point
    return list(points.values())


@settings(max_examples=60, deadline=None)
@given(spaces())
def test_points_and_their_number_equal_brute_force(space):
    points = list(space.points())
    assert points == by_brute_force(space)
    assert space.size == len(points)
    for point in points:
        space.check(point)


@settings(max_examples=60, deadline=None)
@given(spaces(), st.integers(0, 2**32))
def test_drawn_points_lie_in_the_space(space, seed):
    space.check(space.point_at(shares(seed)))


def test_equal_shares_are_equally_likely():
    dimension = Int(1, 1000, log=True)
    drawn = [dimension.at(share) for share in islice(shares(1), 3000)]
    tens = [sum(low <= value < 10 * low for value in drawn) for low in (1, 10, 100)]
    assert min(tens) > 800
    assert min(drawn) == 1
    assert max(drawn) <= 1000


def test_space_with_a_range_has_no_number_of_points():
    inside = {"a": Categorical(("x",)), "b": Float(0, 1, when={"a": ("x",)})}
    assert Space(inside).size is None
    with pytest.raises(RequestError, match="'b' cannot be listed"):
        Space(inside).points()
    assert Space({"b": Float(2, 2)}).size == 1


def test_size_of_a_large_space_is_counted_without_listing_it():
    dimensions = {f"d{number}": Categorical(tuple(range(10))) for number in range(30)}
    dimensions["last"] = Categorical((1, 2), when={"d0": (3,), "d29": (4,)})
    assert Space(dimensions).size == 10**28 * (99 + 2)


def test_steps_end_at_high_without_rounding():
    dimension = Float(0, 1, step=0.1)
    assert dimension.size == 11
    assert dimension.value(10) == 1
    assert 0.3 in dimension
    assert 0.35 not in dimension


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Int(3, 1), r"low=3, high=1"),
        (lambda: Float(0, 1, log=True), "low=0"),
        (lambda: Float(0, float("nan")), "high=nan"),
        (lambda: Float(0, 1, step=0), "step=0"),
        (lambda: Int(1, 9, step=2, log=True), "step=2"),
        (lambda: Categorical(()), r"\[\]"),
        (lambda: Categorical((1, 1)), r"\[1, 1\]"),
        (lambda: Space({"b": Int(1, 2, when={"a": (1,)}), "a": Int(1, 2)}), "'b' depends on 'a'"),
        (lambda: Space({"a": Int(1, 2), "b": Int(1, 2, when={"a": (3,)})}), "a = 3"),
    ],
)
def test_dimensions_that_cannot_be_are_refused_with_their_values(make, says):
    with pytest.raises(RequestError, match=says):
        make()


@pytest.mark.parametrize(
    ("point", "says"),
    [
        ({"a": True}, "a = True"),
        ({"a": 1}, "lacks 'b'"),
        ({"a": 2, "b": "x"}, "'b', which is not chosen beside a = 2"),
        ({"a": 1, "b": "z"}, "b = 'z'"),
        ({"a": 2, "z": 1}, "'z', which is no dimension"),
    ],
)
def test_points_outside_the_space_are_refused(point, says):
    with pytest.raises(RequestError, match=says):
        Space({"a": Int(1, 2), "b": Categorical(("x", "y"), when={"a": (1,)})}).check(point)
