"""Which rows are shown beside each other."""

from types import SimpleNamespace

import pytest

from olivine.evaluate import answers_of_samples
from olivine.workflow.events import Scored
from olivine.workflow.execute import Score
from olivine.workflow.samples import side_by_side


def answers(*rights, prompt="row {}"):
    return [
        {"prompt": prompt.format(n), "expected": "joy", "text": "joy" if r else "fear", "right": r}
        for n, r in enumerate(rights)
    ]


def test_rows_that_were_lost_on_the_way_come_first_and_right_ones_last():
    given = {"base": answers(False, True, True, False), "int4": answers(True, True, False, False)}
    rows = side_by_side(given)
    assert [row["prompt"] for row in rows] == ["row 2", "row 3", "row 0", "row 1"]
    assert rows[0]["answers"] == {"base": {"text": "joy", "right": True}, "int4": {"text": "fear", "right": False}}
    assert len(side_by_side(given, 2)) == 2


def test_row_that_stands_twice_in_the_data_stays_two_rows():
    given = {"base": answers(True, False, prompt="same"), "int4": answers(False, False, prompt="same")}
    assert [row["answers"]["base"]["right"] for row in side_by_side(given)] == [True, False]


def test_rows_without_an_expectation_keep_their_order():
    assert [row["prompt"] for row in side_by_side({"base": answers(None, None)})] == ["row 0", "row 1"]
    assert side_by_side({}) == []


def test_rows_that_one_model_did_not_answer_come_last():
    given = {"base": answers(True), "int4": answers(True, False, False)}
    assert [row["prompt"] for row in side_by_side(given)] == ["row 0", "row 1", "row 2"]


def test_answers_that_an_earlier_version_kept_are_marked_and_stand_beside_those_of_today():
    long = "a long story. " * 100 + "row 0"
    kept = [{"prompt": long, "expected": "joy", "generated": "Joy.\nmore"}]
    (old,) = answers_of_samples(kept, is_graded=True)
    assert old["right"] is True
    today = [{"prompt": old["prompt"], "expected": "joy", "text": "fear", "right": False}]
    (row,) = side_by_side({"base": [old], "int4": today})
    assert [one["right"] for one in row["answers"].values()] == [True, False]


@pytest.mark.parametrize(("scores", "right"), [({"label_accuracy": 1.0}, True), ({"loss": 2.0}, None)])
def test_score_of_an_earlier_version_has_its_samples_as_answers(scores, right):
    entry = SimpleNamespace(result={"samples": [{"prompt": "a", "expected": "joy", "generated": "Joy"}]})
    event = Scored(model="base", format="hf", scores=scores)
    assert Score(event, entry).answers == [{"prompt": "a", "expected": "joy", "text": "Joy", "right": right}]
