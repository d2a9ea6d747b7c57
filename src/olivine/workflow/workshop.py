"""What a run works with, whatever it makes: the store, the workers, the listener to its events, the folder of its logs.

Nothing of a run lives elsewhere: two runs in one process have two workshops.
"""

import threading
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from olivine.errors import StepFailed
from olivine.models import Model
from olivine.store.entries import Cache, Entry
from olivine.store.files import is_full_disk
from olivine.systems import Job, JobKind
from olivine.work import Machine
from olivine.workflow import events
from olivine.workflow.events import Listener, Noted, Progress, StepCached, StepDone, StepStarted, Submitted, Warned
from olivine.workflow.names import FileNames
from olivine.workflow.workers import Workers


@dataclass(frozen=True)
class Task:
    """A result to be had: what it is called, its key, and where it comes from (see events.OfStep).

    description: what is done, for a person. summary: tells the result in a few words.
    """

    step: str
    key: str
    description: str
    pass_name: str | None = None
    params: Mapping[str, Any] = field(default_factory=dict)
    parent: str | None = None
    parent_key: str | None = None
    host: str | None = None
    summary: Callable[[Mapping[str, Any]], str] = lambda result: ""  # noqa: ARG005

    @property
    def origin(self) -> dict[str, Any]:
        """The fields of its events."""
        names = ("step", "key", "pass_name", "params", "parent", "parent_key", "host")
        return {name: getattr(self, name) for name in names}


class Locks:
    """A lock for each name, made when it is first asked for."""

    def __init__(self) -> None:
        self._own = threading.Lock()
        self._by_name: dict[Any, threading.RLock] = {}

    def of(self, name: Any) -> AbstractContextManager[Any]:
        """The lock of that name."""
        with self._own:
            return self._by_name.setdefault(name, threading.RLock())


@dataclass(frozen=True)
class Workshop:
    """Makes results and keeps them; any thread may ask.

    tell: hears every event, of one thread at a time.
    """

    output_dir: Path
    store: Cache
    workers: Workers
    tell: Listener
    logs: FileNames = field(default_factory=FileNames)
    keys: Locks = field(default_factory=Locks)

    def obtain(self, task: Task, make: Callable[[Path], Mapping[str, Any]]) -> Entry:
        """The result from the store, or made now and kept there; the events say which, and what it cost.

        Threads that want one result wait for the first of them, which makes it.
        """

        def made(content: Path) -> Mapping[str, Any]:
            self.tell(StepStarted(**task.origin, description=task.description))
            return make(content)

        with self.keys.of(task.key):
            entry, is_cached = self._obtained(task, made)
        self.tell(_done(task, entry, is_cached=is_cached))
        return entry

    def _obtained(self, task: Task, make: Callable[[Path], Mapping[str, Any]]) -> tuple[Entry, bool]:
        try:
            entry, is_cached = self.store.obtain(task.key, task.step, make)
        except StepFailed as error:
            self.fail(task, error)
            raise
        except OSError as error:
            failure = as_failure(task.step, error, self.store.folder)
            self.fail(task, failure)
            raise failure from error
        if not is_cached:
            self.store.drop_scratch(task.key)
        return entry, is_cached

    def do(
        self,
        kind: JobKind,
        task: Task,
        content: Path,
        machine: Machine,
        model: Model | None = None,
        **fields: Any,
    ) -> dict[str, Any]:
        """The result of a job for the task, from a worker of its host. fields: more of the Job."""
        job = Job(
            kind=kind,
            step=task.step,
            output=content.absolute(),
            scratch=self.store.scratch(task.key).absolute(),
            model=model.to_json() if model else None,
            machine=asdict(machine),
            log=str(self.new_log(task.step)),
            **{"params": task.params, **fields},
        )

        def listen(event: str, told: Mapping[str, Any]) -> None:
            if event == "progress":
                numbers = {name: told[name] for name in ("done", "total", "metrics")}
                self.tell(Progress(step=task.step, **numbers))
            elif event == "submitted":
                self.tell(Submitted(step=task.step, title=told["title"], host=task.host))
            elif event == "note":
                self.tell(Noted(step=task.step, message=told["message"]))
            elif event == "warning":
                self.warn(task.step, told["message"])

        return self.workers.run(job, listen, task.host)

    def warn(self, step: str, message: str) -> None:
        """Tell the user one sentence."""
        self.tell(Warned(step=step, message=message))

    def fail(self, task: Task, failure: StepFailed) -> None:
        """Tell that a step gave no result."""
        log = str(failure.log) if failure.log else None
        with suppress(OSError):  # a full disk may have no room for the journal either
            self.tell(events.StepFailed(**task.origin, cause=failure.cause, log=log))

    def new_log(self, step: str) -> Path:
        """An empty log file; step names come from configs, so they are spelt as plain file names."""
        folder = self.output_dir / "logs"
        folder.mkdir(exist_ok=True)
        log = folder / f"{self.logs.of(step)}.log"
        log.write_bytes(b"")
        return log.absolute()


def _done(task: Task, entry: Entry, *, is_cached: bool) -> StepDone:
    """What a step cost when it was made, and the facts that its pass kept."""
    kind = StepCached if is_cached else StepDone
    return kind(
        **task.origin,
        seconds=round(entry.manifest["seconds"], 2),
        peak_memory_bytes=entry.result.get("peak_memory_bytes"),
        peak_device_memory_bytes=entry.result.get("peak_device_memory_bytes"),
        facts=entry.result.get("facts", {}),
        summary=task.summary(entry.result),
    )


def as_failure(name: str, error: OSError, place: Path) -> StepFailed:
    """An error of the file system as what it means for a step."""
    where = error.filename or place
    if is_full_disk(error):
        return StepFailed(
            name, f"the disk is full: no room for {where}; free some, or name another cache_dir or output_dir"
        )
    return StepFailed(name, f"{error.strerror or error}: {where}")
