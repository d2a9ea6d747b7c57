"""The knapsack finds what trying every combination finds."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from olivine.kernels.allocation import Form, least_bytes, least_damage

FORMS = st.dictionaries(
    st.sampled_from("abcde"),
    st.lists(st.builds(Form, st.integers(1, 60), st.floats(0, 10, width=16)), min_size=1, max_size=4),
    min_size=1,
)


def totals(forms, numbers):
    chosen = [forms[name][number] for name, number in numbers.items()]
    return sum(form.n_bytes for form in chosen), sum(form.damage for form in chosen)


def every(forms):
    for numbers in itertools.product(*(range(len(of_one)) for of_one in forms.values())):
        yield totals(forms, dict(zip(forms, numbers, strict=True)))


@settings(max_examples=150, deadline=None)
@given(FORMS, st.integers(0, 300))
def test_least_damage_is_that_of_brute_force(forms, n_bytes):
    fitting = [damage for size, damage in every(forms) if size <= n_bytes]
    if not fitting:
        with pytest.raises(ValueError, match="the smallest forms take"):
            least_damage(forms, n_bytes)
        return
    size, damage = totals(forms, least_damage(forms, n_bytes))
    assert size <= n_bytes
    assert damage == pytest.approx(min(fitting))


@settings(max_examples=150, deadline=None)
@given(FORMS, st.floats(0, 40, width=16))
def test_least_bytes_are_those_of_brute_force(forms, damage):
    fitting = [size for size, done in every(forms) if done <= damage + 1e-12]
    if not fitting:
        with pytest.raises(ValueError, match="the best forms do a damage of"):
            least_bytes(forms, damage)
        return
    size, done = totals(forms, least_bytes(forms, damage))
    assert done <= damage + 1e-9
    assert size == min(fitting)


@settings(max_examples=100, deadline=None)
@given(FORMS, st.integers(0, 300))
def test_a_coarse_table_still_fits_and_wastes_nothing_that_would_mend_something(forms, n_bytes):
    if min(size for size, _ in every(forms)) > n_bytes:
        return
    numbers = least_damage(forms, n_bytes, n_cells=3)
    size, damage = totals(forms, numbers)
    assert size <= n_bytes
    for name, number in itertools.chain.from_iterable(((n, i) for i in range(len(forms[n]))) for n in forms):
        other_size, other_damage = totals(forms, numbers | {name: number})
        assert other_size > n_bytes or other_damage >= damage - 1e-9
