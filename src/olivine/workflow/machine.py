"""The machine that a step would run on, found out without a framework."""

import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from olivine.config.schema import Workflow
from olivine.errors import Problem
from olivine.passes import passes
from olivine.paths import is_folder
from olivine.systems import Probe
from olivine.work import Machine
from olivine.workflow.accelerators import Wish, wish

CPU = "CPUExecutionProvider"
# execution provider -> distributions that bring it, and the extra to install
PROVIDERS = {
    CPU: (("onnxruntime", "onnxruntime-gpu", "onnxruntime-directml"), "cpu"),
    "CUDAExecutionProvider": (("onnxruntime-gpu",), "gpu"),
    "DmlExecutionProvider": (("onnxruntime-directml",), "directml"),
}


def free_disk_bytes(folder: Path) -> int:
    """Room on the disk where `folder` is or would be."""
    while not is_folder(folder) and folder.parent != folder:
        folder = folder.parent
    return shutil.disk_usage(folder).free


def provider_is_here(name: str, probe: Probe) -> bool:
    """Whether the provider's package and hardware are there."""
    if name not in PROVIDERS:
        return False
    installed = any(probe.version(package) != "none" for package in PROVIDERS[name][0])
    if name == "CUDAExecutionProvider":
        return installed and probe.has_nvidia
    return installed if name == CPU else installed and probe.system == "nt"


@dataclass(frozen=True)
class Choice:
    """Device and provider for a run, with what the user should know and what is wrong."""

    machine: Machine
    notes: tuple[str, ...] = ()
    problems: tuple[Problem, ...] = ()


def choose(workflow: Workflow, cache_dir: Path, where: str, probe: Probe, *, offline: bool) -> Choice:
    """The machine as the config asks for it: `host`, which was probed, runs the passes, `target` runs the result.

    today's accelerators are a demand: what is not here is a problem of kind hardware. An old form's list of providers
    was a preference: what is not here is passed over, in words. Memory that an accelerator names is a limit.
    """
    wanted = wish(workflow, "target") or wish(workflow, "host")
    provider, notes, problems = _provider(wanted, where, probe)
    if not _runs_onnx(workflow):  # a training on the GPU needs no runtime for ONNX there
        problems = [problem for problem in problems if problem.kind != "missing-extra"]
    if provider not in PROVIDERS:  # told once, by the problem
        provider = CPU
    host = wish(workflow, "host") or wanted
    device, more_notes, more_problems = _device(host, where, probe)
    if not problems:  # a target that is not here says the same
        problems = more_problems
    n_devices, device_notes, device_problems = _devices(host, device, where, probe)
    notes += [*more_notes, *device_notes]
    problems = problems or device_problems
    limit = (host.memory_bytes if host else None) or 0
    on_gpu = probe.gpu_memory_bytes if device == "cuda" else 0
    machine = Machine(
        device=device,
        execution_provider=provider,
        memory_bytes=min(probe.memory_bytes, limit or sys.maxsize) if device == "cpu" else probe.memory_bytes,
        disk_bytes=free_disk_bytes(cache_dir),
        n_cores=probe.n_cores,
        offline=offline,
        n_devices=n_devices,
        device_memory_bytes=min(on_gpu or limit, limit or on_gpu) if device == "cuda" else 0,
        multiplies_bf16=probe.multiplies_bf16,
    )
    return Choice(machine, tuple(notes), tuple(problems))


def _runs_onnx(workflow: Workflow) -> bool:
    """Whether a pass of the config makes or takes an ONNX model; one that is not known may."""
    plugins = [passes.find(config.type) for config in workflow.passes.values()]
    return any(plugin is None or plugin.produces == "onnx" or "onnx" in plugin.accepts for plugin in plugins)


def _device(host: Wish | None, where: str, probe: Probe) -> tuple[str, list[str], list[Problem]]:
    """Where the passes run: on the GPU when the host asks for it, or when nothing is asked for and one is here."""
    if host is not None and host.device != "gpu":
        return "cpu", [], []
    asked = host.accelerator if host is not None else None
    demanded = asked is not None and not asked.preference and "DmlExecutionProvider" not in asked.execution_providers
    if not probe.has_nvidia:
        return "cpu", [], list(_missing("CUDAExecutionProvider", where, probe)) if demanded else []
    if probe.version("torch").endswith("+cpu"):
        sentence = "this machine has an NVIDIA GPU, but the installed torch is built for the CPU"
        if demanded:
            fix = "Install torch as pytorch.org says for CUDA."
            return "cpu", [], [Problem("missing-extra", where, f"{sentence}.", fix)]
        return "cpu", [f"{sentence}, which is used"], []
    return "cuda", ["no host is named: the NVIDIA GPU of this machine is used"] if host is None else [], []


def _devices(host: Wish | None, device: str, where: str, probe: Probe) -> tuple[int, list[str], list[Problem]]:
    """How many devices a pass that can use several of them gets: those asked for, which must be there."""
    wanted = host.accelerator.devices if host is not None else 1
    if wanted == 1:
        n_idle = probe.n_gpus - 1 if device == "cuda" else 0
        note = f"{n_idle} more NVIDIA GPUs are on this machine: fine-tuning uses them with 'devices' in its accelerator"
        return 1, [note] if n_idle > 0 else [], []
    there, kind = (probe.n_gpus, "NVIDIA GPUs") if device == "cuda" else (probe.n_cores, "cores")
    if there >= wanted:
        return wanted, [], []
    message = f"'devices' asks for {wanted}, but this machine has {there} {kind}."
    few = min(wanted, max(2, there))  # still several: what needs several is no second mistake
    return few, [], [Problem("hardware", where, message, f"Set it to {max(1, there)} at most.")]


def _provider(wanted: Wish | None, where: str, probe: Probe) -> tuple[str, list[str], list[Problem]]:
    """The execution provider of the result. The CPU is used where it is named first, or where nothing is demanded."""
    names = list(wanted.accelerator.execution_providers) if wanted else []
    if wanted is None or (not names and wanted.device != "gpu"):
        return CPU, [], []
    names = names or ["CUDAExecutionProvider"]
    if names[0] == CPU:
        return CPU, [], []
    other = [name for name in names if name != CPU]
    here = next((name for name in other if provider_is_here(name, probe)), None)
    if here is not None:
        passed_over = other[: other.index(here)]
        return here, [f"{', '.join(passed_over)} is not on this machine: {here} is used"] if passed_over else [], []
    if wanted.accelerator.preference:
        note = f"{', '.join(names)} is not on this machine; the old form named it as a preference, so the CPU is used"
        return CPU, [note], []
    return names[0], [], list(_missing(names[0], where, probe))


def _missing(name: str, where: str, probe: Probe) -> Iterator[Problem]:
    fix = "Run this on a machine that has it, or ask for CPUExecutionProvider."
    if name not in PROVIDERS:
        yield Problem("unsupported", where, f"the execution provider '{name}' is not served.", fix)
        return
    if name == "CUDAExecutionProvider" and not probe.has_nvidia:
        yield Problem("hardware", where, f"'{name}' is asked for, but this machine has no NVIDIA GPU.", fix)
    elif name == "DmlExecutionProvider" and probe.system != "nt":
        yield Problem("hardware", where, f"'{name}' is asked for, but DirectML is on Windows only.", fix)
    else:
        extra = PROVIDERS[name][1]
        install = f"Run: pip uninstall onnxruntime onnxruntime-genai; pip install 'olivine[{extra}]'."
        yield Problem("missing-extra", where, f"'{name}' is asked for, but its package is not installed.", install)
