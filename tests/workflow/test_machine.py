"""The machine is found out without a framework, and what the config asks of it is a demand or a preference."""

from pathlib import Path

import pytest

from olivine.config.schema import Accelerator, System, Workflow
from olivine.paths import free_disk_bytes, is_folder
from olivine.systems import Probe
from olivine.workflow.machine import CPU, choose

CUDA, DIRECTML = "CUDAExecutionProvider", "DmlExecutionProvider"


PLAIN = {"torch": "2.13.0+cpu", "onnxruntime": "1.32.0"}


def machine_with(*, nvidia=False, **packages):
    """What a system tells of itself: an NVIDIA GPU or none, and the versions of some packages."""
    versions = PLAIN | {name.replace("_", "-"): version for name, version in packages.items()}
    return Probe(2**34, 2, has_nvidia=nvidia, n_gpus=int(nvidia), system="posix", versions=versions)


@pytest.fixture
def asked(tmp_path):
    """What is chosen on a machine for systems by name, each with one accelerator."""

    def ask(probe=None, host=None, target=None, step="ModelBuilder", **systems):
        system = {
            name: System(accelerators=[Accelerator(**accelerator)] if accelerator else [])
            for name, accelerator in systems.items()
        }
        model = {"type": "HfModel", "model_path": "model"}
        workflow = Workflow(
            input_model=model, passes={"step": {"type": step}}, systems=system, host=host, target=target
        )
        return choose(workflow, tmp_path / "cache", "config.json:7", probe or machine_with(), offline=False)

    return ask


def test_nothing_asked_for_is_the_cpu_of_a_machine_without_gpu(asked):
    choice = asked()
    assert (choice.machine.device, choice.machine.execution_provider) == ("cpu", CPU)
    assert (choice.notes, choice.problems) == ((), ())
    assert choice.machine.n_cores > 0


def test_gpu_that_serves_everything_is_used(asked):
    choice = asked(
        machine_with(nvidia=True, torch="2.13.0", onnxruntime_gpu="1.32.0"),
        target="here",
        here={"device": "gpu", "execution_providers": [CUDA]},
    )
    assert (choice.machine.device, choice.machine.execution_provider) == ("cuda", CUDA)
    assert choice.problems == ()


def test_cpu_that_is_asked_for_is_used_beside_a_gpu(asked):
    choice = asked(machine_with(nvidia=True, torch="2.13.0", onnxruntime_gpu="1.32.0"), here={"device": "cpu"})
    assert (choice.machine.device, choice.machine.execution_provider) == ("cpu", CPU)
    assert choice.notes == ()


def test_only_system_needs_not_be_named_as_target(asked):
    (problem,) = asked(here={"device": "gpu", "execution_providers": [CUDA]}).problems
    assert (problem.kind, problem.where) == ("hardware", "config.json:7")


def test_of_two_systems_none_is_taken_unless_named(asked):
    assert asked(one={"device": "gpu"}, two={"device": "cpu"}).problems == ()


def test_system_without_accelerators_asks_for_nothing(asked):
    assert asked(target="here", here=None).problems == ()


def test_gpu_without_providers_means_cuda(asked):
    (problem,) = asked(here={"device": "gpu"}).problems
    assert CUDA in problem.message


def test_gpu_whose_runtime_is_not_installed_says_how_to_get_it(asked):
    (problem,) = asked(
        machine_with(nvidia=True, torch="2.13.0", onnxruntime_gpu="none"),
        here={"device": "gpu", "execution_providers": [CUDA]},
    ).problems
    assert problem.kind == "missing-extra"
    assert "pip install 'olivine[gpu]'" in problem.fix


def test_training_alone_on_a_gpu_needs_no_runtime_there(asked):
    choice = asked(
        machine_with(nvidia=True, torch="2.13.0", onnxruntime_gpu="none"), step="LoRA", here={"device": "gpu"}
    )
    assert choice.machine.device == "cuda"
    assert choice.problems == ()


def test_model_for_directml_is_made_where_it_does_not_run(asked):
    choice = asked(here={"device": "gpu", "execution_providers": [DIRECTML]})
    assert choice.problems == ()
    assert (choice.machine.device, choice.machine.execution_provider) == ("cpu", DIRECTML)
    assert not choice.machine.is_target_here


def test_preference_takes_the_first_provider_that_is_here(asked):
    choice = asked(here={"device": "gpu", "execution_providers": [CUDA, CPU], "preference": True})
    assert choice.machine.execution_provider == CPU
    assert choice.problems == ()


def test_preference_for_what_is_not_here_is_said_in_a_sentence(asked):
    choice = asked(here={"device": "gpu", "execution_providers": [CUDA], "preference": True})
    assert (choice.machine.device, choice.machine.execution_provider) == ("cpu", CPU)
    assert any("so the CPU is used" in note for note in choice.notes)


@pytest.mark.parametrize(
    ("name", "form"),
    [
        ("QNNExecutionProvider", CPU),
        ("OpenVINOExecutionProvider", CPU),
        ("WebGpuExecutionProvider", "WebGpuExecutionProvider"),
        ("NvTensorRTRTXExecutionProvider", "NvTensorRTRTXExecutionProvider"),
        ("TensorrtExecutionProvider", CUDA),
        ("MIGraphXExecutionProvider", CUDA),
    ],
)
def test_plan_for_a_provider_that_is_nowhere_here_says_what_is_not_checked(asked, name, form):
    choice = asked(here={"execution_providers": [name]})
    assert choice.problems == ()
    assert (choice.machine.device, choice.machine.execution_provider) == ("cpu", form)
    assert choice.machine.is_target_here is (form == CPU)
    (note,) = choice.notes
    assert note.startswith(f"'{name}' is not on this machine: ")
    assert note.endswith("that it runs there is not checked")


def test_gpu_that_only_the_result_is_for_needs_not_be_here(asked):
    gpu = {"device": "gpu", "execution_providers": [CUDA]}
    choice = asked(host="cpu", target="gpu", cpu={"device": "cpu"}, gpu=gpu)
    assert choice.problems == ()
    assert (choice.machine.device, choice.machine.execution_provider) == ("cpu", CUDA)
    (problem,) = asked(host="gpu", target="gpu", gpu=gpu).problems
    assert problem.kind == "hardware"


def test_providers_of_another_make_are_not_here():
    assert machine_with().execution_providers == (CPU,)


def test_disk_of_a_folder_to_come_is_that_of_its_nearest_parent(tmp_path):
    free = free_disk_bytes(tmp_path / "not" / "there" / "yet")
    assert free == pytest.approx(free_disk_bytes(tmp_path), rel=0.2)
    (tmp_path / "file").write_text("")
    assert free_disk_bytes(tmp_path / "file" / "below") > 0


@pytest.mark.parametrize("name", ["x" * 5000, "a\0b"])
def test_name_that_no_file_system_takes_is_no_folder(name):
    assert not is_folder(Path(name))
