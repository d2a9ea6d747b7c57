"""A look at the machine and its packages: what is here, what is broken, how to fix it."""

import sys
from pathlib import Path

from olivine.allowance import ROOT
from olivine.systems import Probe, SystemParams
from olivine.systems.local import Local
from olivine.workflow.doctor._finding import Finding
from olivine.workflow.doctor._hub import hub
from olivine.workflow.doctor._machine import machine
from olivine.workflow.doctor._packages import packages, plugins
from olivine.workflow.doctor._runtime import runtime

__all__ = ["Finding", "diagnose"]


def diagnose(
    probe: Probe | None = None, *, ask_hub: bool = False, python: str = sys.executable, root: Path = ROOT
) -> list[Finding]:
    """Everything that decides whether a workflow can run here; imports no framework in this process.

    probe: what the machine has; without one, it is asked. ask_hub: also whether the hub answers, over the network.
    python: the interpreter in which runtimes are tried. root: of the file system, where the kernel tells.
    """
    has = probe or Local(SystemParams()).probe()
    return [
        *machine(has, root),
        *packages(has),
        *runtime(has, python),
        *plugins(),
        *([hub()] if ask_hub else []),
    ]
