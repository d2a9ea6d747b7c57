"""The machine that a step would run on, by what its system has and the config asks for."""

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from olivine.config.schema import Accelerator, Workflow
from olivine.errors import Problem
from olivine.passes import passes
from olivine.paths import free_disk_bytes
from olivine.systems import CPU, CUDA, DML, PROVIDERS, Probe
from olivine.work import Machine
from olivine.workflow.accelerators import Wish, name_of, wish, wish_of

HERE = "this machine"
# Execution providers for which models are made where they are not, and the provider whose form of a graph they take:
# what a model is built in, and measured on. The first four have forms of their own.
FORMS = {
    CUDA: CUDA,
    DML: DML,
    "WebGpuExecutionProvider": "WebGpuExecutionProvider",
    "NvTensorRTRTXExecutionProvider": "NvTensorRTRTXExecutionProvider",
    "TensorrtExecutionProvider": CUDA,
    "MIGraphXExecutionProvider": CUDA,
    "ROCMExecutionProvider": CUDA,
    "JsExecutionProvider": CPU,
    "QNNExecutionProvider": CPU,
    "OpenVINOExecutionProvider": CPU,
    "VitisAIExecutionProvider": CPU,
    "CoreMLExecutionProvider": CPU,
    "DnnlExecutionProvider": CPU,
}


@dataclass(frozen=True)
class Choice:
    """Device and provider for a run, with what the user should know and what is wrong."""

    machine: Machine
    notes: tuple[str, ...] = ()
    problems: tuple[Problem, ...] = ()


def choose(
    workflow: Workflow,
    cache_dir: Path,
    where: str,
    probe: Probe,
    *,
    offline: bool,
    host: str | None = None,
    target: Probe | None = None,
    there: str = HERE,
    n_nodes: int = 1,
) -> Choice:
    """The machine as the config asks for it: `host`, which was probed, runs the passes, `target` runs the result.

    host: the name of the system, else the workflow's own. target: what that has, where it is another one. there: the
    host in words. n_nodes: that a worker of the host has.

    today's accelerators are a demand: what is not there is a problem of kind hardware. An old form's list of providers
    was a preference: what is not there is passed over, in words. Memory that an accelerator names is a limit.
    """
    own = wish_of(workflow, host if host is not None else name_of(workflow, "host"))
    wanted = wish(workflow, "target") or own
    is_target = workflow.target is not None and (host or workflow.host) != workflow.target
    on_target, at_target = target or probe, HERE if target else there
    provider, notes, problems = _provider(wanted, where, on_target, at_target, is_target=is_target)
    if not _runs_onnx(workflow):  # a training on the GPU needs no runtime for ONNX there
        problems = [problem for problem in problems if problem.kind != "missing-extra"]
    asked = own or (wanted if there == HERE else None)
    device, more_notes, more_problems = _device(
        asked, where, probe, there, is_target=is_target and (host or workflow.host) is None
    )
    if not problems:  # a target that is not here says the same
        problems = more_problems
    n_devices, device_notes, device_problems = _devices(asked, device, where, probe, there)
    notes += [*more_notes, *device_notes]
    problems = problems or device_problems
    limit = (asked.memory_bytes if asked else None) or 0
    on_gpu = probe.gpu_memory_bytes if device == "cuda" else 0
    machine = Machine(
        device=device,
        execution_provider=provider,
        memory_bytes=min(probe.memory_bytes, limit or sys.maxsize) if device == "cpu" else probe.memory_bytes,
        disk_bytes=free_disk_bytes(cache_dir) if probe.disk_bytes is None else probe.disk_bytes,
        n_cores=probe.n_cores,
        offline=offline,
        n_devices=n_devices,
        device_memory_bytes=min(on_gpu or limit, limit or on_gpu) if device == "cuda" else 0,
        multiplies_bf16=probe.multiplies_bf16,
        compute_capability=probe.compute_capability if device == "cuda" else 0.0,
        n_nodes=n_nodes,
        is_target_here=provider == CPU or provider in (target or probe).execution_providers,
    )
    return Choice(machine, tuple(notes), tuple(problems))


def _runs_onnx(workflow: Workflow) -> bool:
    """Whether a pass of the config makes or takes an ONNX model; one that is not known may."""
    plugins = [passes.find(config.type) for config in workflow.passes.values()]
    return any(plugin is None or plugin.produces == "onnx" or "onnx" in plugin.accepts for plugin in plugins)


def _device(
    host: Wish | None, where: str, probe: Probe, there: str, *, is_target: bool
) -> tuple[str, list[str], list[Problem]]:
    """Where the passes run: on the GPU when the host asks for it, or when nothing is asked for and one is here.

    is_target: what is asked for is for the result alone.
    """
    if host is not None and host.device != "gpu":
        return "cpu", [], []
    asked = host.accelerator if host is not None else None
    demanded = asked is not None and not asked.preference and not (is_target or _is_for_others(asked))
    if not probe.has_nvidia:
        return "cpu", [], list(_missing(CUDA, where, probe, there)) if demanded else []
    if probe.version("torch").endswith("+cpu"):
        sentence = f"{there} has an NVIDIA GPU, but the installed torch is built for the CPU"
        if demanded:
            fix = "Install torch as pytorch.org says for CUDA."
            return "cpu", [], [Problem("missing-extra", where, f"{sentence}.", fix)]
        return "cpu", [f"{sentence}, which is used"], []
    told = "no host is named" if there == HERE else "it names no accelerator"
    return "cuda", [f"{told}: the NVIDIA GPU of {there} is used"] if host is None else [], []


def _devices(
    host: Wish | None, device: str, where: str, probe: Probe, there: str
) -> tuple[int, list[str], list[Problem]]:
    """How many devices a pass that can use several of them gets: those asked for, which must be there."""
    wanted = host.accelerator.devices if host is not None else 1
    if wanted == 1:
        n_idle = probe.n_gpus - 1 if device == "cuda" else 0
        note = f"{n_idle} more NVIDIA GPUs are on {there}: fine-tuning uses them with 'devices' in its accelerator"
        return 1, [note] if n_idle > 0 else [], []
    n_there, kind = (probe.n_gpus, "NVIDIA GPUs") if device == "cuda" else (probe.n_cores, "cores")
    if n_there >= wanted:
        return wanted, [], []
    message = f"'devices' asks for {wanted}, but {there} has {n_there} {kind}."
    few = min(wanted, max(2, n_there))  # still several: what needs several is no second mistake
    return few, [], [Problem("hardware", where, message, f"Set it to {max(1, n_there)} at most.")]


def _provider(
    wanted: Wish | None, where: str, probe: Probe, there: str, *, is_target: bool
) -> tuple[str, list[str], list[Problem]]:
    """The execution provider of the result. The CPU is used where it is named first, or where nothing is demanded.

    is_target: only the result is to run there, and no pass.
    """
    names = list(wanted.accelerator.execution_providers) if wanted else []
    if wanted is None or (not names and wanted.device != "gpu"):
        return CPU, [], []
    names = names or [CUDA]
    if names[0] == CPU:
        return CPU, [], []
    other = [name for name in names if name != CPU]
    chosen = next((name for name in other if name in probe.execution_providers), None)
    is_made_for = names[0] in FORMS and not _may_be_here(names[0], probe) and (is_target or names[0] != CUDA)
    if chosen is not None:
        passed_over = other[: other.index(chosen)]
        return chosen, [f"{', '.join(passed_over)} is not on {there}: {chosen} is used"] if passed_over else [], []
    if wanted.accelerator.preference:
        note = f"{', '.join(names)} is not on {there}; the old form named it as a preference, so the CPU is used"
        return CPU, [note], []
    if is_made_for:
        return FORMS[names[0]], [_not_here(names[0], there)], []
    return names[0], [], list(_missing(names[0], where, probe, there))


def _is_for_others(accelerator: Accelerator) -> bool:
    """Whether the first provider is one of devices that no pass runs on: of any but NVIDIA's."""
    first = next(iter(accelerator.execution_providers), CUDA)
    return first in FORMS and first != CUDA


def _may_be_here(name: str, probe: Probe) -> bool:
    """Whether the hardware of a provider is there, and only its package is missing."""
    return probe.has_nvidia if name == CUDA else name == DML and probe.system == "nt"


def _not_here(name: str, there: str) -> str:
    """What a plan for a target that is not here leaves open."""
    form = FORMS[name]
    made = "for it" if form == name else f"in the form for {form}, which it takes"
    measured = "any but a graph of onnxruntime-genai is measured on the CPU" if form != CPU else "measured on the CPU"
    return f"'{name}' is not on {there}: the model is made {made}, and {measured}; that it runs there is not checked"


def _missing(name: str, where: str, probe: Probe, there: str) -> Iterator[Problem]:
    fix = "Run this on a machine that has it, or ask for CPUExecutionProvider."
    if name not in PROVIDERS:  # told where the config is read
        return
    if name == CUDA and not probe.has_nvidia:
        yield Problem("hardware", where, f"'{name}' is asked for, but {there} has no NVIDIA GPU.", fix)
    else:
        extra = PROVIDERS[name][1]
        install = f"Run: pip uninstall onnxruntime onnxruntime-genai; pip install 'olivine[{extra}]'."
        yield Problem("missing-extra", where, f"'{name}' is asked for, but its package is not installed.", install)
