"""Overrides, the folder of the data, what is refused by name, the resolved config and the JSON schema."""

import json
from pathlib import Path
from typing import Any

import pytest

from olivine.config import json_schema, load, unsupported
from olivine.config.schema import Workflow
from olivine.errors import ConfigError

PUBLISHED = Path(__file__).parent / "published"
CPU = "CPUExecutionProvider"
GOOD: dict[str, Any] = {
    "input_model": {"type": "HfModel", "model_path": "some/model"},
    "data_configs": [{"name": "train", "load_dataset_config": {"data_files": "a.json"}}],
    "passes": {"lora": {"type": "LoRA", "r": 64}, "build": {"type": "ModelBuilder", "precision": "int4"}},
}


def written(tmp_path: Path, value: dict[str, Any]) -> Path:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(value, indent=1))
    return path


def test_overrides_replace_and_add_values(tmp_path):
    loaded = load(
        written(tmp_path, GOOD),
        [
            "passes.lora.r=8",
            'passes.lora.target_modules=["a", "b"]',
            "passes.lora.training_args.max_steps=5",
            "data_configs.train.load_dataset_config.data_files=b.json",
            "data_configs.0.load_dataset_config.split=test",
            "quality.max_drop=3pp",
            "input_model.load_kwargs.trust_remote_code=true",
            "output_dir=a=b",
            "target=null",
        ],
    )
    assert loaded.problems == ()
    assert loaded.workflow.passes["lora"].params == {
        "r": 8,
        "target_modules": ["a", "b"],
        "training_args": {"max_steps": 5},
    }
    assert loaded.workflow.data_configs[0].load_dataset_config.data_files == "b.json"
    assert loaded.workflow.data_configs[0].load_dataset_config.split == "test"
    assert loaded.workflow.quality.max_drop == "3pp"
    assert loaded.workflow.input_model.load_kwargs.trust_remote_code
    assert loaded.workflow.output_dir == "a=b"


def test_overrides_by_todays_names_win_in_an_old_config():
    loaded = load(
        PUBLISHED / "local-2024.json",
        [
            "input_model.model_path=here.gguf",
            "data_configs.dataset_default_train.load_dataset_config.data_files=d.json",
            "passes.lora.r=8",
            "passes.lora.training_args.max_steps=2",
            "output_dir=o",
        ],
    )
    workflow = loaded.workflow
    assert loaded.problems == ()
    assert workflow.input_model.model_path == "here.gguf"
    assert workflow.data_configs[0].load_dataset_config.data_files == "d.json"
    assert workflow.passes["lora"].params["r"] == 8
    assert workflow.passes["lora"].params["training_args"]["max_steps"] == 2
    assert workflow.passes["lora"].params["training_args"]["seed"] == 0
    assert workflow.output_dir == "o"


@pytest.mark.parametrize("override", ["passes.lora.lora_r=8", "passes.lora.config.lora_r=8", "engine.output_dir=o"])
def test_overrides_by_old_names_work_too(override):
    loaded = load(PUBLISHED / "local-2024.json", [override])
    assert loaded.problems == ()
    assert loaded.workflow.passes["lora"].params["r"] == (8 if "lora_r" in override else 64)


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("passes.loar.r=8", "the config has no 'loar' in 'passes'; did you mean 'lora'?"),
        ("passes.zzz.r=8", "there is lora, build"),
        ("data_configs.eval.split=x", "the config has no 'eval' in 'data_configs'; there is train"),
        ("systems.here.type=LocalSystem", "there is none"),
        ("pases.lora.r=8", "unknown key 'pases'; did you mean 'passes'?"),
        ("passes.lora.r.x=8", "'passes.lora.r' is not a mapping"),
        ("data_configs.9=8", "no '9'"),
        ("passes.lora.r", "this is not KEY=VALUE"),
        ("passes..r=8", "this is not KEY=VALUE"),
        ("=8", "this is not KEY=VALUE"),
    ],
)
def test_an_override_that_names_nothing_is_a_problem(tmp_path, override, says):
    loaded = load(written(tmp_path, GOOD), [override])
    (problem,) = loaded.problems
    assert problem.where.startswith("--set")
    assert says in problem.message


def test_a_wrong_value_from_the_command_line_names_its_option(tmp_path):
    (problem,) = load(written(tmp_path, GOOD), ["log_severity_level=high"]).problems
    assert str(problem).startswith("--set log_severity_level: 'log_severity_level' must be a whole number")
    (problem,) = load(written(tmp_path, GOOD), ["quality.max_drp=1"]).problems
    assert problem.where == "--set quality.max_drp"
    assert "did you mean 'max_drop'?" in problem.message


def test_data_knows_the_folder_of_its_config(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sub").mkdir()
    written(tmp_path / "sub", GOOD)
    workflow = load(Path("sub/config.json")).workflow
    assert workflow.data_configs[0].folder == str(tmp_path / "sub")


def test_a_resolved_workflow_reads_as_itself(tmp_path):
    for source in (written(tmp_path, GOOD), *PUBLISHED.glob("local*.json")):
        workflow = load(source).workflow
        resolved = tmp_path / "workflow.json"
        resolved.write_text(json.dumps(workflow.model_dump(mode="json")))
        again = load(resolved)
        assert again.problems == ()
        assert again.workflow == workflow


TRAINED = {"lora": {"type": "LoRA", "train_data_config": "train"}}


def refused(tmp_path: Path, **sections: Any) -> list[str]:
    loaded = load(written(tmp_path, GOOD | sections))
    assert {problem.kind for problem in loaded.problems} <= {"unsupported"}
    assert set(unsupported(loaded.workflow, loaded.document)) <= set(loaded.problems)
    assert all(":" in problem.where for problem in loaded.problems)
    return [str(problem) for problem in loaded.problems]


@pytest.mark.parametrize("search", [False, None, True, {}, {"execution_order": "joint", "sampler": "tpe"}])
def test_search_and_none_are_read(tmp_path, search):
    assert refused(tmp_path, search_strategy=search) == []
    workflow = load(written(tmp_path, GOOD | {"search_strategy": search})).workflow
    assert (workflow.search is not None) == (search not in (False, None))


def test_alternatives_of_a_pass_are_a_search(tmp_path):
    passes = {"build": [{"type": "ModelBuilder", "precision": "int4"}, {"type": "ModelBuilder", "precision": "fp16"}]}
    (message,) = refused(tmp_path, passes=passes)
    assert "choosing between passes is a search" in message
    assert refused(tmp_path, passes=passes, search_strategy=True) == []


@pytest.mark.parametrize("kind", ["TensorFlowModel", "QNNModel"])
def test_other_kinds_of_input_models_are_refused(tmp_path, kind):
    (message,) = refused(tmp_path, input_model={"type": kind, "model_path": "a"})
    assert kind in message


def test_a_model_that_a_script_gives_is_read_and_needs_no_path(tmp_path):
    model = {"type": "PyTorchModel", "config": {"model_loader": "load", "model_script": "m.py"}}
    loaded = load(written(tmp_path, GOOD | {"input_model": model}))
    assert loaded.problems == ()
    assert loaded.workflow.input_model.model_script == str(tmp_path / "m.py")


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"type": "PyTorchModel", "model_loader": "load"}, "there is no model_script."),
        ({"type": "PyTorchModel", "model_script": "m.py", "model_loader": None}, "there is no model_loader."),
        ({"type": "HfModel", "model_loader": "load", "model_script": "m.py"}, "'model_loader' gives the model"),
        ({"type": "HfModel", "io_config": "io"}, "'io_config' names a function, and no model_script has it."),
        ({"type": "PyTorchModel", "model_file_format": "PyTorch.TorchScript", "model_script": "m.py"}, "TorchScript"),
    ],
)
def test_what_a_model_of_a_script_lacks_is_one_message(tmp_path, keys, said):
    (message,) = refused(tmp_path, input_model={"model_path": "a", "load_kwargs": {}} | keys)
    assert said in message


def test_other_kinds_of_data_are_refused_without_a_cascade(tmp_path):
    data = {
        "name": "train",
        "load_dataset_config": {"type": "image_folder_dataset", "input_shapes": [[1, 2]]},
        "pre_process_data_config": {"type": "audio_classification_pre_process", "input_cols": ["a"]},
    }
    assert refused(tmp_path, data_configs=[data]) == []  # nothing reads it
    (message,) = refused(tmp_path, data_configs=[data], passes=TRAINED)
    assert "the data source 'image_folder_dataset' is not served." in message


@pytest.mark.parametrize(
    ("section", "key"),
    [
        ({"pre_process_data_config": {"text_formatting_func": "f"}}, "text_formatting_func"),
        ({"pre_process_data_config": {"padding_side": "left"}}, "padding_side"),
        ({"dataloader_config": {"type": "mine", "params": {"batch_size": 4}}}, "mine"),
        ({"post_process_data_config": {"type": "theirs"}}, "theirs"),
    ],
)
def test_wishes_of_a_data_config_that_are_not_served_are_refused_where_it_is_used(tmp_path, section, key):
    data = [{"name": "train"} | section]
    assert refused(tmp_path, data_configs=data) == []
    (message,) = refused(tmp_path, data_configs=data, passes=TRAINED)
    assert f"'{key}' is not served" in message


def test_section_whose_needed_key_is_wrong_is_one_mistake_and_the_others_are_told_beside_it(tmp_path):
    metrics = [
        {"name": "size", "type": "size_on_disk", "goal": {"type": "treshold", "value": 1}},
        {"name": "time", "type": "latency", "gaol": {"type": "threshold", "value": 1}},
    ]
    content = GOOD | {"evaluators": {"common": {"metrics": metrics}}, "evaluator": "common"}
    told = [problem.message for problem in load(written(tmp_path, content)).problems]
    assert len(told) == 2
    assert "goal.type' must be threshold" in told[0]
    assert "unknown key 'gaol'" in told[1]


@pytest.mark.parametrize(
    ("named", "left", "device"), [(["Foo"], [], "cpu"), (["Foo", "A"], [], "cpu"), (["Foo", CPU], [CPU], None)]
)
def test_unknown_execution_provider_is_told_and_left_out(tmp_path, named, left, device):
    systems = {"here": {"type": "LocalSystem", "accelerators": [{"execution_providers": named}]}}
    loaded = load(written(tmp_path, GOOD | {"systems": systems, "host": "here"}))
    assert len(loaded.problems) == len(named) - len(left)
    assert all("unknown execution provider" in problem.message for problem in loaded.problems)
    (accelerator,) = loaded.workflow.systems["here"].accelerators
    assert (accelerator.execution_providers, accelerator.device) == (left, device)


def test_the_schema_describes_todays_form():
    schema = json_schema()
    assert schema["$schema"].endswith("2020-12/schema")
    assert set(Workflow.model_fields) <= set(schema["properties"])
    assert schema["additionalProperties"] is False
    assert "folder" not in schema["$defs"]["DataConfig"]["properties"]
    assert schema["$defs"]["PassConfig"]["additionalProperties"] is True
    assert "max_trial_time" in schema["$defs"]["SearchStrategy"]["properties"]
    json.dumps(schema)


def test_an_editors_schema_key_is_no_mistake(tmp_path):
    assert load(written(tmp_path, {"$schema": "olivine.schema.json"} | GOOD)).problems == ()


def test_a_file_that_is_no_config_raises(tmp_path):
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(ConfigError):
        load(tmp_path / "config.json")


@pytest.mark.parametrize(
    "evaluator",
    [
        {"name": "acc", "type": "accuracy", "sub_types": [{"name": "accuracy_score"}], "data_config": "rows"},
        {"type": "MTEBEvaluator", "tasks": ["STS17"], "batch_size": 3, "eval_splits": ["test"]},
        {"metrics": "accuracy"},
        {},
    ],
)
def test_evaluator_without_metrics_is_refused_in_one_message(tmp_path, evaluator):
    content = {"input_model": {"model_path": "m"}, "passes": {}, "evaluators": {"ev": evaluator}}
    (tmp_path / "c.json").write_text(json.dumps(content))
    assert load(tmp_path / "c.json").problems == ()
    (tmp_path / "c.json").write_text(json.dumps(content | {"evaluator": "ev"}))
    (problem,) = load(tmp_path / "c.json").problems
    assert (problem.kind, "evaluator 'ev'" in problem.message) == ("unsupported", True)
    is_mteb = evaluator.get("type") == "MTEBEvaluator"
    assert problem.message.endswith("mteb, which are not served." if is_mteb else "is not served: it has no metrics.")
