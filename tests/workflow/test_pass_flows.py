"""Flows of passes are alternatives: a search runs each, and one result is delivered."""

import json

import pytest

from graphs import text_classifier
from olivine.config import load
from olivine.workflow.engine import run
from olivine.workflow.plan import make_plan

pytestmark = pytest.mark.usefixtures("warm")

PASSES = {
    "four": {"type": "OnnxBlockWiseRtnQuantization", "bits": 4},
    "eight": {"type": "OnnxBlockWiseRtnQuantization", "bits": 8, "block_size": [32, 64]},
    "unused": {"type": "OnnxConversion"},
}


def planned(tmp_path, **changes):
    graph = text_classifier(tmp_path / "given" / "model.onnx")
    config = {
        "input_model": {"type": "ONNXModel", "model_path": str(graph)},
        "passes": PASSES,
        "pass_flows": [["four"], ["eight"]],
        "cache_dir": str(tmp_path / "cache"),
        "output_dir": str(tmp_path / "out"),
    } | changes
    (tmp_path / "config.json").write_text(json.dumps(config))
    return make_plan(load(tmp_path / "config.json"))


def test_each_flow_is_a_trial_with_what_its_own_passes_leave_open(tmp_path):
    plan = planned(tmp_path)
    assert plan.problems == ()
    points = [dict(point) for point in plan.search.choices.space.points()]
    assert points == [
        {"pass_flows": "four"},
        {"pass_flows": "eight", "eight.block_size": 32},
        {"pass_flows": "eight", "eight.block_size": 64},
    ]
    result = run(plan)
    assert result.search["point"]["pass_flows"] in ("four", "eight")
    chosen = json.loads((tmp_path / "out" / "workflow.json").read_text())
    assert list(chosen["passes"]) == [result.search["point"]["pass_flows"]]


def test_flows_are_not_chosen_pass_by_pass(tmp_path):
    plan = planned(tmp_path, search_strategy={"execution_order": "pass-by-pass", "sampler": "sequential"})
    assert plan.problems == ()
    assert plan.search.strategy.execution_order == "joint"
