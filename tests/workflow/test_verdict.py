"""Goals over any metric are told by model, number and setting."""

import pytest

from olivine.search.objectives import Goal
from olivine.workflow.events import Scored
from olivine.workflow.verdict import Keep, goals, missed


def scored(model, previous, **scores):
    return Scored(model=model, previous=previous, scores=scores)


def test_max_drop_is_a_goal_of_label_accuracy_from_model_to_model():
    rows = [scored("base", None, label_accuracy=0.9), scored("one", "base", label_accuracy=0.87)]
    assert list(missed(rows, goals("3pp"))) == []
    assert list(missed(rows, goals(0.02))) == [
        "label accuracy fell by 3.0 points from 'base' (90.0%) to 'one' (87.0%), but quality.max_drop allows 2.0"
    ]
    assert goals(None) == []


def test_missed_goal_says_how_much_of_the_accuracy_may_be_chance():
    error = {"label_accuracy_standard_error": 0.0612, "n_rows": 16}
    rows = [scored("base", None, label_accuracy=1.0), scored("one", "base", label_accuracy=0.9375, **error)]
    (sentence,) = missed(rows, goals("3pp"))
    assert sentence.endswith("but quality.max_drop allows 3.0 (standard error 6.1 points, 16 rows)")


@pytest.mark.parametrize(
    ("keep", "sentences"),
    [
        (
            Keep("loss", Goal("max-degradation", 0.1), higher_is_better=False, setting="goals.loss"),
            ["loss rose by 0.5 from 'one' (1.25) to 'two' (1.75), but goals.loss allows 0.1"],
        ),
        (
            Keep("loss", Goal("percent-max-degradation", 20), False, "goals.loss", since="base"),
            ["loss of 'two' is 1.75, but goals.loss asks for at most 1.2, which is missed by 0.55"],
        ),
        (
            Keep("top1_agreement", Goal("threshold", 0.9), higher_is_better=True, setting="goals.top1", unit="share"),
            [
                "top1 agreement of 'two' is 80.0%, but goals.top1 asks for at least 90.0%, which is missed by 10.0 points"
            ],
        ),
        (Keep("not_measured", Goal("threshold", 0.9), higher_is_better=True, setting="x"), []),
    ],
)
def test_goal_of_any_metric_names_the_model_that_misses_it(keep, sentences):
    rows = [
        scored("base", None, loss=1.0),
        scored("one", "base", loss=1.25, top1_agreement=0.95),
        scored("two", "one", loss=1.75, top1_agreement=0.8),
    ]
    told = [sentence for sentence in missed(rows, [keep]) if "'two'" in sentence and "'one' is" not in sentence]
    assert told == sentences


def test_model_that_broke_is_told_without_any_goal():
    rows = [scored("base", None, loss=1.0), scored("one", "base", loss=None, degenerate="NaN logits in 3 of 3 rows")]
    assert list(missed(rows, [])) == ["'one' is broken, 'base' was not: NaN logits in 3 of 3 rows"]
