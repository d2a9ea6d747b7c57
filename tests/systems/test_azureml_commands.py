"""Runs on AzureML that nobody watches, by the commands that a user types.

Run by `make test-azureml`, in an environment that has the extra `azureml`.
"""

import json
import os
import signal
import time
from pathlib import Path

import pytest

pytest.importorskip("azure.ai.ml", reason="needs the extra azureml: make test-azureml")
azureml = pytest.importorskip("fakes.azureml", reason="needs trustme: make test-azureml")

from test_azureml import GIVEN, azure, olivine, quick, system  # noqa: E402, F401 - fixtures

from tiny import write_rows  # noqa: E402 - what is tested is there

TEXT = {"text_template": "{phrase} {tone}", "max_seq_len": 64}


@pytest.fixture
def config(azure, system, tmp_path, tiny_llama, monkeypatch):  # noqa: F811
    """Make a config of a fine-tuning with so many steps, on the cloud's compute."""
    monkeypatch.setenv("OLIVINE_STATE", str(tmp_path / "state"))
    write_rows(tmp_path / "rows.jsonl")

    def make(max_steps):
        arguments = {"max_steps": max_steps, "save_steps": 300, "per_device_train_batch_size": 4}
        written = {
            "input_model": {"type": "HfModel", "model_path": str(tiny_llama)},
            "azureml_client": azure.client(),
            "systems": {"aml": {"type": "AzureML", "config": GIVEN}},
            "host": "aml",
            "data_configs": [
                {
                    "name": "rows",
                    "load_dataset_config": {"data_files": "rows.jsonl"},
                    "pre_process_data_config": TEXT,
                }
            ],
            "passes": {"lora": {"type": "LoRA", "train_data_config": "rows", "training_args": arguments}},
            "cache_dir": str(tmp_path / "cache"),
            "output_dir": str(tmp_path / "out"),
        }
        path = tmp_path / "config.json"
        path.write_text(json.dumps(written))
        return path

    return make


def wait_for(what, seconds=300):
    until = time.monotonic() + seconds
    while not (seen := what()) and time.monotonic() < until:
        time.sleep(0.1)
    return seen


def trains(azure):  # noqa: F811 - a fixture's value
    """Whether a node has sent a checkpoint."""
    return list((azure.folder / "storeaccount").glob("*/olivine/scratch/*.json"))


def detached():
    """The last run, as `jobs ls` has it."""
    return json.loads(olivine("jobs", "ls", "--json").stdout)[-1]


@pytest.mark.slow
def test_detached_run_is_cancelled_there_too(azure, config):  # noqa: F811
    begun = olivine("run", "--config", config(100_000), "--detach")
    assert begun.returncode == 0, begun.stderr
    assert detached()["state"] == "running"
    assert wait_for(lambda: trains(azure))
    done = olivine("jobs", "cancel")
    assert done.returncode == 0, done.stderr
    assert "is interrupted" in done.stderr
    *_, name = azure.jobs
    assert wait_for(lambda: azure.jobs[name]["status"] == "Canceled", 30)
    assert not any(process.poll() is None for process in azure.runs[name].processes)
    again = olivine("jobs", "cancel")
    assert (again.returncode, "there is nothing to cancel" in again.stderr) == (2, True)
    nothing = olivine("jobs", "fetch")
    assert nothing.returncode == 1
    assert "is interrupted and has no result to fetch" in nothing.stderr


@pytest.mark.slow
def test_job_of_a_run_that_was_lost_with_its_laptop_is_cancelled_there(azure, config):  # noqa: F811
    assert olivine("run", "--config", config(100_000), "--detach").returncode == 0
    assert wait_for(lambda: trains(azure))
    *_, name = azure.jobs
    os.kill(detached()["pid"], signal.SIGKILL)
    assert wait_for(lambda: detached()["state"] == "lost", 30)
    assert azure.jobs[name]["status"] == "Running"
    done = olivine("jobs", "cancel")
    assert done.returncode == 0, done.stderr
    assert f"ended there, aml: {name}" in done.stderr
    assert detached()["state"] == "interrupted"
    assert wait_for(lambda: azure.jobs[name]["status"] == "Canceled", 30)
    assert not any(process.poll() is None for process in azure.runs[name].processes)


@pytest.mark.slow
def test_run_that_was_lost_with_its_laptop_is_attached_to_where_it_is_and_fetched(azure, config, tmp_path):  # noqa: F811
    assert olivine("run", "--config", config(3000), "--detach").returncode == 0
    assert wait_for(lambda: trains(azure))
    os.kill(detached()["pid"], signal.SIGKILL)
    assert wait_for(lambda: detached()["state"] == "lost", 30)
    done = olivine("jobs", "attach")
    assert done.returncode == 0, done.stderr
    assert "was lost with its process; it goes on" in done.stderr
    assert len(azure.jobs) == 3  # what a node has; the training, which was followed; and its score, for another worker
    fetched = olivine("jobs", "fetch", "--to", tmp_path / "mine")
    assert fetched.returncode == 0, fetched.stderr
    assert (Path(fetched.stdout.strip()) / "adapter_model.safetensors").is_file()
