"""Packages with their versions, and plugins of others."""

import importlib.metadata
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

from packaging.requirements import Requirement

from olivine import lazy
from olivine.data.forms import forms
from olivine.data.sources import sources
from olivine.data.strategies import strategies
from olivine.evaluate import metrics
from olivine.passes import passes
from olivine.registry import Registry
from olivine.search.samplers import samplers
from olivine.systems import Probe, systems
from olivine.workflow.conflicts import conflicts
from olivine.workflow.doctor._finding import Finding

_INSTALL = "Run: pip install 'olivine[cpu]' (or [gpu], [directml])"
_Found = partial(Finding, "packages")


def packages(probe: Probe) -> Iterator[Finding]:
    """Every package that olivine asks for, those of extras where they are here, against the tested range."""
    try:
        texts = importlib.metadata.requires("olivine") or []
    except importlib.metadata.PackageNotFoundError:  # run from its source, without being installed
        yield _Found("olivine", False, "not installed: the versions that it needs are not known", _INSTALL)
        return
    every = [one for one in map(Requirement, texts) if not _is_for_developers(one)]
    needed = {one.name: one for one in every if one.marker is None or one.marker.evaluate({"extra": ""})}
    extra = {one.name: one for one in every if one.name not in needed and lazy.version(one.name) != "none"}
    for one in (*needed.values(), *extra.values()):
        yield _package(one)
    yield from _torch(probe)
    for conflict in conflicts(lazy.version, has_nvidia=probe.has_nvidia):
        yield _Found(conflict.names[0], False, conflict.message(), conflict.fix)


def _is_for_developers(one: Requirement) -> bool:
    return one.marker is not None and one.marker.evaluate({"extra": "dev"}) != one.marker.evaluate({"extra": ""})


def _package(one: Requirement) -> Finding:
    version = lazy.version(one.name)
    is_tested = version != "none" and one.specifier.contains(version, prereleases=True)
    tested = f"tested with {one.specifier}" if one.specifier else "any version"
    return _Found(one.name, is_tested, f"{version}, {tested}", f"Run: pip install '{one.name}{one.specifier}'")


def _torch(probe: Probe) -> Iterator[Finding]:
    """PyTorch's CPU build on a machine with a GPU, which nobody wants."""
    version = lazy.version("torch")
    if probe.has_nvidia and version.endswith("+cpu"):
        fix = "Uninstall it, and install the CUDA build as PyTorch's install page says."
        yield _Found("torch", False, f"{version} is the CPU build: it does not see the GPU", fix)


def plugins() -> Iterator[Finding]:
    """Plugins of other packages: those that are served, and why others are not."""
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
        for name, plugin in registry.classes.items():
            if name not in registry.own:
                yield Finding("plugins", kind, True, f"'{name}' of {plugin.__module__.partition('.')[0]}")
        for why in registry.broken.values():
            yield Finding("plugins", kind, False, why, "Install a version of its package that fits, or uninstall it.")
