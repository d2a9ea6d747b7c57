"""LoRA on two processes of the CPU: the same curve and adapter as on one, and nothing is left when it ends."""

import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from safetensors.torch import load_file
from test_lora import MACHINE, Lora, context, params

from held import Held
from olivine import lazy
from olivine.errors import OlivineError, RequestError
from olivine.models import Model
from olivine.models.inspect import read_facts
from olivine.passes.finetune import _launch
from reports import Told

TWO = replace(MACHINE, n_devices=2)
SETTINGS = {"max_steps": 6, "per_device_train_batch_size": 5, "save_steps": 2, "learning_rate": 1e-2}


def train(model, folder, name, machine=TWO, **changes):
    where = replace(context(folder, name), machine=machine)
    changes = {"training_args": SETTINGS, "eval_dataset_size": 4} | changes
    return Lora(params(**changes)).run(Model("hf", model), where), where.report


def assert_alike(found, expected):
    """Two adapters, to the rounding of float32."""
    found, expected = (load_file(model.path / "adapter_model.safetensors") for model in (found, expected))
    assert found.keys() == expected.keys()
    for name, tensor in found.items():
        assert (tensor - expected[name]).abs().max() < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("sharding", ["none", "fsdp"])
def test_two_processes_train_as_one_does(tiny_llama, tmp_path, sharding):
    arguments = SETTINGS | {"eval_strategy": "steps", "eval_steps": 2}
    one, alone = train(tiny_llama, tmp_path, "one", MACHINE, training_args=arguments)
    two, report = train(tiny_llama, tmp_path, "two", sharding=sharding, training_args=arguments)
    for curve in ("loss_curve", "eval_curve"):
        expected, found = alone.facts[curve], report.facts[curve]
        assert [step for step, _ in found] == [step for step, _ in expected]
        assert [loss for _, loss in found] == pytest.approx([loss for _, loss in expected], abs=1e-5)
    assert_alike(two, one)
    assert (two.path / "adapter_config.json").read_bytes() == (one.path / "adapter_config.json").read_bytes()
    assert {path.name for path in two.path.iterdir()} == {path.name for path in one.path.iterdir()}
    assert [device["peak_memory_bytes"] > 0 for device in report.facts["devices"]] == [True, True]
    assert report.facts["samples"] == alone.facts["samples"]
    assert report.steps[-1] == 6


LONG = SETTINGS | {"max_steps": 12, "learning_rate": 1e-3}
WORKER = """
import sys
from pathlib import Path
sys.path[:0] = {path!r}
from test_several_devices import LONG, train
train(Path({model!r}), Path({folder!r}), "cut", training_args=LONG)
"""


def is_there(process):
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE


def wait_for(what, seconds=120):
    give_up = time.monotonic() + seconds
    while not what() and time.monotonic() < give_up:
        time.sleep(0.02)


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="sends SIGKILL")
def test_killed_worker_leaves_no_rank_and_its_checkpoint_serves_a_sharded_base(tiny_llama, tmp_path, monkeypatch):
    whole, _ = train(tiny_llama, tmp_path, "whole", MACHINE, training_args=LONG)
    here = Path(__file__).parent
    script = WORKER.format(path=[str(here), str(here.parent)], model=str(tiny_llama), folder=str(tmp_path))
    held, started = Held(tmp_path / "held", "checkpoint-6"), []
    monkeypatch.setenv("PYTHONPATH", held.pythonpath)
    worker = psutil.Popen([sys.executable, "-c", script], stdout=subprocess.DEVNULL)

    def kill():
        started.extend(worker.children(recursive=True))
        worker.kill()
        worker.wait()

    held.then(kill).join()
    assert len(started) == 3  # the launcher and two ranks
    wait_for(lambda: not any(map(is_there, started)), 30)
    assert not list(filter(is_there, started))
    resumed, report = train(tiny_llama, tmp_path, "cut", sharding="fsdp", training_args=LONG)
    assert min(report.steps) > 4
    assert report.steps[-1] == 12
    assert_alike(resumed, whole)


@pytest.mark.slow
def test_request_that_every_rank_refuses_is_one_sentence(tiny_llama, tmp_path):
    with pytest.raises(RequestError) as caught:
        train(tiny_llama, tmp_path, "a", target_modules=["q_prj"])
    assert "q_prj" in str(caught.value)
    assert "device" not in str(caught.value)


class Ended:
    """Ranks that have ended, as their files say."""

    def __init__(self, folder, n_ranks=2):
        self.folder, self.report = folder, Told()
        self.ranks = _launch._Ranks(folder, replace(MACHINE, n_devices=n_ranks), None, self.report)

    def say(self, rank, *events):
        with (self.folder / f"rank-{rank}.jsonl").open("a") as file:
            file.write("".join(json.dumps(event) + "\n" for event in events))
        self.ranks.listen()

    def fail(self, rank, message, time, exit_code=1):
        self.say(
            rank,
            {"event": "failed", "error": {"message": message, "time": time, "exit_code": exit_code, "is_lost": False}},
        )

    def ended(self, **codes):
        (self.folder / "ended.json").write_text(json.dumps({rank[1:]: code for rank, code in codes.items()}))


def test_first_failure_is_the_cause(tmp_path):
    told = Ended(tmp_path)
    told.fail(0, "the connection was lost", time=2.0)
    told.fail(1, "the loss became nan", time=1.0)
    told.ended(r0=-15, r1=1)
    failure = told.ranks.failure(1)
    assert str(failure) == "the loss became nan (device 2 of 2)"
    assert type(failure) is OlivineError


def test_rank_that_was_killed_is_the_cause_of_lost_connections(tmp_path):
    told = Ended(tmp_path)
    told.fail(0, "the connection was lost", time=2.0)
    told.ended(r0=1, r1=-9)
    assert str(told.ranks.failure(1)).startswith("the process of device 2 of 2 was killed (SIGKILL)")


def test_same_refusal_of_all_ranks_names_no_device(tmp_path):
    told = Ended(tmp_path)
    told.fail(1, "no module", 1.0, exit_code=2)
    told.fail(0, "no module", 2.0, exit_code=2)
    failure = told.ranks.failure(1)
    assert (str(failure), type(failure)) == ("no module", RequestError)


def test_launcher_that_ended_by_itself_is_named(tmp_path):
    assert str(Ended(tmp_path).ranks.failure(-11)) == "the launcher of the 2 processes crashed (SIGSEGV)"


def test_progress_comes_from_the_first_rank_and_each_warning_once(tmp_path):
    told = Ended(tmp_path)
    for rank in (1, 0):
        told.say(
            rank,
            {"event": "progress", "done": rank + 1, "total": 9, "metrics": {}},
            {"event": "warning", "message": "truncated"},
        )
    told.say(1, {"event": "warning", "message": "memory ran out"})
    assert told.report.steps == [1]
    assert told.report.warnings == ["truncated", "memory ran out"]


def test_half_a_line_is_heard_when_it_is_whole(tmp_path):
    told = Ended(tmp_path)
    line = json.dumps({"event": "warning", "message": "late"}) + "\n"
    for part in (line[:9], line[9:]):
        with (tmp_path / "rank-0.jsonl").open("a") as file:
            file.write(part)
        told.ranks.listen()
    assert told.report.warnings == ["late"]


def test_sharding_on_one_device_is_refused(tiny_llama):
    (problem,) = Lora(params(sharding="fsdp")).check(read_facts(tiny_llama), MACHINE, {})
    assert problem.kind == "invalid-value"
    assert not list(Lora(params(sharding="fsdp")).check(read_facts(tiny_llama), TWO, {}))


def test_sharding_with_an_old_torch_is_refused(tiny_llama, monkeypatch):
    monkeypatch.setattr(lazy, "version", lambda name: "2.6.1+cpu")
    (problem,) = Lora(params(sharding="fsdp")).check(read_facts(tiny_llama), TWO, {})
    assert (problem.kind, problem.fix) == ("missing-extra", "Run: pip install 'torch>=2.7'.")


@pytest.mark.parametrize(
    ("changes", "key"),
    [({"bias": "all"}, "bias"), ({"modules_to_save": ["lm_head", "input_layernorm"]}, "modules_to_save")],
)
def test_trained_parts_of_sharded_layers_are_refused(tiny_llama, changes, key):
    (problem,) = Lora(params(sharding="fsdp", **changes)).check(read_facts(tiny_llama), TWO, {})
    assert problem.kind == "unsupported"
    assert f"'{key}'" in problem.message
    assert not list(Lora(params(sharding="fsdp", modules_to_save=["lm_head"])).check(read_facts(tiny_llama), TWO, {}))


def test_estimate_is_per_device_for_a_gpu_and_of_all_processes_for_the_machine(tiny_llama):
    facts = read_facts(tiny_llama)
    gpu = replace(MACHINE, device="cuda")

    def estimate(machine, **changes):
        return Lora(params(**changes)).estimate(facts, machine, {})

    assert estimate(replace(gpu, n_devices=2)).device_memory_bytes < estimate(gpu).device_memory_bytes
    sharded = estimate(replace(gpu, n_devices=2), sharding="fsdp")  # whose layers are not fused
    whole = estimate(replace(gpu, n_devices=2), compile=False)
    assert sharded.device_memory_bytes < whole.device_memory_bytes
    assert estimate(TWO).memory_bytes > 2 * estimate(MACHINE).memory_bytes
