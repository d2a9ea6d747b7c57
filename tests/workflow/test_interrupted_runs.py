"""Runs that are killed, stopped, doubled or out of room."""

import json
import os
import random
import signal
import threading
import time

import psutil
import pytest

from olivine.errors import StepFailed
from olivine.workflow.engine import run
from olivine.workflow.journal import read_journal


def _wait_for(condition, what):
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, f"waited a minute for {what}"
        time.sleep(0.01)


def _worker(but=()):
    """A worker of this process that is none of those."""
    for child in psutil.Process().children():
        try:
            if child.pid not in but and "olivine.systems._worker" in child.cmdline():
                return child
        except psutil.Error:
            continue
    return None


def _is_killed(worker):
    if worker is not None:
        worker.kill()
    return worker is not None


def _kill_worker(begun, n_begun, seconds):
    """Kill the next worker some time after it has begun the step for the n-th time; with no time, as soon as it is there."""
    earlier = {child.pid for child in psutil.Process().children()}  # one that was killed may still be seen

    def kill():
        if seconds:
            _wait_for(lambda: begun.exists() and len(begun.read_text().splitlines()) >= n_begun, "the step")
            time.sleep(seconds)
        _wait_for(lambda: _is_killed(_worker(earlier)), "a worker")

    thread = threading.Thread(target=kill, daemon=True)
    thread.start()
    return thread


def _content(plan):
    return {path.name: path.read_bytes() for path in (plan.cache_dir / "steps").glob("*/content/*")}


def _unfinished(plan):
    return list((plan.cache_dir / "building").iterdir()) + list(plan.output_dir.glob("*.partial"))


@pytest.mark.slow
def test_worker_killed_at_twenty_random_moments_then_same_bytes(fakes, tmp_path):
    """Every run goes on from where the one before was killed."""
    begun, over, moments = tmp_path / "begun", tmp_path / "over", random.Random(0)
    params = {"n_files": 100, "pause_seconds": 0.02, "counter": str(begun), "until": str(over)}
    plan = fakes.plan(tmp_path, ("slow", "write", params))
    for _ in range(20):
        n_begun = len(begun.read_text().splitlines()) if begun.exists() else 0
        killer = _kill_worker(begun, n_begun + 1, max(0.0, moments.uniform(-0.04, 0.2)))
        with pytest.raises(StepFailed, match="step 'slow' failed: its worker was killed"):
            run(plan)
        killer.join()
        assert not _content(plan)
        assert not _unfinished(plan)
    over.touch()
    result = run(plan)
    assert result.steps[0]["facts"]["n_resumed"] > 0
    assert set(_content(plan).values()) == {b"a" * 1000, b"{}"}
    assert len(_content(plan)) == 101
    assert not list((plan.cache_dir / "scratch").iterdir())


def test_run_killed_at_random_moments_then_same_bytes(start, tmp_path):
    moments = random.Random(0)
    steps = json.dumps([[name, "write", {"text": name, "pause_seconds": 0.1}] for name in "ab"])
    for _ in range(5):
        process = start(tmp_path, "out", steps)
        time.sleep(moments.uniform(0.2, 2.0))
        process.kill()
        process.communicate()
    last = start(tmp_path, "out", steps)
    _, errors = last.communicate(timeout=300)
    assert last.returncode == 0, errors
    assert sorted(path.name for path in (tmp_path / "out").iterdir() if not path.name.startswith(".")) == [
        "journal.jsonl",
        "logs",
        "model",
        "workflow.json",
    ]
    assert (tmp_path / "out" / "model" / "part1.safetensors").read_bytes() == b"b" * 1000
    assert not list((tmp_path / "cache" / "building").iterdir())
    assert len(list((tmp_path / "cache" / "steps").iterdir())) == 3  # both steps, and what the files of the last hold


def test_ctrl_c_ends_the_worker_and_the_next_run_goes_on(start, tmp_path):
    pid_file = tmp_path / "pid"
    steps = [
        ["good", "write", {}],
        ["hanging", "fail", {"how": "hang", "pid_file": str(pid_file), "once": str(tmp_path / "once")}],
    ]
    process = start(tmp_path, "out", json.dumps(steps))
    _wait_for(pid_file.exists, "the step")
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 130
    assert "interrupted in step 'hanging'" in errors
    assert "Traceback" not in errors
    assert not psutil.pid_exists(int(pid_file.read_text()))
    assert read_journal(tmp_path / "out")[-1].kind == "run_interrupted"
    again = start(tmp_path, "out", json.dumps(steps))
    output, _ = again.communicate(timeout=300)
    assert again.returncode == 0
    steps = json.loads(output.splitlines()[-1])["steps"]
    assert [step["cached"] for step in steps] == [True, False]


def test_worker_ends_when_its_parent_is_killed(start, tmp_path):
    pid_file = tmp_path / "pid"
    steps = [["hanging", "fail", {"how": "hang", "pid_file": str(pid_file), "once": str(tmp_path / "once")}]]
    process = start(tmp_path, "out", json.dumps(steps))
    _wait_for(pid_file.exists, "the step")
    process.kill()
    process.communicate()
    worker = int(pid_file.read_text())
    _wait_for(lambda: not psutil.pid_exists(worker) or psutil.Process(worker).status() == "zombie", "the worker's end")
    assert list((tmp_path / "cache" / "building").iterdir())
    again = start(tmp_path, "out", json.dumps(steps))
    assert again.wait(timeout=300) == 0
    assert not list((tmp_path / "cache" / "building").iterdir())


def test_two_runs_at_once_do_each_step_once(start, tmp_path):
    counter, seen = tmp_path / "counter", tmp_path / "seen"
    params = {"counter": str(counter), "until": str(seen)}
    steps = [[f"step{n}", "write", {"text": str(n), **params}] for n in range(3)]
    runs = [start(tmp_path, "out0", json.dumps(steps))]
    _wait_for(counter.exists, "the first step")
    runs.append(start(tmp_path, "out1", json.dumps(steps)))
    for line in runs[1].stdout:
        if "another run is at work on 'step0'" in line:
            break
    seen.touch()
    outputs = [process.communicate(timeout=300) for process in runs]
    assert [process.returncode for process in runs] == [0, 0], outputs
    assert len(counter.read_text().splitlines()) == 3
    models = [(tmp_path / f"out{n}" / "model" / "part0.safetensors").read_bytes() for n in range(2)]
    assert models[0] == models[1]


def test_two_runs_into_one_folder_leave_one_whole_model(start, tmp_path):
    runs = [start(tmp_path, "out", json.dumps([["step", "write", {"text": text}]])) for text in "ab"]
    outputs = [process.communicate(timeout=300) for process in runs]
    assert [process.returncode for process in runs] == [0, 0], outputs
    parts = [(tmp_path / "out" / "model" / f"part{n}.safetensors").read_bytes() for n in range(2)]
    assert parts[0] == parts[1]
    ends = [event.kind for event in read_journal(tmp_path / "out") if event.kind.startswith("run_")]
    assert sorted(ends) == ["run_done", "run_done", "run_started", "run_started"]


@pytest.mark.skipif(os.name != "posix", reason="needs a limit on the size of files")
def test_full_disk_in_the_middle_of_a_save_is_named_and_leaves_nothing(start, tmp_path):
    steps = json.dumps([["good", "write", {}], ["large", "fail", {"how": "full"}]])
    process = start(tmp_path, "out", steps, 1_000_000)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 1
    assert "step 'large' failed: the disk is full" in errors
    assert not list((tmp_path / "cache" / "building").iterdir())
    assert len(list((tmp_path / "cache" / "steps").iterdir())) == 1
    assert start(tmp_path, "out", steps).wait(timeout=300) == 0


def test_run_of_its_own_process_imports_nothing_heavy(start, tmp_path):
    """`fake_plans.main` asserts that no torch, numpy, ... was imported."""
    process = start(tmp_path, "out", json.dumps([["good", "write", {}]]))
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
