"""How many devices a config asks for, and how many are there."""

import subprocess
from pathlib import Path

import pytest

from olivine import lazy
from olivine.config.schema import Accelerator, System, Workflow
from olivine.workflow import _machine


@pytest.fixture
def asked(tmp_path, monkeypatch):
    """What is chosen for a host with that many devices, on a machine with that many GPUs."""

    def ask(device, n_there=0, **accelerator):
        real = lazy.version
        monkeypatch.setattr(lazy, "version", lambda name: "2.13.0" if name == "torch" else real(name))
        monkeypatch.setattr(_machine, "has_nvidia", lambda: n_there > 0)
        monkeypatch.setattr(_machine, "n_nvidia", lambda: n_there)
        here = System(accelerators=[Accelerator(device=device, **accelerator)])
        target = System(accelerators=[Accelerator()])
        model = {"type": "HfModel", "model_path": "model"}
        systems = {"here": here, "there": target}
        workflow = Workflow(input_model=model, passes={}, systems=systems, host="here", target="there")
        return _machine.choose(workflow, tmp_path, "config.json:7", offline=False)

    return ask


def test_gpus_that_are_there_are_used(asked):
    choice = asked("gpu", 4, devices=4)
    assert (choice.machine.device, choice.machine.n_devices, choice.problems) == ("cuda", 4, ())


def test_gpus_that_are_not_there_are_a_problem_of_the_hardware(asked):
    (problem,) = asked("gpu", 2, devices=4).problems
    assert (problem.kind, problem.where) == ("hardware", "config.json:7")
    assert str(problem).endswith("'devices' asks for 4, but this machine has 2 NVIDIA GPUs. Set it to 2 at most.")


def test_processes_share_the_cores_of_the_cpu(asked, monkeypatch):
    monkeypatch.setattr(_machine, "n_cores", lambda: 2)
    assert asked("cpu", devices=2).machine.n_devices == 2
    (problem,) = asked("cpu", devices=3).problems
    assert "3, but this machine has 2 cores" in problem.message


def test_one_of_several_gpus_comes_with_a_note(asked):
    choice = asked("gpu", 4)
    assert choice.machine.n_devices == 1
    assert choice.notes == (
        "3 more NVIDIA GPUs are on this machine: fine-tuning uses them with 'devices' in its accelerator",
    )
    assert asked("gpu", 1).notes == ()


def test_visible_gpus_are_counted(monkeypatch):
    for text, n_visible in (("0,1,2", 3), ("", 0), ("-1", 0), ("GPU-8932f937", 1)):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", text)
        assert _machine.n_nvidia() == n_visible


def test_gpus_are_counted_by_the_tool_of_the_driver(monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(Path, "is_dir", lambda path: False)
    monkeypatch.setattr(_machine.shutil, "which", lambda name: "/usr/bin/nvidia-smi")
    told = "GPU 0: NVIDIA H100 (UUID: GPU-1)\nGPU 1: NVIDIA H100 (UUID: GPU-2)\n"
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: subprocess.CompletedProcess([], 0, told, ""))
    assert _machine.n_nvidia() == 2
    monkeypatch.setattr(_machine.shutil, "which", lambda name: None)
    assert _machine.n_nvidia() == 0
