"""What a config names elsewhere, as far as no service is needed: folders of MLflow, and the sentence without the SDK."""

import json
import shutil

import pytest

from olivine import lazy
from olivine.config import load
from olivine.errors import StepFailed
from olivine.store.entries import Cache
from olivine.workflow.engine import run
from olivine.workflow.fetch import bring
from olivine.workflow.plan import make_plan
from olivine.workflow.workers import Workers
from olivine.workflow.workshop import Workshop

pytestmark = pytest.mark.usefixtures("warm")

PARTS = {"model.safetensors": "model", "config.json": "config", "generation_config.json": "config"}
V2 = "flavors:\n  hftransformersv2:\n    model_data: data\n    task_type: text-generation\n"
PLAIN = "flavors:\n  python_function: {}\n  transformers:\n    model_binary: model\n    task: text-generation\n"


def azureml_form(model, folder, mark=V2):
    """The folder that AzureML's flavours save."""
    for path in model.iterdir():
        target = folder / "data" / PARTS.get(path.name, "tokenizer") / path.name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
    (folder / "MLmodel").write_text(mark)
    return folder


def mlflow_form(model, folder, mark=PLAIN):
    """The folder that MLflow's own flavour saves."""
    for path in model.iterdir():
        part = "components/tokenizer" if "token" in path.name or path.suffix == ".jinja" else "model"
        target = folder / part / path.name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
    (folder / "MLmodel").write_text(mark)
    return folder


def planned(folder, model, **more):
    config = {
        "input_model": {"model_path": str(model), **more},
        "passes": {"builder": {"type": "ModelBuilder", "precision": "int4"}},
        "quality": {"enabled": False},
        "cache_dir": str(folder / "cache"),
        "output_dir": str(folder / "out"),
    }
    (folder / "config.json").write_text(json.dumps(config))
    return make_plan(load(folder / "config.json"))


@pytest.mark.parametrize(
    ("form", "mark"), [(azureml_form, V2), (azureml_form, V2.replace("sv2", "s")), (mlflow_form, PLAIN)]
)
def test_folder_of_mlflow_is_the_model_that_was_saved_into_it(form, mark, tiny_llama, tmp_path):
    plan = planned(tmp_path, form(tiny_llama, tmp_path / "mlflow", mark), model_file_format="PyTorch.MLflow")
    assert plan.problems == ()
    assert plan.n_parameters == planned(tmp_path, tiny_llama).n_parameters
    with Cache(plan.cache_dir) as store:
        store.prepare()
        bring(plan.remotes, Workshop(tmp_path, store, Workers({}), lambda _: None), {}, plan.machine)
    model = planned(tmp_path, tmp_path / "mlflow").input_model.path
    assert {path.name: path.read_bytes() for path in model.iterdir()} == {
        path.name: path.read_bytes() for path in tiny_llama.iterdir()
    }


def test_folder_of_mlflow_runs_from_the_config_to_the_result(tiny_llama, tmp_path):
    folder = mlflow_form(tiny_llama, tmp_path / "mlflow")
    result = run(planned(tmp_path, folder))
    assert (result.model / "genai_config.json").is_file()
    assert planned(tmp_path, folder).cached == {"builder"}
    said = json.loads((tmp_path / "out" / "workflow.json").read_text())
    assert said["input_model"]["model_path"]


@pytest.mark.parametrize(
    ("mark", "says"),
    [
        ("flavors:\n  sklearn: {}\n", "has no transformers model: its flavours are sklearn"),
        ("flavors: [\n", "the MLmodel file cannot be read"),
        ("nothing: here\n", "the MLmodel file names no flavours"),
        (V2.replace("data\n", "elsewhere\n", 1), "has no config.json where its flavour 'hftransformersv2' has it"),
    ],
)
def test_folder_of_mlflow_that_holds_no_such_model_is_one_sentence(mark, says, tiny_llama, tmp_path):
    (problem,) = planned(tmp_path, azureml_form(tiny_llama, tmp_path / "mlflow", mark)).problems
    assert problem.kind == "missing-model"
    assert says in problem.message


def test_pickled_weights_are_refused_before_they_are_brought(tiny_llama, tmp_path):
    folder = azureml_form(tiny_llama, tmp_path / "mlflow")
    weights = folder / "data" / "model" / "model.safetensors"
    weights.rename(weights.with_name("pytorch_model.bin"))
    (problem,) = planned(tmp_path, folder).problems
    assert "'data/model/pytorch_model.bin' holds pickled weights, which are not read" in problem.message


def test_adapter_that_is_not_there_is_told_before_its_model_is_brought(tiny_llama, tmp_path):
    folder = azureml_form(tiny_llama, tmp_path / "mlflow")
    (problem,) = planned(tmp_path, folder, adapter_path="nowhere").problems
    assert problem.message == "the adapter 'nowhere' does not exist."


def test_model_that_is_said_to_be_of_mlflow_and_is_not(tiny_llama, tmp_path):
    (problem,) = planned(tmp_path, tiny_llama, model_file_format="PyTorch.MLflow").problems
    assert "the model is no MLflow folder" in problem.message


def test_other_formats_are_refused_by_name(tiny_llama, tmp_path):
    (problem,) = planned(tmp_path, tiny_llama, model_file_format="PyTorch.StateDict").problems
    assert problem.kind == "unsupported"
    assert "PyTorch.StateDict" in problem.message


def test_what_was_removed_from_the_cache_while_a_plan_waited_is_one_sentence(tiny_llama, tmp_path):
    folder = azureml_form(tiny_llama, tmp_path / "mlflow")
    plan = planned(tmp_path, folder)
    with Cache(plan.cache_dir) as store:
        store.prepare()
        workshop = Workshop(tmp_path, store, Workers({}), lambda _: None)
        bring(plan.remotes, workshop, {}, plan.machine)
        (folder / "data" / "model" / "model.safetensors").unlink()
        store.remove(plan.remotes[0].key)
        with pytest.raises((StepFailed, OSError)):
            bring(plan.remotes, workshop, {}, plan.machine)


@pytest.mark.skipif(lazy.version_here("azure-ai-ml") != "none", reason="the extra azureml is installed")
def test_without_the_extra_the_command_that_installs_it_is_said(tiny_llama, tmp_path, monkeypatch):
    monkeypatch.delenv("HF_HUB_OFFLINE")
    resource = {"type": "azureml_registry_model", "config": {"name": "m", "version": 1, "registry_name": "r"}}
    (tmp_path / "config.json").write_text(
        json.dumps({"input_model": {"model_path": resource}, "passes": {"builder": {"type": "ModelBuilder"}}})
    )
    (problem,) = make_plan(load(tmp_path / "config.json")).problems
    assert problem.kind == "missing-extra"
    assert "pip install 'olivine[azureml]'" in problem.message
