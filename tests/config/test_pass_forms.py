"""Params of passes and rows of scripts as configs of Olive wrote them, in today's form."""

import json

import pytest

from olivine.config import load, migrate, read

MODEL = {"type": "HfModel", "model_path": "a/b"}


def migrated(tmp_path, **config):
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"input_model": MODEL, "passes": {"b": {"type": "ModelBuilder"}}} | config))
    result, notes = migrate(read(path))
    path.write_text(json.dumps(result))
    assert migrate(read(path))[0] == result
    return result, [note.message for note in notes]


def one(tmp_path, kind, **params):
    result, notes = migrated(tmp_path, passes={"p": {"type": kind} | params})
    return result["passes"]["p"], notes


@pytest.mark.parametrize(
    ("kind", "given", "today"),
    [
        (
            "AutoAWQQuantizer",
            {"w_bit": 4, "q_group_size": 64, "zero_point": True},
            {"bits": 4, "group_size": 64, "sym": False},
        ),
        (
            "GptqQuantizer",
            {"layers_block_name": "model.layers", "bits": 4, "seed": 3},
            {"bits": 4, "calibration_seed": 3},
        ),
        ("GptqModel", {"device": "cuda", "mse": 0.0, "dynamic": None, "bits": 4}, {"bits": 4}),
        ("GptqModel", {"mse": 2.4}, {"mse": 2.4}),
        ("OnnxConversion", {"merge_components": False, "target_opset": 17}, {"target_opset": 17}),
        (
            "OnnxMatMul4Quantizer",
            {"save_as_external_data": True, "quant_axes": {"MatMul": 0}, "block_size": 32},
            {"block_size": 32},
        ),
        (
            "OnnxMatMul4Quantizer",
            {"weight_only_quant_configs": {"block_size": 64, "ratios": {}}, "data_dir": "d", "batch_size": 1},
            {"block_size": 64},
        ),
        (
            "OnnxMatMul4Quantizer",
            {"algorithm": "HQQ", "bits": 4, "is_symmetric": True},
            {"type": "OnnxHqqQuantization", "bits": 4},
        ),
        ("OnnxConversion", {"user_script": "s.py", "script_dir": None, "target_opset": 17}, {"target_opset": 17}),
        (
            "GptqModel",
            {"dynamic": {"-:.*down": {}, "+:.*up": {"bits": 8}}},
            {"modules_to_not_convert": ["re:.*down.*"], "overrides": {"re:.*up.*": {"bits": 8}}},
        ),
        (
            "OnnxStaticQuantization",
            {"weight_symmetric": None, "activation_symmetric": False, "min_real_range": 5e-4, "optimize_model": True},
            {"extra_options": {"ActivationSymmetric": False, "MinimumRealRange": 5e-4}},
        ),
        (
            "OnnxStaticQuantization",
            {"qnn_extra_options": {"init_overrides": {"x": [{"quant_type": "QUInt16"}]}, "add_qtype_converts": True}},
            {"extra_options": {"TensorQuantOverrides": {"x": [{"quant_type": "QUInt16"}]}}},
        ),
        (
            "QuaRot",
            {"rotate": True, "w_rtn": False, "w_bits": 16, "a_bits": 16, "seed": 3, "rotation_seed": 0},
            {"seed": 3},
        ),
        ("SpinQuant", {"a_bits": 16, "training_args": {"learning_rate": 1.5}}, {"type": "QuaRot"}),
        ("QLoRA", {"ortmodule_onnx_opset_version": 16, "lora_r": 8}, {"r": 8}),
        ("OnnxBlockWiseRtnQuantization", {"axis": 0, "external_data_name": "a.data"}, {}),
        ("OnnxStaticQuantization", {"calibration_providers": ["x"], "quant_mode": "static"}, {}),
        ("OnnxStaticQuantization", {"quant_mode": "dynamic"}, {"quant_mode": "dynamic"}),
        ("OrtTransformersOptimization", {"use_gqa": False, "opt_level": 1}, {"opt_level": 1}),
        ("OrtTransformersOptimization", {"use_gqa": True}, {}),
        (
            "ModelBuilder",
            {"use_webgpu_fp32": True, "include_hidden_states": False},
            {"extra_options": {"use_webgpu_fp32": True}},
        ),
    ],
)
def test_params_that_are_called_otherwise_or_change_nothing(tmp_path, kind, given, today):
    step, notes = one(tmp_path, kind, **given)
    assert step == {"type": kind} | today
    said = {key for key, value in given.items() if value not in (None, False)}
    assert all(any(f"'{key}'" in note for note in notes) for key in said - set(today))


def test_pass_that_changed_its_name(tmp_path):
    assert one(tmp_path, "OnnxModelOptimizer")[0] == {"type": "OnnxPeepholeOptimizer"}


def test_passes_that_prepare_what_is_done_anyway_are_left_out(tmp_path):
    passes = {"b": {"type": "ModelBuilder"}, "m": {"type": "AddOliveMetadata", "graph_name": "x"}}
    result, notes = migrated(tmp_path, passes=passes)
    assert list(result["passes"]) == ["b"]
    assert any("The pass 'm' (AddOliveMetadata) is left out" in note for note in notes)


def test_checkpoints_of_training_lie_in_the_cache(tmp_path):
    step, notes = one(tmp_path, "LoRA", train_data_config="d", training_args={"output_dir": "x", "max_steps": 1})
    assert step["training_args"] == {"max_steps": 1}
    assert any("checkpoints lie in the cache" in note for note in notes)


def test_rows_of_a_pass_that_a_function_gives_are_a_data_config(tmp_path):
    given = {"user_script": "s.py", "dataloader_func": "make", "data_dir": "images", "batch_size": 4}
    result, _ = migrated(tmp_path, passes={"q": {"type": "OnnxStaticQuantization"} | given})
    assert result["passes"]["q"] == {"type": "OnnxStaticQuantization", "data_config": "q_data"}
    (entry,) = result["data_configs"]
    assert entry == {
        "name": "q_data",
        "type": "DataContainer",
        "user_script": "s.py",
        "dataloader_config": {"type": "make", "data_dir": "images", "batch_size": 4},
    }
    (tmp_path / "s.py").write_text("def make(data_dir, batch_size): ...\n")
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"input_model": MODEL, **result}))
    assert load(path).problems == ()


def test_dynamic_quantization_reads_no_rows(tmp_path):
    step, notes = one(tmp_path, "OnnxDynamicQuantization", user_script="s.py", dataloader_func="make", batch_size=1)
    assert step == {"type": "OnnxDynamicQuantization"}
    assert sum("it reads no rows" in note for note in notes) == 3


def test_rows_of_a_metric_that_a_function_gives_are_a_data_config(tmp_path):
    settings = {"user_script": "s.py", "dataloader_func": "make", "post_processing_func": "best", "batch_size": 2}
    metric = {"name": "acc", "type": "accuracy", "user_config": settings}
    result, notes = migrated(tmp_path, evaluators={"e": {"metrics": [metric]}}, evaluator="e")
    assert result["evaluators"]["e"]["metrics"] == [{"name": "acc", "type": "accuracy", "data_config": "e_acc_data"}]
    assert result["data_configs"][0]["dataloader_config"]["type"] == "make"
    assert any("'post_processing_func' of a metric is dropped" in note for note in notes)


def test_data_config_of_a_metric_wins_over_its_function(tmp_path):
    settings = {"user_script": "s.py", "dataloader_func": "make"}
    metric = {"name": "acc", "type": "accuracy", "data_config": "d", "user_config": settings}
    result, _ = migrated(tmp_path, evaluators={"e": {"metrics": [metric]}}, data_configs=[{"name": "d"}])
    assert result["evaluators"]["e"]["metrics"] == [{"name": "acc", "type": "accuracy", "data_config": "d"}]


def test_dataset_of_a_model_of_2023_is_that_of_passes_and_metrics(tmp_path):
    rows = {"data_name": "glue", "subset": "mrpc", "split": "validation", "input_cols": ["a", "b"], "label_cols": ["y"]}
    hf = {"model_name": "a/b", "task": "text-classification", "dataset": rows | {"batch_size": 1}}
    metrics = [{"name": "acc", "type": "accuracy"}, {"name": "time", "type": "latency"}]
    result, _ = migrated(
        tmp_path,
        input_model={"type": "PyTorchModel", "config": {"hf_config": hf}},
        evaluators={"e": {"metrics": metrics}},
        evaluator="e",
    )
    (entry,) = result["data_configs"]
    assert entry["name"] == "__input_model_data_config__"
    assert entry["load_dataset_config"] == {"data_name": "glue", "subset": "mrpc", "split": "validation"}
    assert entry["pre_process_data_config"] == {"text_cols": ["a", "b"], "label_col": "y"}
    first, second = result["evaluators"]["e"]["metrics"]
    assert (first["data_config"], "data_config" in second) == ("__input_model_data_config__", False)


def test_algorithm_of_another_package_is_refused_with_what_does_it(tmp_path):
    path = tmp_path / "config.json"
    step = {"type": "OnnxMatMul4Quantizer", "algorithm": "GPTQ", "data_config": "x"}
    path.write_text(json.dumps({"input_model": MODEL, "passes": {"b": {"type": "ModelBuilder"}, "q": step}}))
    (problem,) = load(path).problems
    assert "needs neural-compressor" in problem.message
    assert "Gptq before ModelBuilder" in problem.fix


@pytest.mark.parametrize(
    ("step", "fix"),
    [
        ({"type": "QuaRot", "w_rtn": True, "w_bits": 4}, "Rtn or Gptq after it"),
        ({"type": "QuaRot", "a_bits": 8}, "OnnxStaticQuantization"),
        ({"type": "GptqModel", "rotation": "hadamard"}, "QuaRot before it"),
    ],
)
def test_param_that_another_pass_serves_is_refused_with_that(tmp_path, step, fix):
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"input_model": MODEL, "passes": {"q": step, "b": {"type": "ModelBuilder"}}}))
    problems = load(path).problems
    assert problems
    assert all(fix in problem.fix for problem in problems)


LORA, BUILD = {"type": "LoRA"}, {"type": "ModelBuilder"}


@pytest.mark.parametrize(
    ("config", "order"),
    [
        ({"passes": {"l": LORA, "b": BUILD}}, ["l", "merge", "b"]),
        ({"passes": {"merge": LORA, "b": BUILD}}, ["merge", "merge-adapter", "b"]),
        ({"passes": {"b": BUILD}, "input_model": MODEL | {"adapter_path": "a"}}, ["merge", "b"]),
        ({"passes": {"l": LORA, "m": {"type": "MergeAdapterWeights"}, "b": BUILD}}, ["l", "m", "b"]),
        ({"passes": {"l": LORA, "b": BUILD, "e": {"type": "ExtractAdapters"}}}, ["l", "b", "e"]),
        ({"passes": {"l": LORA, "c": {"type": "OnnxConversion"}}}, ["l", "c"]),
    ],
)
def test_adapter_that_reaches_the_builder_is_merged_before_and_said(tmp_path, config, order):
    result, notes = migrated(tmp_path, **config)
    assert list(result["passes"]) == order
    assert any("the adapter is merged" in note for note in notes) == (len(order) > len(config["passes"]))


def test_adapter_is_merged_in_the_flow_that_builds_it(tmp_path):
    steps = {"l": LORA, "b": BUILD, "c": {"type": "OnnxConversion"}}
    result, _ = migrated(tmp_path, passes=steps, pass_flows=[["l", "b"], ["l", "c"]], search_strategy=True)
    assert result["pass_flows"] == [["l", "merge", "b"], ["l", "c"]]
