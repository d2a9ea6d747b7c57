"""A worker that is killed at any moment of any pass: the re-run gives the bytes of an undisturbed one."""

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time

import psutil
import pytest

from held import Held
from olivine.config import load
from olivine.errors import StepFailed
from olivine.workflow.engine import run
from olivine.workflow.plan import make_plan
from tiny import write_rows

N_KILLS = 8
N_RUNS = 40  # of which at least so many are killed in time


def plan(folder, model):
    config = {
        "input_model": {"type": "HfModel", "model_path": str(model)},
        "data_configs": [
            {
                "name": "rows",
                "load_dataset_config": {"data_files": str(write_rows(folder.parent / "rows.jsonl"))},
                "pre_process_data_config": {"text_template": "{phrase}: {tone}", "strategy": "line-by-line"},
            }
        ],
        "passes": {
            "lora": {
                "type": "LoRA",
                "r": 4,
                "lora_dropout": 0.1,
                "train_data_config": "rows",
                "training_args": {"max_steps": 12, "save_steps": 2, "per_device_train_batch_size": 4},
            },
            "merge": {"type": "MergeAdapterWeights"},
            "builder": {"type": "ModelBuilder", "precision": "int4"},
        },
        "quality": {"enabled": False},
        "cache_dir": str(folder / "cache"),
        "output_dir": str(folder / "out"),
    }
    folder.mkdir(exist_ok=True)
    path = folder / "config.json"
    path.write_text(json.dumps(config))
    return make_plan(load(path))


def bytes_of(folder):
    """Every delivered file but the records of times and places."""
    files = [path for name in ("model", "adapter") for path in (folder / "out" / name).rglob("*")]
    return {path.name: path.read_bytes() for path in files if path.is_file() and not path.name.startswith(".")}


def workers():
    """The worker processes that this process has started; what ends while we look is none."""
    at_work = []
    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):  # a zombie too
            if "olivine.systems._worker" in " ".join(child.cmdline()):
                at_work.append(child)
    return at_work


def is_at_a_step(journal):
    return journal.exists() and '"step_started"' in journal.read_text()


def kill_workers_after(seconds, folder):
    """SIGKILL every worker of this process, so long after the first of them has begun on a step of the run there.

    The look at the rows comes before; what it lost is looked at again, and the run goes on.
    """
    journal = folder / "out" / "journal.jsonl"

    def kill():
        give_up = time.monotonic() + 60
        while not (is_at_a_step(journal) and workers()) and time.monotonic() < give_up:
            time.sleep(0.02)
        time.sleep(seconds)
        for child in workers():
            with contextlib.suppress(psutil.NoSuchProcess):
                child.kill()

    thread = threading.Thread(target=kill)
    thread.start()
    return thread


def failure_of(made):
    """How the run failed; None when it was done before it was killed."""
    try:
        run(made)
    except StepFailed as error:
        return error
    return None


@pytest.mark.slow
def test_killed_worker_is_named_and_the_next_run_gives_the_same_bytes(tiny_llama, tmp_path):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    started = time.monotonic()
    run(plan(whole, tiny_llama))
    latest = 0.7 * (time.monotonic() - started)
    generator, n_killed = random.Random(0), 0
    for _ in range(N_RUNS):
        if n_killed == N_KILLS:
            break
        thread = kill_workers_after(generator.uniform(0.1, latest), cut)
        error = failure_of(plan(cut, tiny_llama))
        thread.join()
        assert not list((cut / "cache" / "building").glob("*/content/manifest.json"))
        if error is None:  # it was faster than the kill: from the start again, with an earlier one
            assert bytes_of(cut) == bytes_of(whole)
            shutil.rmtree(cut)
            latest *= 0.7
            continue
        n_killed += 1
        assert error.step in ("prove", "lora", "merge", "builder")
        assert "killed" in error.cause
    assert n_killed == N_KILLS
    run(plan(cut, tiny_llama))
    assert bytes_of(cut) == bytes_of(whole)


@pytest.mark.skipif(os.name != "posix", reason="sends SIGINT")
def test_ctrl_c_ends_with_130_and_leaves_no_worker(tiny_llama, tmp_path, monkeypatch):
    made = plan(tmp_path / "a", tiny_llama)
    assert made.problems == ()
    held, children = Held(tmp_path / "held", "checkpoint-4"), []
    monkeypatch.setenv("PYTHONPATH", held.pythonpath)
    command = [sys.executable, "-m", "olivine", "run", "--config", tmp_path / "a" / "config.json"]
    process = psutil.Popen(command, stderr=subprocess.PIPE, text=True)

    def interrupt():
        children.extend(process.children(recursive=True))
        process.send_signal(signal.SIGINT)
        process.wait(300)

    held.then(interrupt)
    _, error = process.communicate(timeout=600)
    assert children
    assert process.returncode == 130, error
    assert "Traceback" not in error
    assert not [child for child in children if child.is_running() and child.status() != psutil.STATUS_ZOMBIE]
