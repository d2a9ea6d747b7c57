"""How many devices a config asks for, and how many are there."""

import pytest

from olivine.config.schema import Accelerator, System, Workflow
from olivine.systems import Probe
from olivine.workflow.machine import choose


@pytest.fixture
def asked(tmp_path):
    """What is chosen for a host with that many devices, on a machine with two cores and that many GPUs."""

    def ask(device, n_there=0, **accelerator):
        here = System(accelerators=[Accelerator(device=device, **accelerator)])
        target = System(accelerators=[Accelerator()])
        model = {"type": "HfModel", "model_path": "model"}
        systems = {"here": here, "there": target}
        workflow = Workflow(input_model=model, passes={}, systems=systems, host="here", target="there")
        probe = Probe(2**34, 2, has_nvidia=n_there > 0, n_gpus=n_there, versions={"torch": "2.13.0"})
        return choose(workflow, tmp_path, "config.json:7", probe, offline=False)

    return ask


def test_gpus_that_are_there_are_used(asked):
    choice = asked("gpu", 4, devices=4)
    assert (choice.machine.device, choice.machine.n_devices, choice.problems) == ("cuda", 4, ())


def test_gpus_that_are_not_there_are_a_problem_of_the_hardware(asked):
    (problem,) = asked("gpu", 2, devices=4).problems
    assert (problem.kind, problem.where) == ("hardware", "config.json:7")
    assert str(problem).endswith("'devices' asks for 4, but this machine has 2 NVIDIA GPUs. Set it to 2 at most.")


def test_processes_share_the_cores_of_the_cpu(asked):
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
