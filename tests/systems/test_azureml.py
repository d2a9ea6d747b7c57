"""AzureML by its real SDK: a fake cloud that is strict, and really runs what its jobs are told to run.

Run by `make test-azureml`, in an environment that has the extra `azureml`.
"""

import json
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from olivine import __version__
from olivine.config import load
from olivine.config.schema import AzureMLClient
from olivine.errors import OlivineError, RequestError, StepFailed
from olivine.systems import BatchWorker, Job
from olivine.testing.system import SystemContract
from olivine.workflow.plan import make_plan

pytest.importorskip("azure.ai.ml", reason="needs the extra azureml: make test-azureml")
azureml = pytest.importorskip("fakes.azureml", reason="needs trustme: make test-azureml")

from olivine.systems.azureml import AzureML  # noqa: E402 - its SDK is there

CONDA = "name: x\nchannels: [conda-forge]\ndependencies:\n- python=3.11\n- pip\n- pip:\n  - torch\n"


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(AzureML, "pause_seconds", 0.2)
    monkeypatch.setattr(AzureML, "news_seconds", 60.0)


@pytest.fixture
def azure(tmp_path, monkeypatch):
    """A cloud with one image that has a Python and what olivine needs, but no olivine."""
    folder = tmp_path / "azure"
    (folder / "storeaccount" / "azureml-blobstore").mkdir(parents=True)
    with azureml.Azure(folder) as azure:
        for name, value in azure.environment().items():
            monkeypatch.setenv(name, value)
        monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
        monkeypatch.delenv("HF_DATASETS_OFFLINE", raising=False)
        azureml.believe(azure)
        azure.images["IMAGE"] = azureml.plain_image(tmp_path / "image")
        yield azure


@pytest.fixture
def system(azure, tmp_path):
    """A system of the cloud, with params of its own."""
    (tmp_path / "conda.yaml").write_text(CONDA)

    def make(**params):
        context = {"folder": tmp_path, "azureml_client": AzureMLClient(**azure.client())}
        return AzureML(AzureML.Params.model_validate({**GIVEN, **params}, context=context))

    return make


GIVEN = {"aml_compute": "cluster", "aml_docker_config": {"base_image": "IMAGE", "conda_file_path": "conda.yaml"}}


class TestContract(SystemContract):
    """Every job is one of the cloud, whose node sees nothing of this machine but the workspace's store."""

    system = AzureML

    @pytest.fixture(autouse=True)
    def _cloud(self, azure, system):
        self.azure, self.of_cloud = azure, system

    def make(self, folder):
        blobs = self.azure.folder / "storeaccount" / "azureml-blobstore"
        if not blobs.is_symlink():
            blobs.rmdir()
            blobs.symlink_to(folder)
        return self.of_cloud()

    def is_there(self, told):
        until = time.monotonic() + 60
        while psutil.pid_exists(told["pid"]) and time.monotonic() < until:
            time.sleep(0.1)
        return psutil.pid_exists(told["pid"])


MODEL = "microsoft/Phi-3-mini-4k-instruct"
ROWS = "".join(json.dumps({"Question": f"What is {n}?", "Best Answer": f"It is {n}."}) + "\n" for n in range(12))
PUBLISHED = Path(__file__).parent.parent / "config" / "published" / "azureml-2024.json"


def published(azure, folder):
    """The published config with a user's own names; and without GPUs, of which no node here has one."""
    text = PUBLISHED.read_text().replace("SUBSCRIPTION", azure.subscription).replace("GROUP", azure.group)
    text = text.replace('"WORKSPACE"', f'"{azure.workspace}"').replace("azureml-msr", azure.registry)
    text = text.replace('"workspace_name"', '"operation_retry_interval": 0.01, "workspace_name"')
    text = text.replace('"COMPUTE"', '"cluster"').replace('"gpu"', '"cpu"').replace('"CUDAExecution', '"CPUExecution')
    config = json.loads(text)
    config["engine"] |= {"cache_dir": str(folder / "cache"), "output_dir": str(folder / "out")}
    (folder / "conda.yaml").write_text(CONDA)
    path = folder / "olive-config.json"
    path.write_text(json.dumps(config, indent=1))
    return path


@pytest.fixture
def registered(azure, tiny_phi3):
    """The registry has a tiny Phi-3 in MLflow form, the datastore the rows, and the vault a token."""
    azureml.put_mlflow(azure, tiny_phi3, "registryaccount", "models", "some/11/mlflow_model_folder")
    azure.registry_models[MODEL, "11"] = "some/11/mlflow_model_folder"
    azure.put("storeaccount", "azureml-blobstore", "path/train_data.json", ROWS)
    azure.vaults["own-vault"]["hf-token"] = "hf_of_nobody"
    return azure


def olivine(*arguments):
    command = [sys.executable, "-m", "olivine", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_published_config_runs_on_a_compute_with_a_users_own_names(registered, tmp_path, tiny_phi3):
    config = published(registered, tmp_path)
    done = olivine("run", "--config", config, "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert [row["model"] for row in result["scores"]] == ["base", "lora", "merge_adapter_weights", "builder"]
    assert json.loads((tmp_path / "out/model/genai_config.json").read_text())["model"]["type"] == "phi3"
    assert len(registered.jobs) == 2  # what a node has was asked, and then one job did everything
    assert registered.read_by_nodes == 2
    written = b"".join(file.read_bytes() for file in tmp_path.rglob("*") if file.is_file())
    assert b"hf_of_nobody" not in written
    assert ("train_data.json", "node") in registered.readers
    assert ("train_data.json", "user") not in registered.readers  # the rows never came here
    weights = (tiny_phi3 / "model.safetensors").read_bytes()
    assert registered.n_read["model.safetensors", "user"] < len(weights)  # nor did the weights, but for their header
    assert not any(file.read_bytes() == weights for file in (tmp_path / "cache").rglob("*") if file.is_file())
    assert "experimental class" not in done.stderr  # the SDK is not heard


def test_rows_come_here_only_where_something_here_reads_them(registered, tmp_path):
    config = json.loads(published(registered, tmp_path).read_text())
    path = tmp_path / "config.json"
    elsewhere = {"passes": {"merge_adapter_weights": {"type": "MergeAdapterWeights", "host": "here"}}}
    other_store = {"aml": {**config["systems"]["aml"]["config"], "datastores": "other"}}
    systems = {
        "there": config["systems"],
        "here": config["systems"] | {"here": {"type": "LocalSystem"}},
        "other": {"aml": {"type": "AzureML", "config": other_store["aml"]}},
    }
    registered.datastores["other"] = ("storeaccount", "azureml-blobstore", "Sas")
    for case, brings in (("there", False), ("here", True), ("other", True)):
        passes = config["passes"] | (elsewhere["passes"] if case == "here" else {})
        path.write_text(json.dumps(config | {"systems": systems[case], "passes": passes}))
        plan = make_plan(load(path))
        assert plan.problems == ()
        assert any("train_data.json" in remote.address for remote in plan.remotes) is brings
    assert ("train_data.json", "user") not in registered.readers  # a plan only lists


def test_command_ends_with_2_before_anything_is_sent(registered, tmp_path):
    path = published(registered, tmp_path)
    path.write_text(path.read_text().replace('"cluster"', '"clustr"'))
    done = olivine("run", "--config", path)
    assert done.returncode == 2
    assert "olive-config.json:2" in done.stderr
    assert "the workspace 'workspace' has no compute 'clustr'; there is cluster, gpus" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()
    assert registered.jobs == {}


@pytest.mark.parametrize(
    ("client", "says"),
    [
        ({"subscription_id": "0001"}, "there is no subscription '0001' for these credentials; 'az account list' names"),
        ({"resource_group": "grup"}, "the subscription has no resource group 'grup'; 'az group list' names"),
        (
            {"workspace_name": "other"},
            "the resource group 'group' has no workspace 'other'; 'az ml workspace list -g group' names",
        ),
        ({"keyvault_name": "no-vault"}, "there is no key vault 'no-vault'"),
    ],
)
def test_wrong_workspace_is_one_sentence_before_anything_is_sent(azure, system, client, says):
    client = azure.client() | client
    with pytest.raises(RequestError, match=says):
        system(azureml_client_config=client, hf_token=True).is_prepared()
    assert not any(where.startswith("PUT") for where in azure.asked)


@pytest.mark.parametrize(
    ("params", "says"),
    [
        ({"aml_compute": "clustr"}, "has no compute 'clustr'; there is arc, broken, cluster, gpus"),
        ({"aml_compute": "broken"}, "the compute 'broken' was not made"),
        (
            {"aml_compute": "arc", "resources": {"instance_type": "tiny"}},
            "no instance_type 'tiny'; it has small, large",
        ),
        ({"hf_token": True}, "the key vault 'own-vault' has no secret 'hf-token'; set it: az keyvault secret set"),
        ({"aml_environment_config": {"name": "mine"}}, "no environment 'mine' with the label 'latest'"),
        ({"aml_environment_config": {"name": "mine", "version": 7}}, "no environment 'mine' with the version '7'"),
        ({"aml_environment_config": {"name": "azureml://registries/no/environments/x"}}, "environment 'azureml://"),
        ({"datastores": "nostore"}, "there is no datastore 'nostore'"),
    ],
)
def test_what_is_not_there_is_one_sentence_before_anything_is_sent(azure, system, params, says):
    azure.computes |= {"arc": azureml.arc(small=0, large=2), "broken": azureml.amlcompute("STANDARD_DS3_V2", "Failed")}
    with pytest.raises(RequestError, match=says):
        system(**params).is_prepared()
    assert not any(where.startswith("PUT") for where in azure.asked)


@pytest.mark.parametrize(
    ("params", "says"),
    [
        (
            {"aml_docker_config": {"base_image": "IMAGE", "conda_file_path": "no.yaml"}},
            "there is no conda_file_path '.*no.yaml'",
        ),
        ({"aml_docker_config": {"base_image": "IMAGE", "conda_file_path": "text.yaml"}}, "lists no dependencies"),
        ({"aml_docker_config": {"conda_file_path": "conda.yaml"}}, "neither a base_image nor a build_context_path"),
        ({"aml_docker_config": {"build_context_path": "."}}, "there is no file '.*Dockerfile'"),
        ({"aml_docker_config": None}, "neither aml_docker_config nor aml_environment_config"),
        ({"requirements_file": "no.txt"}, "there is no requirements_file '.*no.txt'"),
        ({"resources": {"shm_sise": "2g"}}, "unknown key 'shm_sise' in 'resources'; there is instance_type, shm_size"),
        ({"azureml_client_config": {"workspace_name": "x"}}, "azureml_client lacks subscription_id, resource_group"),
        ({"azureml_client_config": {"aml_config_path": "no.json"}}, "aml_config_path '.*no.json' cannot be read"),
    ],
)
def test_settings_that_do_not_hold_are_one_sentence_and_nothing_is_asked(azure, system, tmp_path, params, says):
    (tmp_path / "text.yaml").write_text("a text")
    with pytest.raises(RequestError, match=says):
        system(**params)
    assert azure.asked == []


@pytest.mark.parametrize("compute", ["cluster", "arc"])
def test_compute_without_gpus_is_refused_for_a_job_that_needs_one(azure, system, compute):
    azure.computes["arc"] = azureml.arc(small=0, large=2)
    made = system(aml_compute=compute)
    made.n_gpus = 1
    with pytest.raises(RequestError, match=f"asks for 1 GPU in a node, but a node of the compute '{compute}' has none"):
        made.is_prepared()
    for fits in (system(aml_compute="gpus"), system(aml_compute="arc", resources={"instance_type": "large"})):
        fits.n_gpus = 1
        assert fits.is_prepared() is False


@pytest.mark.parametrize(
    ("pattern", "says"),
    [
        ("/computes/", "these credentials may not read compute 'cluster'"),
        ("/workspaces/workspace$", "these credentials may not read workspace 'workspace': ask for a role"),
    ],
)
def test_what_may_not_be_done_is_said_with_what_helps(azure, system, pattern, says):
    azure.forbidden.add(pattern)
    with pytest.raises(RequestError, match=says):
        system().is_prepared()


def test_store_that_may_not_be_used_is_said_with_the_role_that_helps(azure, system):
    azure.datastores["workspaceblobstore"] = ("storeaccount", "azureml-blobstore", "None")
    azure.user_roles.clear()
    with pytest.raises(RequestError, match="ask for the role Storage Blob Data Contributor"):
        system().is_prepared()


def test_secret_that_only_the_node_may_read_is_left_to_the_node(azure, system):
    azure.user_roles.remove("Key Vault Secrets User")
    assert system(hf_token=True).is_prepared() is False


def test_workspace_without_a_vault_is_refused_where_a_token_is_asked_for(azure, system):
    azure.vault = None
    with pytest.raises(RequestError, match="has no key vault: name one as keyvault_name"):
        system(hf_token=True).is_prepared()


def test_jobs_that_may_not_be_started_are_one_sentence(azure, system, tmp_path):
    azure.forbidden.add("/jobs/")
    with pytest.raises(
        StepFailed, match="these credentials may not start jobs in the workspace 'workspace': ask for a role"
    ):
        system().prepare(tmp_path / "log")


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("bare", f"has no olivine {__version__} for AzureML; install into it: olivine=={__version__} adlfs"),
        ("other", f"the environment has olivine 9.9.9, but this is {__version__}; install into it"),
        ("crash", "its worker crashed .SIGSEGV.; the log of its job ends: far in"),
    ],
)
def test_registered_environment_that_does_not_serve_is_said_with_what_helps(azure, system, tmp_path, kind, says):
    folder = tmp_path / kind
    images = {
        "bare": lambda: azureml.plain_image(folder),
        "other": lambda: azureml.image_with(folder, "9.9.9"),
        "crash": lambda: azureml.image_that(folder, "echo far in; kill -SEGV $$"),
    }
    azure.register("mine", images[kind]())
    with pytest.raises(StepFailed, match=says):
        system(aml_environment_config={"name": "mine", "label": "latest"}).prepare(tmp_path / "log")


@pytest.mark.parametrize(
    ("docker", "says"),
    [
        ({"base_image": "IMAG"}, "was ended by AzureML: Image build failed: IMAG: not found"),
        (
            {"base_image": "IMAGE", "conda_file_path": {"dependencies": ["no-such-package"]}},
            "Image build failed: ResolvePackageNotFound: no-such-package",
        ),
    ],
)
def test_image_that_cannot_be_built_is_told_in_azureml_s_words(system, tmp_path, docker, says):
    with pytest.raises(StepFailed, match=says):
        system(aml_docker_config=docker).prepare(tmp_path / "log")


@pytest.mark.parametrize(
    ("role", "says"),
    [
        (
            "Storage Blob Data Contributor",
            "the identity of the compute 'cluster' may not use the files of the datastore",
        ),
        (
            "Key Vault Secrets User",
            "cannot read the secret 'hf-token' of the key vault 'own-vault': give it the role Key Vault",
        ),
    ],
)
def test_node_that_lacks_a_role_is_said_with_the_role(azure, system, tmp_path, role, says):
    azure.vaults["own-vault"]["hf-token"] = "hf_of_nobody"
    azure.node_roles.remove(role)
    with pytest.raises(StepFailed, match=says):
        system(hf_token=True).prepare(tmp_path / "log")


def test_environment_is_made_once_for_each_content(azure, system, tmp_path):
    """Another run, of another process, finds what a node has; what goes into the image makes another one."""
    system().prepare(tmp_path / "log")
    assert system().is_prepared() is True
    assert (len(azure.environments), azure.n_built, len(azure.jobs)) == (1, 1, 1)
    assert system(aml_compute="gpus").is_prepared() is False  # other nodes
    assert system(aml_docker_config={"base_image": "IMAGE"}).is_prepared() is False
    (tmp_path / "context").mkdir()
    (tmp_path / "context" / "Dockerfile").write_text("FROM IMAGE\nENV A=b\n")
    own = {"build_context_path": "context", "name": "mine", "version": 3}
    system(aml_docker_config=own).prepare(tmp_path / "log")
    assert any("/environments/mine/versions/3-" in place for place in azure.environments)


@pytest.fixture
def asked(tmp_path):
    """A job that reads nothing and makes nothing, as it is sent."""
    return Job("probe", "look", Path("${output}"), Path("look"), log=str(tmp_path / "log"))


def test_job_whose_node_is_taken_away_begins_again_on_another(azure, system, asked):
    started = []

    def take(event, told):
        if event == "started":
            started.append(told["pid"])
            if len(started) == 1:
                (run,) = azure.runs.values()
                run.preempt()

    with BatchWorker(system()) as worker:
        assert worker.run(asked, take)["probe"]["olivine"] == __version__
    assert len(azure.jobs) == 1


def test_job_goes_on_while_the_service_is_busy_and_tokens_expire(azure, system, asked):
    azure.token_seconds = 2
    azure.faults += [
        azureml.Fault("PUT management.*/jobs/", 500),
        azureml.Fault("GET management.*/jobs/", 429, times=2, headers={"Retry-After": "0"}),
        azureml.Fault("GET management.*/jobs/", cut=20, times=1),
    ]
    with BatchWorker(system()) as worker:
        assert worker.run(asked, lambda *_: None)["probe"]["n_cores"] > 0
    assert len(azure.jobs) == 1
    assert not any(fault.times for fault in azure.faults)
    assert len(azure.expires) > 2


def test_store_that_is_busy_is_asked_again_as_the_settings_say(azure, system):
    azure.faults += [azureml.Fault("GET storeaccount", 429, times=3)]
    assert system().is_prepared() is False
    azure.faults += [azureml.Fault("GET storeaccount", 429, times=1)]
    once = system(azureml_client_config=azure.client() | {"max_operation_retries": 0})
    with pytest.raises(OlivineError, match=r"the files at 'abfs://.*' cannot be reached"):
        once.is_prepared()


def test_credentials_that_end_during_a_job_are_one_sentence_and_the_job_is_found_again(
    azure, system, asked, monkeypatch
):
    azure.has_no_nodes = True
    lost = system()
    monkeypatch.setattr(lost, "patience_seconds", 0.5)

    def revoke(*_):
        azure.expires = dict.fromkeys(azure.tokens, 0.0)

    worker = BatchWorker(lost)
    worker._given(asked)
    revoke()
    monkeypatch.setenv("AZURE_CLIENT_SECRET", "SOME_TOKEN")
    with pytest.raises(OlivineError, match="has expired or is not taken; log in again"):
        worker.run(asked, lambda *_: None)
    azure.has_no_nodes = False


def test_job_at_work_is_followed_by_who_asks_for_it_later(azure, system, asked):
    azure.has_no_nodes = True
    BatchWorker(system())._given(asked)  # and the laptop is closed
    azure.has_no_nodes = False
    with BatchWorker(system()) as worker:
        assert worker.run(asked, lambda *_: None)["probe"]["n_cores"] > 0
    assert len(azure.jobs) == 1


def test_what_a_job_waits_for_is_told(azure, system, asked, monkeypatch):
    monkeypatch.setattr(AzureML, "news_seconds", 0.0)
    azure.has_no_nodes = True
    heard = []

    def listen(event, told):
        heard.append(told.get("message"))
        azure.has_no_nodes = False

    with BatchWorker(system()) as worker:
        worker.run(asked, listen)
    assert heard[0] == "the job waits for a node of 'cluster'"


def test_job_that_somebody_cancels_is_named(azure, system, asked):
    azure.has_no_nodes = True
    worker = BatchWorker(system())
    place = worker._given(asked)
    azure.runs[place.identity].cancel()
    with pytest.raises(StepFailed, match=f"its worker was cancelled in AzureML, as job '{place.identity}'"):
        worker._result(place, asked, lambda *_: None)


def test_settings_of_a_job_are_those_of_the_config(azure, system):
    given = {"shm_size": "2g", "instance_type": "large", "properties": {"AISuperComputer": {"tier": "x"}}}
    azure.computes["arc"] = azureml.arc(small=0, large=2)
    azure.has_no_nodes = True
    system(aml_compute="arc", resources=given, tags={"team": 7}).submit("abc", ["--batch", "abc"])
    sent = azure.sent["olivine-abc"]
    assert (sent["resources"]["shmSize"], sent["resources"]["instanceType"]) == ("2g", "large")
    assert sent["tags"] == {"team": "7"}
    assert sent["computeId"].endswith("/computes/arc")
