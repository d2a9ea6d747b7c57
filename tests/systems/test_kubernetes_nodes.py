"""Fine-tuning on several pods at once, which the fake cluster starts as an Indexed Job."""

import json
import threading
import time
from pathlib import Path

import psutil
import pytest
import yaml
from safetensors.torch import load_file
from test_kubernetes import _config, _given, cluster, quick, system  # noqa: F401 - fixtures

from fakes.kubernetes.strict import Refused, check
from olivine.cli import exit_code
from olivine.config import load
from olivine.errors import StepFailed
from olivine.workflow.engine import run
from olivine.workflow.plan import make_plan
from tiny import write_rows


def on_nodes(folder, model, cluster, where, **arguments):  # noqa: F811 - a fixture's value
    """A config that fine-tunes and merges, here or on two pods."""
    config = json.loads(_config(folder, model, cluster, where).read_text())
    if where == "cluster":
        config["systems"]["cluster"]["config"]["nodes"] = 2
    lora = next(iter(config["passes"].values()))
    lora["training_args"] = {"save_steps": 10, "per_device_train_batch_size": 4, "learning_rate": 1e-4, **arguments}
    config["passes"] = {"lora": lora, "merge": {"type": "MergeAdapterWeights"}}
    path = folder / f"{where}.json"
    path.write_text(json.dumps(config, indent=1))
    return path


@pytest.mark.slow
def test_second_pod_is_taken_away_and_training_goes_on_to_the_result_of_one_machine(cluster, tmp_path, tiny_llama):  # noqa: F811
    write_rows(tmp_path / "rows.jsonl", 32)
    paths = {where: on_nodes(tmp_path, tiny_llama, cluster, where, max_steps=200) for where in ("here", "cluster")}
    here, events = run(make_plan(load(paths["here"]))), []
    taken = threading.Thread(target=take_away_at_checkpoint, args=(cluster,), daemon=True)
    taken.start()
    there = run(make_plan(load(paths["cluster"])), events.append)
    taken.join(60)
    told = [event.message for event in events if hasattr(event, "message")]
    assert any("node 2 of 2 is gone" in message and "goes on from its last checkpoint" in message for message in told)
    assert any("going on from step" in message for message in told)
    one, two = (load_file(result.model / "model.safetensors") for result in (here, there))
    assert one.keys() == two.keys()
    assert all((one[name] - two[name]).abs().max() < 1e-5 for name in one)


def take_away_at_checkpoint(cluster):  # noqa: F811
    """Take the second pod's node when the first has written a checkpoint."""
    store, until = cluster.claims["disk"], time.monotonic() + 300
    while not list(store.glob("scratch/*/checkpoints/checkpoint-*/sealed.json")) and time.monotonic() < until:
        time.sleep(0.05)
    (name,) = [name for name, job in cluster.jobs.items() if job["spec"].get("completionMode") == "Indexed"]
    cluster.preempt(name)


@pytest.mark.slow
def test_pod_that_ran_out_of_memory_ends_the_job_and_is_named(cluster, tmp_path, tiny_llama):  # noqa: F811
    write_rows(tmp_path / "rows.jsonl", 32)
    cluster.is_out_of_memory = True
    killed = threading.Thread(target=kill_the_second, args=(cluster,), daemon=True)
    killed.start()
    with pytest.raises(StepFailed, match=r"on node 2 of 2 was killed by the kernel: out of memory"):
        run(make_plan(load(on_nodes(tmp_path, tiny_llama, cluster, "cluster", max_steps=10_000))))
    until = time.monotonic() + 60
    while cluster.running() and time.monotonic() < until:
        time.sleep(0.1)
    assert cluster.running() == []


def kill_the_second(cluster):  # noqa: F811
    """End the worker of the second pod when it trains."""
    until = time.monotonic() + 300
    while time.monotonic() < until:
        for pod in cluster.running():
            children = psutil.Process(pod.process.pid).children(recursive=True)
            if pod.index == 1 and any("_rank" in " ".join(child.cmdline()) for child in children):
                pod.process.kill()
                return
        time.sleep(0.2)


def test_worker_of_several_pods_is_an_indexed_job_that_a_dry_run_writes(cluster, tmp_path, tiny_llama, capfd):  # noqa: F811
    write_rows(tmp_path / "rows.jsonl")
    assert exit_code(["run", "--config", str(on_nodes(tmp_path, tiny_llama, cluster, "cluster")), "--dry-run"]) == 0
    files = {
        Path(line).stem.rpartition("-")[2]: Path(line) for line in capfd.readouterr().out.splitlines() if "/" in line
    }
    probe, worker = (yaml.safe_load(files[kind].read_text()) for kind in ("probe", "worker"))
    check(worker, "V1Job")
    spec = worker["spec"]
    assert (spec["completionMode"], spec["completions"], spec["parallelism"]) == ("Indexed", 2, 2)
    command = spec["template"]["spec"]["containers"][0]["command"]
    assert command[-6:] == ["--node", "$(JOB_COMPLETION_INDEX)", "--address", "$(POD_IP)", "--nodes", "2"]
    assert "completionMode" not in probe["spec"]
    with pytest.raises(Refused, match="completions"):
        check({**worker, "spec": {key: value for key, value in spec.items() if key != "completions"}}, "V1Job")
