"""Fine-tuning on several nodes of AzureML, which the fake cloud starts as processes with the variables of the service.

Run by `make test-azureml`, in an environment that has the extra `azureml`.
"""

import json
import threading
import time

import psutil
import pytest

from olivine.errors import RequestError
from olivine.testing.tiny import write_rows

pytest.importorskip("azure.ai.ml", reason="needs the extra azureml: make test-azureml")
azureml = pytest.importorskip("fakes.azureml", reason="needs trustme: make test-azureml")

from safetensors.torch import load_file  # noqa: E402 - what is tested is there
from test_azureml import GIVEN, azure, olivine, quick, system  # noqa: E402, F401 - fixtures

TEXT = {"text_template": "{phrase} {tone}", "max_seq_len": 64}


def config(azure, folder, model, where, max_steps=6, **lora):  # noqa: F811 - a fixture's value
    """A config that fine-tunes and merges, here or on two nodes."""
    write_rows(folder / "rows.jsonl")
    data = {"name": "rows", "load_dataset_config": {"data_files": "rows.jsonl"}, "pre_process_data_config": TEXT}
    arguments = {"max_steps": max_steps, "save_steps": 2, "per_device_train_batch_size": 4, "learning_rate": 1e-3}
    tuning = {"type": "LoRA", "train_data_config": "rows", "training_args": arguments, **lora}
    written = {
        "input_model": {"type": "HfModel", "model_path": str(model)},
        "azureml_client": azure.client(),
        "systems": {"aml": {"type": "AzureML", "config": {**GIVEN, "instance_count": 2}}},
        "data_configs": [data],
        "passes": {"lora": tuning, "merge": {"type": "MergeAdapterWeights"}},
        "cache_dir": str(folder / f"cache-{where}"),
        "output_dir": str(folder / f"out-{where}"),
    }
    path = folder / f"{where}.json"
    path.write_text(json.dumps(written | ({"host": "aml"} if where == "nodes" else {}), indent=1))
    return path


@pytest.mark.slow
def test_two_nodes_train_as_this_machine_does_and_all_else_is_done_by_the_first(azure, system, tmp_path, tiny_llama):  # noqa: F811
    for where in ("here", "nodes"):
        done = olivine("run", "--config", config(azure, tmp_path, tiny_llama, where))
        assert done.returncode == 0, done.stderr
    here, nodes = (load_file(tmp_path / f"out-{where}/model/model.safetensors") for where in ("here", "nodes"))
    assert here.keys() == nodes.keys()
    assert all((here[name] - nodes[name]).abs().max() < 1e-5 for name in here)
    runs = [azure.runs[name] for name in azure.jobs]
    assert [run.n_nodes for run in runs] == [1, 2]  # what a node has was asked of one of them
    for run in runs:
        run.join()
    assert [azure.jobs[name]["status"] for name in azure.jobs] == ["Completed", "Completed"]  # the second node, too


@pytest.mark.slow
def test_node_that_dies_ends_the_job_and_is_named(azure, system, tmp_path, tiny_llama):  # noqa: F811
    kill = threading.Thread(target=kill_the_second, args=(azure,), daemon=True)
    kill.start()
    done = olivine("run", "--config", config(azure, tmp_path, tiny_llama, "nodes", max_steps=10_000))
    assert done.returncode == 1
    assert "step 'lora'" in done.stderr
    assert "its worker on node 2 of 2 was killed (SIGKILL)" in done.stderr
    assert not any(is_at_work(process.pid) for run in azure.runs.values() for process in run.processes)


def kill_the_second(azure):  # noqa: F811
    """End the worker of the second node, as a kernel does that is out of memory, when it trains."""
    until = time.monotonic() + 300
    while time.monotonic() < until:
        run = next((run for run in azure.runs.values() if len(run.processes) == 2), None)
        children = psutil.Process(run.processes[1].pid).children(recursive=True) if run is not None else []
        if any("_rank" in " ".join(child.cmdline()) for child in children):
            for child in children:
                child.kill()
            return
        time.sleep(0.2)


def is_at_work(pid):
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def test_more_nodes_than_a_compute_may_have_are_refused_before_anything_is_sent(azure, system):  # noqa: F811
    with pytest.raises(RequestError, match="asks for 3 nodes, but the compute 'cluster' has 2 nodes at most"):
        system(instance_count=3).is_prepared()
    azure.computes["box"] = {"computeType": "ComputeInstance", "provisioningState": "Succeeded", "properties": {}}
    with pytest.raises(RequestError, match="asks for 2 nodes, but the compute 'box' has 1 node at most"):
        system(aml_compute="box", instance_count=2).is_prepared()
    assert not any(where.startswith("PUT") for where in azure.asked)
