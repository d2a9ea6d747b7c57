"""What is said of a model's scores, goal or none."""

import pytest

from olivine.workflow.remarks import remarks

BASE = {"model": "base", "n_rows": 48, "label_accuracy": 0.9, "loss": 0.5}


def said(row, before=BASE, **known):
    return list(remarks({"model": "build", "n_rows": 48} | row, before, **{"trained": False} | known))


@pytest.mark.parametrize(
    "row", [{"kl": 0.4, "drop": 0.02}, {"kl": None, "no_number": ["kl"]}, {"drop": -0.3}, {"n_empty": 23}, {}]
)
def test_sound_models_draw_no_remark(row):
    assert said(row) == []


@pytest.mark.parametrize(
    ("row", "remark"),
    [
        ({"degenerate": "flat logits"}, "its output is degenerate: flat logits"),
        ({"n_empty": 24}, "24 of 48 answers are empty"),
        ({"drop": 0.05}, "label accuracy fell by 5.0 points from 'base'"),
        ({"kl": 1.17}, "its KL divergence from 'base' is 1.17 nat, which no sound conversion"),
    ],
)
def test_what_is_wrong_is_said_without_any_goal(row, remark):
    (found,) = said(row)
    assert found.startswith(remark)


def test_a_loss_that_a_goal_speaks_of_is_no_remark():
    assert said({"drop": 0.3}, has_goal=True) == []
    assert said({"drop": 0.3, "n_empty": 40}, has_goal=True) == ["40 of 48 answers are empty"]


def test_training_may_change_what_a_model_says():
    assert said({"kl": 5.0}, trained=True) == []
    assert said({"kl": 5.0}, None) == []
