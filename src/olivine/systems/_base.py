"""The contract of a system: where jobs run. It says what is there, starts workers, and moves files.

One system is one file; its name is the file's, its help the first line of the class docstring.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationInfo

from olivine.errors import STILL_AT_WORK, Interrupted, StepFailed
from olivine.paths import of_user
from olivine.systems._probe import Probe
from olivine.systems._protocol import Ahead, Job, Listener
from olivine.work import Estimate


def beside(path: str, info: ValidationInfo) -> str:
    """The path in full; a relative one lies beside the config."""
    return str(Path((info.context or {}).get("folder", ""), of_user(path)).absolute())


FilePath = Annotated[str, AfterValidator(beside)]
"""A file or folder of this machine; a relative one is looked for beside the config."""


class SystemParams(BaseModel):
    """Settings of a system: the config's check, the JSON schema and the docs derive from this class."""

    model_config: ClassVar[ConfigDict] = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


class Worker(ABC):
    """Runs jobs one after the other, somewhere; it stays warm between them."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @abstractmethod
    def run(self, job: Job, listen: Listener) -> dict[str, Any]:
        """Do the job and give its result; events go to `listen(event, fields)` as they come.

        Raises StepFailed with the cause when the job failed or the worker died (the next job starts another one), and
        Interrupted on Ctrl-C: the worker and all that it started are gone then.
        """

    def warm(self, ahead: Ahead) -> None:  # noqa: B027 - most workers are elsewhere, and cost something there
        """Begin with what the first jobs will need; returns at once, and what goes wrong is told by those jobs."""

    @abstractmethod
    def close(self) -> None:
        """Let the worker go; it has nothing left to do."""

    @abstractmethod
    def kill(self) -> None:
        """End the worker and everything it started, now."""

    @property
    def has_line(self) -> bool:
        """Whether it is heard over a line that may break and is taken up again where it broke."""
        return False

    def hang_up(self) -> None:  # noqa: B027 - most workers have no line
        """End the line, as a network does; the worker calls again."""

    @contextmanager
    def _gone_unless_fit(self, job: Job) -> Iterator[None]:
        """Kill the worker when the job leaves it unfit for the next one; Ctrl-C becomes Interrupted."""
        try:
            yield
        except StepFailed as failure:
            # what it holds, or what goes on in it, would stand in the way of the next job
            if failure.cause.startswith("out of memory") or failure.cause.endswith(STILL_AT_WORK):
                self.kill()
            raise
        except KeyboardInterrupt as stop:
            self.kill()
            raise Interrupted.by(stop, f" in step '{job.step}'") from None
        except BaseException:  # the listener failed: the worker is at work on something that nobody waits for
            self.kill()
            raise


@dataclass(frozen=True)
class Manifests:
    """What a system would be sent: documents of JSON values by the name of a file, and what should be known of them."""

    documents: Mapping[str, Sequence[Mapping[str, Any]]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


class System(ABC):
    """Where jobs run.

    Params: what a config may set. aliases: other names of the type in configs. modules: importable modules that it
    needs here, each with the extra that brings it. reads_here: its workers read files where they lie on this machine:
    nothing is moved.
    """

    name: ClassVar[str]
    aliases: ClassVar[tuple[str, ...]] = ()
    Params: ClassVar[type[SystemParams]] = SystemParams
    modules: ClassVar[Mapping[str, str]] = {}
    reads_here: ClassVar[bool] = False

    def __init__(self, params: SystemParams) -> None:
        self.params = params
        self.n_gpus = 0  # that the config asks for, set before anything is asked or started

    @abstractmethod
    def probe(self) -> Probe:
        """What is there: hardware and versions, by which a config is planned; quick, and no framework is imported."""

    def is_prepared(self) -> bool:
        """Whether it can be asked and started; False for an environment or image that is still to be made.

        A plan touches nothing: it goes on without knowing what such a system has.
        """
        return True

    def prepare(self, log: Path) -> None:  # noqa: B027 - most systems have nothing to make
        """Make what `is_prepared` lacks, before the first step; what tools print goes to the log.

        Raises StepFailed with the cause.
        """

    @property
    def n_nodes(self) -> int:
        """How many nodes a worker has, all of which a pass that spreads over devices uses together."""
        return 1

    def reserve(self, need: Estimate) -> None:  # noqa: B027 - most systems have what they have
        """Told before the first job what the jobs of a run need of it at most, for one that asks for room."""

    def mount(self, name: str, kind: str, address: str) -> None:
        """Told before a job of the kind "take" where its nodes find what lies elsewhere. name: as the job calls it."""
        raise NotImplementedError(f"{type(self).__name__} reads nothing at '{address}' ({name}, {kind})")

    def n_jobs(self, need: Estimate) -> int | None:  # noqa: ARG002
        """How many jobs that need so much have room at once; None for one machine, which its probe describes."""
        return None

    def manifests(self, name: str, workflow: Mapping[str, Any]) -> Manifests:  # noqa: ARG002
        """What a run of the workflow, resolved, would send; nothing is sent. Most systems are sent no documents.

        name: of this system in the workflow.
        """
        return Manifests()

    @abstractmethod
    def worker(self) -> Worker:
        """A worker of this system; nothing is started before it has a job."""

    def end_job(self, title: str) -> str | None:  # noqa: ARG002
        """End a job that a run gave which is lost; gives what it was called there, and None where it is not any more.

        title: as jobs are looked for, see `Job.title`. Workers that end with the run itself need no such call.
        """
        return None

    def missing(self, hashes: Iterable[str]) -> set[str]:  # noqa: ARG002
        """Those of the files that the store of the system lacks; none where it reads files where they lie."""
        return set()

    def put(self, source: Path, hashed: str) -> None:
        """Bring a file into the store of the system, which is not there yet; whole and checked, or not at all."""
        raise NotImplementedError(f"{type(self).__name__} reads files here, or lacks `put`")

    def get(self, hashed: str, target: Path) -> None:
        """Bring a file from the store of the system to where it is wanted; whole and checked, or not at all."""
        raise NotImplementedError(f"{type(self).__name__} reads files here, or lacks `get`")
