"""workflow.json runs as it stands and says everything."""

import json
import shutil
from pathlib import Path

import pytest

from olivine.config import json_schema, load
from olivine.store.hashes import Hashes
from olivine.workflow.keys import plan_keys
from olivine.workflow.plan import make_plan
from olivine.workflow.resolved import resolved
from tiny import write_rows

LORA = {"type": "LoRA", "train_data_config": "rows", "eval_dataset_size": 0.25, "training_args": {"max_steps": 2}}
TEMPLATE = {"text_template": "{phrase}: {tone}"}
DATA = {"name": "rows", "load_dataset_config": {"data_files": "rows.jsonl"}, "pre_process_data_config": TEMPLATE}
FORMS = {
    "today's": {
        "data_configs": [DATA],
        "passes": {
            "lora": LORA,
            "merge": {"type": "MergeAdapterWeights"},
            "build": {"type": "ModelBuilder", "precision": "int4"},
        },
        "quality": {"max_drop": "3pp"},
        "systems": {"here": {"accelerators": [{"device": "cpu", "execution_providers": ["CPUExecutionProvider"]}]}},
        "target": "here",
    },
    "null where the default is a value": {
        "data_configs": [DATA],
        "passes": {"lora": LORA | {"eval_dataset_size": None}},
        "quality": {"enabled": False},
    },
    "Olive's of 2023": {
        "data_configs": [DATA],
        "passes": {"lora": {"type": "LoRA", "config": {key: LORA[key] for key in LORA if key != "type"}}},
        "engine": {"cache_dir": "elsewhere", "output_dir": "there"},
    },
    "files by split and pattern": {
        "data_configs": [DATA | {"load_dataset_config": {"data_files": {"train": ["row*.jsonl"]}}}],
        "passes": {"lora": LORA},
    },
    "a folder of data": {
        "data_configs": [DATA | {"load_dataset_config": {"data_name": "json", "data_dir": "data"}}],
        "passes": {"lora": LORA},
    },
    "no data": {"passes": {"build": {"type": "ModelBuilder", "precision": "int4"}}},
}


def _plan(path, overrides=()):
    plan = make_plan(load(path, overrides))
    assert plan.problems == ()
    return plan


def _keys(plan):
    return plan_keys(plan, plan.input_model, Hashes(plan.cache_dir))


@pytest.fixture
def written(tiny_llama, tmp_path):
    """Write a config of that form, with its data and model beside it."""

    def write(form):
        folder = tmp_path / "there"
        (folder / "data").mkdir(parents=True)
        write_rows(folder / "rows.jsonl")
        write_rows(folder / "data" / "train.jsonl")
        shutil.copytree(tiny_llama, folder / "model")
        content = {"input_model": {"type": "HfModel", "model_path": "model"}, **FORMS[form]}
        (folder / "config.json").write_text(json.dumps(content))
        return folder / "config.json"

    return write


@pytest.mark.parametrize("form", FORMS)
def test_resolved_config_plans_the_same_under_the_same_keys_from_any_folder(written, form, tmp_path, monkeypatch):
    path = written(form)
    monkeypatch.chdir(path.parent)
    plan = _plan(path)
    before = _keys(plan)
    said = json.loads(json.dumps(resolved(plan)))
    (tmp_path / "workflow.json").write_text(json.dumps(said | {"environment": {"olivine": "0"}}))
    monkeypatch.chdir("/")
    again = _plan(tmp_path / "workflow.json")
    assert _keys(again) == before
    assert (again.cache_dir, again.output_dir, again.score) == (plan.cache_dir, plan.output_dir, again.score)
    assert json.loads(json.dumps(resolved(again))) == said
    assert load(tmp_path / "workflow.json").notes == ()


def test_resolved_config_says_defaults_and_overrides(written, monkeypatch):
    path = written("today's")
    monkeypatch.chdir(path.parent)
    said = resolved(_plan(path, ("passes.lora.r=4",)))
    assert said["passes"]["lora"]["r"] == 4
    assert said["passes"]["lora"]["type"] == "LoRA"
    assert {"alpha", "training_args"} <= said["passes"]["lora"].keys()
    assert said["quality"] == {"max_drop": "3pp", "max_samples": 512, "metrics": {}, "enabled": True}
    assert said["cache_dir"] == str(path.parent / ".olive-cache")
    assert said["data_configs"][0]["load_dataset_config"]["data_files"] == str(path.parent / "rows.jsonl")
    assert Path(said["input_model"]["model_path"]).is_absolute()


@pytest.mark.parametrize(
    ("kind", "given", "silent"),
    [
        ("LoRA", {}, {"learning_rate": 2e-4, "num_train_epochs": 3.0, "warmup_steps": 0.03}),
        ("FullFinetune", {}, {"learning_rate": 2e-5, "num_train_epochs": 3.0, "warmup_steps": 0.03}),
        ("LoRA", {"max_steps": 2, "warmup_ratio": 0.1}, {"learning_rate": 2e-4}),
        ("LoRA", {"max_steps": 1}, {"learning_rate": 2e-4}),
        ("LoRA", {"per_gpu_train_batch_size": 2, "warmup_steps": 4}, {"learning_rate": 2e-4, "num_train_epochs": 3.0}),
    ],
)
def test_resolved_config_says_what_is_trained_with(written, monkeypatch, tmp_path, kind, given, silent):
    path = written("today's")
    monkeypatch.chdir(path.parent)
    content = json.loads(path.read_text())
    content["passes"] = {"lora": {"type": kind, "train_data_config": "rows", "training_args": given}}
    path.write_text(json.dumps(content))
    plan = _plan(path)
    said = resolved(plan)
    rows = {} if "per_gpu_train_batch_size" in given else {"per_device_train_batch_size": 8}
    assert (
        said["passes"]["lora"]["training_args"] == {"lr_scheduler_type": "linear", "seed": 42} | rows | silent | given
    )
    (tmp_path / "workflow.json").write_text(json.dumps(said))
    assert _keys(_plan(tmp_path / "workflow.json")) == _keys(plan)


def test_resolved_config_says_no_length_that_nobody_wrote_and_is_told_the_same(written, monkeypatch, tmp_path):
    path = written("today's")
    monkeypatch.chdir(path.parent)
    plan = _plan(path)
    (tmp_path / "workflow.json").write_text(json.dumps(resolved(plan)))
    told = "rows of 'rows' that are longer than the 256 tokens that the model reads are cut there"
    assert told in plan.translated
    assert told in _plan(tmp_path / "workflow.json").translated


@pytest.mark.parametrize("form", FORMS)
def test_resolved_config_has_only_keys_of_the_schema(written, form, monkeypatch):
    path = written(form)
    monkeypatch.chdir(path.parent)
    schema = json_schema()

    def check(value, shape):
        shape = schema["$defs"][shape["$ref"].rpartition("/")[2]] if "$ref" in shape else shape
        if isinstance(value, dict) and "properties" in shape:
            unknown = value.keys() - shape["properties"].keys()
            assert not unknown or shape.get("additionalProperties") is True, unknown
            for key in value.keys() & shape["properties"].keys():
                check(value[key], shape["properties"][key])
        if isinstance(value, list):
            for item in value:
                check(item, shape.get("items", {}))

    check(resolved(_plan(path)), schema)
