"""A look at the machine and its packages: what is here, what is broken, how to fix it."""

import importlib.metadata
import platform
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement

from olivine import lazy
from olivine.data.forms import forms
from olivine.data.sources import sources
from olivine.data.strategies import strategies
from olivine.evaluate import metrics
from olivine.passes import passes
from olivine.paths import free_disk_bytes
from olivine.registry import Registry
from olivine.search import samplers
from olivine.systems import Probe, SystemParams, systems
from olivine.systems.local import Local
from olivine.workflow.plan import EXCLUDE_EACH_OTHER

RUNTIME = ("onnxruntime-genai", "onnxruntime-genai-cuda", "onnxruntime-genai-directml")
ENOUGH_MEMORY, ENOUGH_DISK = 4e9, 5e9  # what a model of some hundred million parameters asks for


@dataclass(frozen=True)
class Finding:
    """One thing looked at. fix: what to do when it is not ok."""

    name: str
    ok: bool
    message: str
    fix: str = ""


def diagnose(probe: Probe | None = None) -> list[Finding]:
    """Everything that decides whether a workflow can run here; imports no framework in this process.

    probe: what the machine has; without one, it is asked.
    """
    return [
        _python(),
        *_packages(),
        *_exclusive(),
        _runtime(),
        *_plugins(),
        *_machine(probe or Local(SystemParams()).probe()),
    ]


def _python() -> Finding:
    version = platform.python_version()
    fix = "Make the environment with Python 3.11 or newer."
    return Finding("python", sys.version_info >= (3, 11), f"{version} at {sys.executable}", fix)


def _packages() -> Iterator[Finding]:
    """Every package that olivine requires, against the range that it asks for."""
    try:
        texts = importlib.metadata.requires("olivine") or []
    except importlib.metadata.PackageNotFoundError:  # run from its source, without being installed
        fix = "Run: pip install 'olivine[cpu]' (or [gpu], [directml])"
        yield Finding("olivine", False, "not installed: the versions that it needs are not known", fix)
        return
    for text in texts:
        requirement = Requirement(text)
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        found = lazy.version(requirement.name)
        ok = found != "none" and requirement.specifier.contains(found, prereleases=True)
        wanted = f"{requirement.name}{requirement.specifier}"
        yield Finding(requirement.name, ok, f"{found}, wanted {requirement.specifier}", f"Run: pip install '{wanted}'")


def _exclusive() -> Iterator[Finding]:
    """Packages that bring the same modules and break each other when both are installed."""
    for group in EXCLUDE_EACH_OTHER:
        found = [name for name in group if lazy.version(name) != "none"]
        if len(found) > 1:
            fix = f"Run: pip uninstall -y {' '.join(found)}; pip install {found[0]}"
            yield Finding(group[0], False, f"{' and '.join(found)} are both installed and break each other", fix)


def _runtime() -> Finding:
    """The package that runs the result, and the execution providers that it finds."""
    found = [f"{name} {lazy.version(name)}" for name in RUNTIME if lazy.version(name) != "none"]
    fix = "Run: pip install 'olivine[cpu]' (or [gpu], [directml])"
    if not found:
        return Finding("runtime", False, "no onnxruntime-genai is installed: models cannot be built or run", fix)
    code = "import onnxruntime, onnxruntime_genai; print(', '.join(onnxruntime.get_available_providers()))"
    try:
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    except subprocess.TimeoutExpired:
        return Finding("runtime", False, f"{found[0]} does not load within two minutes", fix)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
        return Finding("runtime", False, f"{found[0]} does not load: {reason}", fix)
    return Finding("runtime", True, f"{found[0]}; execution providers: {done.stdout.strip()}")


def _plugins() -> Iterator[Finding]:
    """Plugins of other packages that are not served; the rest works without them."""
    kinds: Mapping[str, Registry[Any]] = {
        "pass": passes,
        "metric": metrics,
        "data form": forms,
        "data source": sources,
        "strategy": strategies,
        "sampler": samplers,
        "system": systems,
    }
    for kind, registry in kinds.items():
        for why in registry.broken.values():
            yield Finding(kind, False, why, "Install a version of its package that fits, or uninstall it.")


def _machine(probe: Probe) -> Iterator[Finding]:
    memory, disk = probe.memory_bytes, free_disk_bytes(Path.cwd())
    yield Finding("memory", memory >= ENOUGH_MEMORY, f"{memory / 1e9:.0f} GB", "Small models need 4 GB.")
    yield Finding(
        "disk", disk >= ENOUGH_DISK, f"{disk / 1e9:.0f} GB free here", "Free some space: 5 GB serve small models."
    )
    yield Finding("gpu", True, "NVIDIA GPU found" if probe.has_nvidia else "none: training and scoring use the CPU")
    yield Finding(
        "bfloat16",
        True,
        "computed by the processor" if probe.multiplies_bf16 else "not computed by the processor: float32",
    )
