"""What any job is handed, whatever it does: where it runs, what it may read and fill, and how it speaks."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from olivine.config.schema import DataConfig
from olivine.errors import OlivineError
from olivine.models import Model
from olivine.store.hashes import Hashed


class Reporter(Protocol):
    """How a running job speaks: progress for the screen, notes and warnings for the user, facts for the journal."""

    def progress(self, done: float, total: float, **metrics: float | str) -> None:
        """Say how far the job is; metrics are short numbers such as loss=0.42."""

    def note(self, message: str) -> None:
        """Tell the user in a few words what goes on, such as why it takes longer; it also goes to journal and log."""

    def warn(self, message: str) -> None:
        """Tell the user one sentence; it also goes to the journal."""

    def record(self, **facts: Any) -> None:
        """Keep facts with the result (n_trained_parameters=..., loss=[...]); JSON values. Cached with the step."""


class Silent:
    """A Reporter for a caller that asked for none."""

    def progress(self, done: float, total: float, **metrics: float | str) -> None:
        """Show nothing."""

    def note(self, message: str) -> None:
        """Tell nobody."""

    def warn(self, message: str) -> None:
        """Tell nobody."""

    def record(self, **facts: Any) -> None:
        """Keep nothing."""


@dataclass(frozen=True)
class Machine:
    """Where a step would run and what is there; found out without importing a framework.

    device: "cpu" or "cuda". execution_provider: "CPUExecutionProvider", ... of the target, where the result will run.
    n_devices: how many of them a pass that can use several of them gets; on the CPU, processes that share its cores.
    device_memory_bytes: of each GPU; 0 where there is none, or the driver does not say.
    multiplies_bf16: whether the processor computes in bfloat16 itself; else what runs on it is loaded as float32.
    compute_capability: NVIDIA's, of the GPU that has the least; 0 where there is none, or the driver does not say.
    is_target_here: whether a model that is built for the execution provider can run where it is measured.
    n_nodes: machines of this kind on which a pass that can use several of them runs at once; all else is of each.
    """

    device: str
    execution_provider: str
    memory_bytes: int
    disk_bytes: int
    n_cores: int
    offline: bool = False
    n_devices: int = 1
    device_memory_bytes: int = 0
    multiplies_bf16: bool = False
    compute_capability: float = 0.0
    is_target_here: bool = True
    n_nodes: int = 1

    @property
    def n_processes(self) -> int:
        """Of a pass that runs on every device of all nodes together."""
        return self.n_nodes * self.n_devices


@dataclass(frozen=True)
class Team:
    """The nodes that run a pass together, as one of them sees it; node 0 alone has the result.

    node: which of them this is, from 0. address, port: where node 0 hears the others. outcomes: a file in which it
    stands how others have ended as soon as that is known, JSON by node: {"devices": [facts of each]} where all went
    well, else {"message", "exit_code", "is_lost": whether others went away from it, and "is_gone": whether it is known
    that this one did}.
    """

    node: int
    n_nodes: int
    address: str
    port: int
    outcomes: str


class NodeLost(OlivineError):  # noqa: N818 - as the errors that it derives from
    """Another node went away from this one in the middle of a pass that they run together."""


@dataclass(frozen=True)
class Estimate:
    """What a step will need. Bytes; memory is the peak resident set of the worker, disk what the step writes."""

    memory_bytes: int = 0
    device_memory_bytes: int = 0
    disk_bytes: int = 0
    download_bytes: int = 0


@dataclass(frozen=True)
class Context:
    """What a pass gets beside its input model.

    output: an empty folder; everything the pass keeps goes there, and it is renamed into the cache when all went well.
    scratch: a folder that survives a killed worker and is the same for the same step again: checkpoints to resume from.
    data: the data configs that the params name, with absolute paths.
    models: models that came before in the workflow, in order: "input" the input model, then by the step's name every
      result that the step's own input was made from, and those that its params name.
    rank: which of the processes this is that run the pass together, one on each device; None when it is the only one.
      The process of rank 0 fills `output`.
    whole, part: where the input model is a part of another one, that model and the name of the part.
    team: the nodes that run the pass together; None when this is the only one.
    written: filled by the pass where it can: hashes of files in `output` that it took while it wrote them.
    """

    output: Path
    scratch: Path
    machine: Machine
    report: Reporter
    data: Mapping[str, DataConfig] = field(default_factory=dict)
    models: Mapping[str, Model] = field(default_factory=dict)
    rank: int | None = None
    whole: Model | None = None
    part: str = ""
    written: dict[Path, Hashed] = field(default_factory=dict)
    team: Team | None = None
