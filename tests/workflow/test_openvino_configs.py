"""Configs with OpenVINO's passes, as people wrote them in all years: what a plan makes of them, without openvino."""

import json

import pytest

from encoders import tiny_encoder
from olivine.config import load
from olivine.passes import passes
from olivine.systems import Probe
from olivine.workflow.plan import make_plan

MODULES = frozenset({"torch", "onnxruntime", "openvino", "nncf", "transformers", "onnx"})
ROWS = {
    "name": "rows",
    "load_dataset_config": {"data_files": "rows.jsonl"},
    "pre_process_data_config": {"text_cols": "text"},
}
SCRIPT = (
    "def load(path): ...\ndef rows(data_dir, batch_size): ...\ndef validate(model, loader): ...\ndef shapes(): ...\n"
)


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    return tiny_encoder(tmp_path_factory.mktemp("bert") / "model")


@pytest.fixture
def planned(bert, tmp_path):
    def plan(steps, modules=MODULES, **more):
        (tmp_path / "rows.jsonl").write_text('{"text": "a", "label": 0}\n{"text": "b", "label": 1}\n')
        (tmp_path / "script.py").write_text(SCRIPT)
        config = {"input_model": {"type": "HfModel", "model_path": str(bert)}, "data_configs": [ROWS], "passes": steps}
        config |= {"output_dir": str(tmp_path / "out"), "cache_dir": str(tmp_path / "cache")} | more
        (tmp_path / "config.json").write_text(json.dumps(config))
        return make_plan(load(tmp_path / "config.json"), probe=Probe(2**34, 2, modules=modules))

    return plan


def told(plan):
    return [problem.message for problem in plan.problems]


def test_conversion_quantization_and_encapsulation_are_planned_for_an_npu_that_is_not_here(planned):
    npu = {
        "type": "LocalSystem",
        "accelerators": [{"device": "npu", "execution_providers": ["OpenVINOExecutionProvider"]}],
    }
    steps = {
        "convert": {"type": "OpenVINOConversion", "input_shapes": [[1, 16], [1, 16], [1, 16]]},
        "io": {"type": "OpenVINOIoUpdate", "static": True},
        "quantize": {
            "type": "OpenVINOQuantization",
            "data_config": "rows",
            "target_device": "npu",
            "model_type": "TRANSFORMER",
        },
        "wrap": {"type": "OpenVINOEncapsulation", "target_device": "npu"},
    }
    plan = planned(steps, systems={"npu": npu}, target="npu")
    assert told(plan) == []
    assert [step.produces for step in plan.steps] == ["openvino", "openvino", "openvino", "onnx"]
    assert any("runs on the NPU is not checked" in note for note in plan.translated)


def test_missing_packages_are_one_sentence_with_the_extra(planned):
    plan = planned({"convert": {"type": "OpenVINOConversion"}}, modules=MODULES - {"openvino"})
    (problem,) = plan.problems
    assert problem.kind == "missing-extra"
    assert "pip install 'olivine[openvino]'" in problem.message


def test_graph_of_onnx_stays_one_and_may_be_a_file(planned):
    steps = {"export": {"type": "OnnxConversion"}, "round": {"type": "OpenVINOWeightCompression"}}
    plan = planned(steps, output_dir="out/model.onnx")
    assert told(plan) == []
    assert [step.produces for step in plan.steps] == ["onnx", "onnx"]
    steps = {"convert": {"type": "OpenVINOConversion"}, "round": {"type": "OpenVINOWeightCompression"}}
    assert any(
        "what the last pass makes is openvino" in one for one in told(planned(steps, output_dir="out/model.onnx"))
    )


def test_form_of_2023_with_the_older_tool_is_todays(planned):
    old = {
        "engine_config": {"device": "CPU"},
        "user_script": "script.py",
        "dataloader_func": "rows",
        "data_dir": "data",
        "batch_size": 1,
        "metric_func": None,
        "algorithms": [{"name": "DefaultQuantization", "params": {"preset": "mixed", "stat_subset_size": 7}}],
    }
    steps = {
        "convert": {
            "type": "OpenVINOConversion",
            "config": {"input_shape": [1, 16], "extra_config": {"verbose": True}},
        },
        "quantize": {"type": "OpenVINOQuantization", "config": old},
    }
    plan = planned(steps)
    assert told(plan) == []
    params = plan.steps[1].params
    assert (params["preset"], params["max_samples"], params["target_device"]) == ("MIXED", 7, "cpu")
    assert params["data_config"] == "quantize_data"


def test_function_that_measures_keeps_its_script_beside_the_one_that_gives_rows(planned):
    of_2024 = {"type": "OpenVINOQuantizationWithAccuracy", "user_script": "script.py", "dataloader_func": "rows"}
    steps = {"convert": {"type": "OpenVINOConversion"}, "quantize": {**of_2024, "validation_func": "validate"}}
    plan = planned(steps)
    assert told(plan) == []
    assert plan.steps[1].files[0].name == "script.py"
    steps["quantize"]["validation_func"] = "valdate"
    assert any("has no function 'valdate'" in one for one in told(planned(steps)))


def test_script_of_a_pass_that_lies_elsewhere_needs_trust(planned, tmp_path):
    outside = tmp_path.parent / "outside.py"
    outside.write_text(SCRIPT)
    steps = {"convert": {"type": "OpenVINOConversion", "user_script": str(outside), "input_shapes": "shapes"}}
    assert any("lies outside of the folder of the config" in one for one in told(planned(steps)))


@pytest.mark.parametrize(
    ("steps", "sentence"),
    [
        ([{"type": "OpenVINOConversion", "input_shapes": [[1, 4]] * 4}], "gives a shape number 4"),
        ([{"type": "OpenVINOConversion", "input_shapes": [[1, 4, 4]]}], "the shape [1, 4, 4], and the model takes"),
        ([{"type": "OpenVINOConversion", "input_shapes": [["ids", [1, 4]]]}], "names the input 'ids'"),
        ([{"type": "OpenVINOConversion", "input_shapes": [[0, 4]]}], "a size is a number above 0"),
        ([{"type": "OpenVINOConversion", "input_shapes": "shapes"}], "no user_script has it"),
        (
            [{"type": "OpenVINOConversion", "extra_configs": {"mean_values": [1]}}],
            "'mean_values' of openvino's converter",
        ),
        ([{"type": "OpenVINOConversion"}, {"type": "OpenVINOReshape", "static": True}], "sizes stay open"),
        ([{"type": "OpenVINOConversion"}, {"type": "OpenVINOQuantization", "transform_fn": "f"}], "'transform_fn'"),
        (
            [{"type": "OpenVINOConversion"}, {"type": "OpenVINOQuantization", "extra_configs": [{"magic": 1}]}],
            "'magic' of extra_configs is not served",
        ),
        ([{"type": "OpenVINOConversion"}, {"type": "OpenVINOQuantizationWithAccuracy"}], "no data_config names some"),
        ([{"type": "OpenVINOConversion"}, {"type": "OpenVINOQuantization", "ignored_scope": "a"}], "go together"),
        ([{"type": "OpenVINOWeightCompression", "compress_config": {"mode": "INT5"}}], "compress_config.mode"),
        ([{"type": "OpenVINOWeightCompression", "compress_config": {"group_sise": 4}}], "group_sise"),
        (
            [{"type": "OpenVINOWeightCompression", "compress_config": {"mode": "INT8_SYM", "ratio": 0.5}}],
            "of other modes",
        ),
        ([{"type": "OpenVINOWeightCompression", "compress_config": {"mode": "nf4", "gptq": True}}], "'gptq' looks at"),
        ([{"type": "OpenVINOWeightCompression", "extra_args": {"use_onnx": True}}], "'use_onnx' is not served"),
        (
            [{"type": "OpenVINOConversion"}, {"type": "OpenVINOEncapsulation", "genai_config_override": {"model": {}}}],
            "'genai_config_override' is not served",
        ),
        ([{"type": "OpenVINOOptimumConversion"}], "is not built in olivine"),
        ([{"type": "OpenVINOModelPackage"}], "is not built in olivine"),
    ],
)
def test_what_is_not_served_is_one_sentence_by_name(planned, steps, sentence):
    problems = told(planned({f"step{number}": step for number, step in enumerate(steps)}))
    assert len(problems) == 1, problems
    assert sentence in problems[0]


@pytest.mark.parametrize(
    "given",
    [
        [[1, 8], [1, 8], [1, 8]],
        "[1,8],[1,8],[1,8]",
        "input_ids[1,8], attention_mask[1,8], token_type_ids[1,8]",
        [["input_ids", [1, 8]], ["attention_mask", [1, 8]], ["token_type_ids", [1, 8]]],
        {"input_ids": [1, 8], "attention_mask": [1, 8], "token_type_ids": [1, 8]},
    ],
)
def test_shapes_of_all_years_fix_the_same_sizes(given, planned):
    plan = planned(
        {"c": {"type": "OpenVINOConversion", "input_shapes": given}, "io": {"type": "OpenVINOIoUpdate", "static": True}}
    )
    assert told(plan) == []


def test_what_openvino_calls_input_is_input_shapes():
    params = passes["OpenVINOConversion"].Params
    assert params(extra_configs={"input": [[1, 3, 8, 8]], "verbose": True}).input_shapes == {"0": [1, 3, 8, 8]}
    assert params(extra_configs={"input": "x", "input_shape": "[1,3,8,8]"}).input_shapes == {"0": [1, 3, 8, 8]}
    again = params(input_shapes=[[1, 8]])
    assert params.model_validate(again.model_dump(mode="json")) == again
