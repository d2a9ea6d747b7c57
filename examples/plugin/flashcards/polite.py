"""Polite: a machine where others want to work too."""

import sys

from pydantic import Field

from olivine.systems import PROBE, WORKER, Probe, System, SystemParams, WorkerProcess, ask


class Polite(System):
    """The machine that reads the config, at a low priority."""

    class Params(SystemParams):
        """How low."""

        niceness: int = Field(10, ge=0, le=19, description="added to that of olivine; at 19 everybody else goes first")

    params: Params
    reads_here = True

    def probe(self) -> Probe:
        """What this machine has."""
        return ask([sys.executable, *PROBE])

    def worker(self) -> WorkerProcess:
        """A worker to whom others go first."""
        return WorkerProcess(["nice", "-n", str(self.params.niceness), sys.executable, *WORKER])
