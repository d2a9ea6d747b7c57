"""docs/errors.md says what the code does."""

import re
from pathlib import Path

import pytest

from olivine import errors

PAGE = (Path(__file__).parents[2] / "docs" / "errors.md").read_text(encoding="utf-8")


def test_kinds_of_the_page_are_the_closed_list():
    assert tuple(re.findall(r"^\| `([a-z-]+)` \|", PAGE, re.MULTILINE)) == errors.PROBLEM_KINDS


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.StepFailed("lora", "out of memory"), 1),
        (errors.GoalMissed("label accuracy fell"), 1),
        (errors.RequestError("wrong"), 2),
        (errors.Interrupted("Ctrl-C"), 130),
    ],
)
def test_exit_codes_of_the_page_are_those_of_the_errors(error, code):
    assert error.exit_code == code
    assert re.search(rf"^\| {code} \|", PAGE, re.MULTILINE)


def test_every_request_error_is_a_kind_of_problem():
    for error in (errors.DataError, errors.ModelError, errors.Unsupported, errors.MissingExtra, errors.RequestError):
        (problem,) = error("a sentence").problems("config.json:1")
        assert problem.kind in errors.PROBLEM_KINDS
        assert str(problem) == "config.json:1: a sentence"


def test_fix_of_a_problem_is_a_sentence_of_its_own_whatever_ends_the_message():
    said = [str(errors.Problem("invalid-value", "a:1", end, "Take less.")) for end in ("too much", "too much.", "why?")]
    assert said == ["a:1: too much. Take less.", "a:1: too much. Take less.", "a:1: why? Take less."]
