"""The machine that reads the config: its worker is a process of the same Python, and reads files where they lie."""

from olivine.config.schema import LocalSettings
from olivine.systems._base import System, SystemParams
from olivine.systems._probe import Probe, probe
from olivine.systems._process import WorkerProcess


class Local(System):
    """The machine that reads the config, in a process of its own."""

    aliases = ("LocalSystem",)
    reads_here = True

    class Params(LocalSettings, SystemParams):
        """What is said of this machine beside its accelerators."""

    def probe(self) -> Probe:
        """What this process finds: no other one is asked."""
        return probe()

    def worker(self) -> WorkerProcess:
        """A process of the Python that runs this one."""
        return WorkerProcess()
