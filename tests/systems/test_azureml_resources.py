"""Models and data that lie in AzureML, for runs on this machine: the real SDK against a cloud on loopback.

Run by `make test-azureml`, in an environment that has the extra `azureml`.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from olivine.config import load
from olivine.errors import StepFailed
from olivine.store.entries import Cache
from olivine.workflow.fetch import bring
from olivine.workflow.plan import make_plan
from olivine.workflow.workers import Workers
from olivine.workflow.workshop import Workshop

pytest.importorskip("azure.ai.ml", reason="needs the extra azureml: make test-azureml")
azureml = pytest.importorskip("fakes.azureml", reason="needs trustme: make test-azureml")

PUBLISHED = Path(__file__).parent.parent / "config" / "published"
ROWS = "".join(json.dumps({"Question": f"What is {n}?", "Best Answer": f"It is {n}."}) + "\n" for n in range(12))


@pytest.fixture
def azure(tmp_path, monkeypatch):
    (tmp_path / "azure").mkdir()
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.delenv("HF_DATASETS_OFFLINE", raising=False)
    with azureml.Azure(tmp_path / "azure") as azure:
        for name, value in azure.environment().items():
            monkeypatch.setenv(name, value)
        monkeypatch.chdir(tmp_path)
        azure.put("storeaccount", "azureml-blobstore", "path/train_data.json", ROWS)
        yield azure


@pytest.fixture
def registered(azure, tiny_phi3):
    """The registry has a tiny Phi-3 in MLflow form."""
    azureml.put_mlflow(azure, tiny_phi3, "registryaccount", "models", "some/11/mlflow_model_folder")
    azure.registry_models["microsoft/Phi-3-mini-4k-instruct", "11"] = "some/11/mlflow_model_folder"
    return azure


def published(azure):
    """The published config with a user's own names, to run here."""
    config = json.loads((PUBLISHED / "azureml-2024.json").read_text())
    config["input_model"]["config"]["model_path"]["config"]["registry_name"] = azure.registry
    data = config["data_configs"][0]["load_dataset_config"]["params"]["data_files"]
    data["config"]["azureml_client"] = azure.client()
    config["azureml_client"] = azure.client()
    config["systems"] = {"aml": {"type": "LocalSystem"}}
    del config["engine"]["execution_providers"]
    config["engine"] |= {"cache_dir": "cache", "output_dir": "out"}
    return config


def written(config):
    path = Path("config.json")
    path.write_text(json.dumps(config, indent=1))
    return path


def plan_of(config, **options):
    return make_plan(load(written(config)), **options)


def model_config(azure, resource, **others):
    """A config whose model is a resource and whose data is here."""
    Path("rows.json").write_text(ROWS)
    return {
        "input_model": {"model_path": resource},
        "azureml_client": azure.client(),
        "data_configs": [
            {
                "name": "rows",
                "load_dataset_config": {"data_name": "json", "data_files": "rows.json"},
                "pre_process_data_config": {"text_cols": ["Question", "Best Answer"], "max_seq_len": 64},
            }
        ],
        "passes": {"lora": {"type": "LoRA", "train_data_config": "rows"}},
        "cache_dir": "cache",
        "output_dir": "out",
        **others,
    }


def data_config(azure, tiny_phi3, path, **more):
    """A config whose data lies in the datastore and whose model is here."""
    config = model_config(azure, str(tiny_phi3))
    files = {"datastore_name": "workspaceblobstore", "relative_path": path, **more}
    config["data_configs"][0]["load_dataset_config"]["data_files"] = {"type": "azureml_datastore", "config": files}
    return config


def brought(plan, told=None):
    """Bring what a plan names elsewhere, without running it; gives the events."""
    events = [] if told is None else told
    with Cache(plan.cache_dir) as store:
        store.prepare()
        bring(plan.remotes, Workshop(Path("out"), store, Workers({}), events.append), {}, plan.machine)
    return events


def test_published_config_runs_here_with_a_users_own_names(registered, tmp_path):
    command = [sys.executable, "-m", "olivine", "run", "--config", written(published(registered)), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert [row["model"] for row in result["scores"]] == ["base", "lora", "merge_adapter_weights", "builder"]
    assert json.loads((tmp_path / "out/model/genai_config.json").read_text())["model"]["type"] == "phi3"
    said = json.loads((tmp_path / "out/workflow.json").read_text())
    assert said["input_model"]["model_path"]["type"] == "azureml_registry_model"  # it runs again from anywhere
    n_sent = registered.n_sent
    plan = make_plan(load(Path("config.json")))
    assert {step.name for step in plan.steps} <= plan.cached
    assert registered.n_sent == n_sent
    hosts = {where.split()[1].partition("/")[0] for where in registered.asked}
    assert hosts == {  # and nobody else hears of it
        "login.microsoftonline.com",
        "eastus.api.azureml.ms",
        "westus.api.azureml.ms",
        "management.azure.com",
        "registryaccount.blob.core.windows.net",
        "storeaccount.blob.core.windows.net",
    }


def test_plan_knows_a_model_that_has_not_come_and_writes_nothing(registered, tmp_path, tiny_phi3):
    written(published(registered))
    before = sorted(tmp_path.rglob("*"))
    plan = make_plan(load(Path("config.json")))
    assert plan.problems == ()
    here = make_plan(load(written(model_config(registered, str(tiny_phi3)))))
    assert plan.n_parameters == here.n_parameters > 0
    assert plan.estimate.download_bytes >= (tiny_phi3 / "model.safetensors").stat().st_size
    assert (
        plan.model_address
        == f"azureml://registries/{registered.registry}/models/microsoft/Phi-3-mini-4k-instruct/versions/11"
    )
    Path("rows.json").unlink()
    assert sorted(tmp_path.rglob("*")) == before


def test_model_of_mlflow_is_brought_as_the_folder_it_was_saved_from(registered, tiny_phi3):
    plan = plan_of(published(registered))
    brought(plan)
    model = make_plan(load(Path("config.json")), offline=False).input_model.path
    names = {path.name for path in tiny_phi3.iterdir()}
    assert {path.name for path in model.iterdir()} == names
    assert all((model / name).read_bytes() == (tiny_phi3 / name).read_bytes() for name in names)


def test_model_that_has_come_needs_no_network(registered):
    config = model_config(registered, published(registered)["input_model"]["config"]["model_path"])
    brought(plan_of(config))
    registered.asked.clear()
    plan = plan_of(config, offline=True)
    assert plan.problems == ()
    assert plan.input_model is not None
    assert registered.asked == []


def test_rows_that_changed_in_the_datastore_come_again_and_nothing_else_does(azure, tiny_phi3):
    for name in ("a.json", "b.json"):
        azure.put("storeaccount", "azureml-blobstore", f"path/{name}", ROWS)
    config = data_config(azure, tiny_phi3, "path")
    plan = plan_of(config)
    assert plan.problems == ()
    brought(plan)
    first = plan_of(config)
    assert not first.awaits
    (rows,) = first.steps[0].data.values()
    names = [Path(name).name for name in rows.load_dataset_config.data_files]
    assert names == ["a.json", "b.json", "train_data.json"]
    azure.put("storeaccount", "azureml-blobstore", "path/a.json", ROWS.replace("What", "Why"))
    second = plan_of(config)
    assert [remote.is_here for remote in second.remotes] == [False]
    brought(second)
    changed = plan_of(config)
    (files,) = (data.load_dataset_config.data_files for data in changed.steps[0].data.values())
    assert "Why" in Path(files[0]).read_text()


@pytest.mark.parametrize(
    ("path", "names"), [("path/*_data.json", ["train_data.json"]), ("/path/train_data.json", ["train_data.json"])]
)
def test_datastore_gives_a_file_or_what_a_pattern_fits(azure, tiny_phi3, path, names):
    plan = plan_of(data_config(azure, tiny_phi3, path))
    assert [[file.name for file in remote.files] for remote in plan.remotes] == [names]


def test_datastore_is_known_by_its_address_alone(azure, tiny_phi3):
    config = data_config(azure, tiny_phi3, None)
    files = config["data_configs"][0]["load_dataset_config"]["data_files"]
    files["config"] = {"datastore_url": azure.datastore_url("path/train_data.json")}
    config["azureml_client"] = {"operation_retry_interval": 0.01}
    assert plan_of(config).problems == ()


@pytest.mark.parametrize("kind", ["Sas", "AccountKey", "None"])
def test_datastore_is_opened_with_its_own_secret_or_with_these_credentials(azure, tiny_phi3, kind):
    azure.datastores["workspaceblobstore"] = ("storeaccount", "azureml-blobstore", kind)
    plan = plan_of(data_config(azure, tiny_phi3, "path/train_data.json"))
    assert plan.problems == ()
    brought(plan)
    assert not any("SIGNATURE" in str(path) for path in Path("cache").rglob("*"))


def test_secret_that_these_credentials_may_not_see_is_not_needed(azure, tiny_phi3):
    azure.forbidden.add("listSecrets$")
    assert plan_of(data_config(azure, tiny_phi3, "path/train_data.json")).problems == ()


def test_workspace_model_and_job_output_are_found(azure, tiny_phi3):
    for path in tiny_phi3.iterdir():
        azure.put("storeaccount", "azureml-blobstore", f"azureml/job1/out/best/{path.name}", path.read_bytes())
    azure.models["mine", "3"] = azure.datastore_url("azureml/job1/out/best")
    azure.jobs["job1"] = {
        "jobType": "Command",
        "status": "Completed",
        "command": "train",
        "environmentId": "env",
        "computeId": "c",
        "outputs": {"out": {"jobOutputType": "uri_folder"}},
    }
    model = {"type": "azureml_model", "config": {"name": "mine", "version": 3}}
    output = {
        "type": "azureml_job_output",
        "config": {"job_name": "job1", "output_name": "out", "relative_path": "best"},
    }
    for resource in (model, output):
        plan = plan_of(model_config(azure, resource))
        assert plan.problems == ()
        assert plan.n_parameters > 0
    output["config"]["output_name"] = "model"
    (problem,) = plan_of(model_config(azure, output)).problems
    assert "the job 'job1' has no output 'model'; there is out" in problem.message


def test_busy_and_broken_answers_are_asked_for_again(registered):
    plan_of(model_config(registered, published(registered)["input_model"]["config"]["model_path"]))
    registered.faults += [
        azureml.Fault("westus.*/models/", 429, headers={"Retry-After": "0"}),
        azureml.Fault("westus.*/datarefs/", 503),
        azureml.Fault("blob.*/models$", 500, times=2),
        azureml.Fault(r"model\.safetensors", cut=100),
    ]
    plan = plan_of(published(registered))
    assert plan.problems == ()
    brought(plan)
    assert not any(fault.times for fault in registered.faults)


def test_run_that_was_interrupted_fetches_only_what_had_not_come(registered):
    plan = plan_of(model_config(registered, published(registered)["input_model"]["config"]["model_path"]))
    registered.faults.append(azureml.Fault("/tokenizer.json", 404))
    with pytest.raises(StepFailed, match="there is no azureml://registries"):
        brought(plan)
    registered.asked.clear()
    brought(plan)
    assert not any("model.safetensors" in where for where in registered.asked)
    assert any("tokenizer.json" in where for where in registered.asked)


def test_bytes_that_changed_on_the_way_are_refused_and_kept_nowhere(azure, tiny_phi3):
    plan = plan_of(data_config(azure, tiny_phi3, "path/train_data.json"))
    azure.faults.append(azureml.Fault("GET store.*/train_data", flip=True))
    with pytest.raises(StepFailed, match="came with other bytes than it has there"):
        brought(plan)
    brought(plan)
    (rows,) = Path("cache/steps").glob("*/content/train_data.json")
    assert rows.read_text() == ROWS


def test_signature_that_expired_is_asked_for_once_more(registered):
    plan = plan_of(model_config(registered, published(registered)["input_model"]["config"]["model_path"]))
    registered.faults.append(azureml.Fault("GET reg.*/config.json", 403))
    registered.asked.clear()
    brought(plan)
    assert sum("datarefs" in where for where in registered.asked) == 1


@pytest.mark.parametrize(
    ("client", "says"),
    [
        ({"subscription_id": "0000"}, "there is no subscription '0000' for these credentials"),
        ({"resource_group": "grup"}, "the subscription has no resource group 'grup'"),
        ({"workspace_name": "other"}, "the resource group 'group' has no workspace 'other'"),
        ({"workspace_name": None}, "azureml_client lacks workspace_name"),
        ({"aml_config_path": "no.json"}, "no.json' cannot be read"),
    ],
)
def test_wrong_workspace_is_one_sentence(azure, tiny_phi3, client, says):
    config = data_config(azure, tiny_phi3, "path/train_data.json")
    config["azureml_client"] |= client
    (problem,) = plan_of(config).problems
    assert says in problem.message
    assert problem.where.startswith("config.json:")


@pytest.mark.parametrize(
    ("files", "says", "kind"),
    [
        (
            {"relative_path": "path/none.json"},
            "path/none.json'; mend its path, in which the case of letters counts",
            "missing-file",
        ),
        ({"datastore_name": "nostore"}, "there is no datastore 'nostore' in the workspace 'workspace'", "missing-file"),
        ({"relative_path": None}, "needs datastore_name and relative_path", "invalid-value"),
        ({"relative_path": "/"}, "names a whole datastore", "invalid-value"),
        ({"datastore_url": "https://x"}, "'https://x' is no address of a datastore", "invalid-value"),
    ],
)
def test_wrong_datastore_is_one_sentence(azure, tiny_phi3, files, says, kind):
    config = data_config(azure, tiny_phi3, "path/train_data.json")
    config["data_configs"][0]["load_dataset_config"]["data_files"]["config"] |= files
    plan = plan_of(config)
    assert [(problem.kind, says in problem.message) for problem in plan.problems] == [(kind, True)]


@pytest.mark.parametrize(
    ("resource", "says"),
    [
        (
            {"version": "12"},
            "there is no model 'microsoft/Phi-3-mini-4k-instruct' of version '12' in the registry 'shared'; 'az ml",
        ),
        ({"registry_name": "azureml-msr"}, "there is no registry 'azureml-msr'"),
        ({"registry_name": None}, "the registry model has no registry_name"),
    ],
)
def test_wrong_registry_model_is_one_sentence(registered, resource, says):
    config = published(registered)
    config["input_model"]["config"]["model_path"]["config"] |= resource
    (problem,) = plan_of(config).problems
    assert says in problem.message


def test_place_where_no_model_lies_is_one_sentence(azure):
    azure.put("storeaccount", "azureml-blobstore", "notes/a.txt", "nothing")
    azure.put("storeaccount", "azureml-blobstore", "notes/b.txt", "nothing")
    azure.models["notes", "1"] = azure.datastore_url("notes")
    resource = {"type": "azureml_model", "config": {"name": "notes", "version": 1}}
    (problem,) = plan_of(model_config(azure, resource)).problems
    assert "no model lies there: 'a.txt' is of none" in problem.message


def test_client_that_does_not_hold_is_told_once(azure, tiny_phi3):
    config = data_config(azure, tiny_phi3, "path/train_data.json")
    config["azureml_client"] |= {"subscription_id": 7}
    (problem,) = plan_of(config).problems
    assert "'azureml_client.subscription_id' must be a text, but is 7." in problem.message


def test_what_may_not_be_read_is_said_with_what_helps(azure, tiny_phi3):
    azure.forbidden.add("/datastores/")
    (problem,) = plan_of(data_config(azure, tiny_phi3, "path/train_data.json")).problems
    assert "these credentials may not read datastore 'workspaceblobstore'" in problem.message
    assert "ask for a role" in problem.message


def test_wrong_secret_is_one_sentence_that_does_not_say_it(azure, tiny_phi3, monkeypatch):
    monkeypatch.setenv("AZURE_CLIENT_SECRET", "SOME_TOKEN")
    (problem,) = plan_of(data_config(azure, tiny_phi3, "path/train_data.json")).problems
    assert "Azure has no credentials here" in problem.message
    assert "az login" in problem.message
    assert "SOME_TOKEN" not in problem.message


def test_network_that_is_off_is_said_before_anything_is_asked(azure, tiny_phi3):
    (problem,) = plan_of(data_config(azure, tiny_phi3, "path/train_data.json"), offline=True).problems
    assert problem.kind == "network"
    assert azure.asked == []


def test_problems_of_a_model_that_has_not_come_are_told_by_its_address(registered, tiny_phi3):
    config = model_config(registered, published(registered)["input_model"]["config"]["model_path"])
    config["input_model"]["model_file_format"] = "PyTorch.MLflow"
    registered.registry_models["microsoft/Phi-3-mini-4k-instruct", "11"] = "plain"
    for path in tiny_phi3.iterdir():
        registered.put("registryaccount", "models", f"plain/{path.name}", path.read_bytes())
    (problem,) = plan_of(config).problems
    assert "the model is no MLflow folder" in problem.message
    assert os.environ["AZURE_CLIENT_SECRET"] not in str(problem)
