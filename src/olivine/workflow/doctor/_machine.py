"""Processor, memory, disk and GPUs, as far as this process may use them."""

import os
import platform
import sys
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import psutil

from olivine import allowance
from olivine.paths import free_disk_bytes, hub_cache
from olivine.systems import Probe, driver_version, nvidia_gpus, processor_features
from olivine.workflow.doctor._finding import Finding
from olivine.workflow.units import readable_bytes

ENOUGH_MEMORY, ENOUGH_DISK = 4e9, 5e9  # what a model of some hundred million parameters asks for
_Found = partial(Finding, "machine")


def machine(probe: Probe, root: Path) -> Iterator[Finding]:
    """What the machine has, and what of it is too little for small models."""
    version = platform.python_version()
    is_new = sys.version_info >= (3, 11)
    yield _Found("python", is_new, f"{version} at {sys.executable}", "Make the environment with Python 3.11 or newer.")
    yield _Found("system", True, f"{platform.system()} {platform.release()}, {platform.machine()}")
    features = processor_features(root)
    yield _Found("processor", True, ", ".join(features) if features else "its features are not told by this system")
    yield _Found("cores", True, _cores(probe))
    yield _Found("memory", probe.memory_bytes >= ENOUGH_MEMORY, _memory(probe, root), "Small models need 4 GB.")
    yield from _disks()
    yield from _gpus(probe)
    how = "computed by the processor" if probe.multiplies_bf16 else "not computed by the processor: float32"
    yield _Found("bfloat16", True, how)


def _cores(probe: Probe) -> str:
    every = os.cpu_count() or probe.n_cores
    return f"{probe.n_cores}" if probe.n_cores == every else f"{probe.n_cores} of {every}: the others are not allowed"


def _memory(probe: Probe, root: Path) -> str:
    every = int(psutil.virtual_memory().total)
    limit = "" if probe.memory_bytes >= every else f" of {readable_bytes(every)}: more is not allowed"
    return f"{readable_bytes(probe.memory_bytes)}{limit}, {readable_bytes(allowance.available_bytes(root))} free now"


def _disks() -> Iterator[Finding]:
    """The folders that fill: this one, that of models from the hub, and that of temporary files."""
    fix = "Free some space: 5 GB serve small models."
    here = free_disk_bytes(Path.cwd())
    yield _Found("disk", here >= ENOUGH_DISK, f"{readable_bytes(here)} free here", fix)
    for what, folder in (("models of the hub", hub_cache()), ("temporary files", Path(tempfile.gettempdir()))):
        yield _Found("disk", True, f"{readable_bytes(free_disk_bytes(folder))} free for {what} ({folder})")


def _gpus(probe: Probe) -> Iterator[Finding]:
    if not probe.has_nvidia:
        yield _Found("gpu", True, "none: training and scoring use the CPU")
        return
    gpus, driver = nvidia_gpus(), driver_version()
    fix = "Install NVIDIA's driver, or make its nvidia-smi run."
    if not gpus or driver is None:
        yield _Found("gpu", False, "an NVIDIA GPU is here, and its driver gives no answer", fix)
        return
    for name, memory in gpus:
        yield _Found("gpu", True, f"{name}, {readable_bytes(memory)}, driver {driver}")
    if probe.n_gpus < len(gpus):
        yield _Found("gpu", True, f"CUDA_VISIBLE_DEVICES leaves {probe.n_gpus} of them")
