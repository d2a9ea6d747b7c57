"""Passes become steps without a plan, as a search needs them, and are those that a plan has."""

import json
from dataclasses import replace

import pytest
from pydantic import ValidationError

from olivine.config import load
from olivine.models.inspect import read_facts
from olivine.passes import passes
from olivine.workflow.chain import Chain, Spec, bridge, chain
from olivine.workflow.plan import make_plan

STEPS = {
    "adapter": ("lora", {"train_data_config": "mine", "eval_dataset_size": 0.5}),
    "whole": ("merge", {}),
    "small": ("gptq", {}),
    "graph": ("build", {}),
}


@pytest.fixture
def plan(tiny_llama, tmp_path):
    (tmp_path / "rows.jsonl").write_text('{"text": "one"}\n{"text": "two"}\n')
    config = {
        "input_model": {"model_path": str(tiny_llama)},
        "data_configs": [
            {
                "name": "mine",
                "load_dataset_config": {"data_name": "json", "data_files": str(tmp_path / "rows.jsonl")},
                "pre_process_data_config": {"text_cols": "text"},
            }
        ],
        "passes": {name: {"type": kind, **params} for name, (kind, params) in STEPS.items()},
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    return make_plan(load(tmp_path / "config.json"), offline=True)


def test_chain_is_what_the_plan_has(plan, tiny_llama):
    specs = [Spec(name, passes.classes[kind], params) for name, (kind, params) in STEPS.items()]
    steps = chain(read_facts(tiny_llama), "hf", specs, plan.machine, plan.steps[0].data)
    # a plan also cuts the rows that are trained on at what the model reads
    assert [replace(step, data={}) for step in steps] == [replace(step, data={}) for step in plan.steps]
    assert [step.parent for step in steps] == [None, "adapter", "whole", "small"]
    assert steps[2].params["data_config"] == "mine"


def test_gguf_file_is_read_by_a_step_of_its_own(plan, tiny_llama):
    facts, rtn = read_facts(tiny_llama), passes.classes["rtn"]
    specs = [Spec("gguf", rtn, {}), Spec("last", rtn, {})]
    steps = chain(facts, "gguf", specs, plan.machine, {})
    assert [(step.name, step.pass_name, step.implicit) for step in steps] == [
        ("load-gguf", "gguf", True),
        ("gguf", "rtn", False),
        ("last", "rtn", False),
    ]


def test_wrong_param_is_the_caller_s_to_tell(plan):
    with pytest.raises(ValidationError, match="bits"):
        Chain(plan.machine, None, "hf").configured(Spec("small", passes.classes["rtn"], {"bits": "many"}), ())


def test_bridge_is_the_fewest_usual_passes_between_two_formats():
    assert bridge("adapter", {"onnx"}) == ["merge", "build"]
    assert bridge("hf", {"hf"}) == []
    assert bridge("onnx", {"adapter"}) == []
