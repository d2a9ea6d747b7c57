"""Output errors against their definition, and who is promoted."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from olivine.kernels.hessian import output_error, promote, relative_error


def test_output_error_is_the_mean_square_of_the_outputs():
    inputs, delta = torch.randn(50, 8), torch.randn(3, 8)
    matrix = inputs.T @ inputs / 50
    measured = float((inputs @ delta.T).square().sum() / 50)
    assert output_error(delta, matrix) == pytest.approx(measured, rel=1e-4)
    assert output_error(delta, matrix.diagonal()) == pytest.approx(output_error(delta, torch.diag(matrix.diagonal())))


def test_relative_error_of_nothing_is_nothing():
    weight, importance = torch.randn(4, 8), torch.rand(8)
    assert relative_error(weight, weight, importance) == 0
    assert relative_error(weight, torch.zeros_like(weight), importance) == pytest.approx(1)
    assert relative_error(torch.zeros(4, 8), torch.zeros(4, 8), importance) == 0


def test_the_worst_that_fit_are_promoted():
    scores = {"a": 0.1, "b": 0.5, "c": 0.5, "d": 0.01}
    sizes = {"a": 10, "b": 100, "c": 20, "d": 5}
    assert promote(scores, sizes, 1000) == set(scores)
    assert promote(scores, sizes, 120) == {"b", "c"}
    assert promote(scores, sizes, 35) == {"c", "a", "d"}
    assert promote(scores, sizes, 0) == set()


@given(
    st.dictionaries(st.text(min_size=1), st.tuples(st.floats(0, 1), st.integers(1, 100)), max_size=8),
    st.integers(0, 400),
)
def test_promotions_keep_to_the_budget(names, budget):
    scores = {name: score for name, (score, _) in names.items()}
    sizes = {name: size for name, (_, size) in names.items()}
    chosen = promote(scores, sizes, budget)
    spent = sum(sizes[name] for name in chosen)
    assert spent <= budget
    assert all(sizes[name] > budget - spent for name in set(names) - chosen)


def test_unknown_sizes_and_scores_that_are_no_numbers_are_named():
    with pytest.raises(ValueError, match="no size is known of b"):
        promote({"b": 1.0}, {}, 1)
    with pytest.raises(ValueError, match="error of b is not a number"):
        promote({"b": float("nan")}, {"b": 1}, 1)
