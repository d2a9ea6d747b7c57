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

from olivine.config.schema import AzureMLClient
from olivine.testing.system import SystemContract

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


def test_published_config_runs_on_a_compute_with_a_users_own_names(registered, tmp_path):
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
    assert "experimental class" not in done.stderr  # the SDK is not heard
