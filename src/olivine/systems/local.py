"""The machine that reads the config: its worker is a process of the same Python, and reads files where they lie."""

from typing import TYPE_CHECKING

from olivine import lazy
from olivine.config.schema import LocalSettings
from olivine.systems._base import System, SystemParams
from olivine.systems._probe import Probe, probe

if TYPE_CHECKING:
    from olivine.systems import _process
else:
    _process = lazy.module("olivine.systems._process")


class Local(System):
    """The machine that reads the config, in a process of its own."""

    aliases = ("LocalSystem",)
    reads_here = True

    class Params(LocalSettings, SystemParams):
        """What is said of this machine beside its accelerators."""

    def probe(self) -> Probe:
        """What this process finds: no other one is asked."""
        return probe()

    def worker(self) -> "_process.WorkerProcess":
        """A process of the Python that runs this one."""
        return _process.WorkerProcess()
