"""A job is a file: JSON that says all there is to know, so that any worker, here or elsewhere, can do it.

Only JSON and folders cross the border between the parent and a worker. A worker reads jobs and writes events, one JSON
object a line:

    parent -> worker   a Job
                       {"ahead": {...}}                            an Ahead, before the first job
    worker -> parent   {"event": "started", "pid": ...}
                       {"event": "printed", "text": "..."}         for the log, of a worker that cannot write to it
                       {"event": "progress", "done": 3, "total": 10, "metrics": {"loss": 0.41}}
                       {"event": "note", "message": "..."}
                       {"event": "warning", "message": "..."}
                       {"event": "done", "result": {...}}          result of a pass: {"model": Model, "facts": {...}}
                       {"event": "failed", "error": {"type", "message", "exit_code", "traceback"}}

The lines are the same whatever carries them: a pipe (`_process`), a connection over which the worker calls in and calls
again when it breaks (`_line`), a file, or pieces of one at an address where files go (`_batch`).
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, Self, get_args

from olivine.errors import RequestError, StepFailed
from olivine.store.hashes import digest
from olivine.store.packing import OUTPUT
from olivine.work import NodeLost

Listener = Callable[[str, Mapping[str, Any]], None]
JobKind = Literal["pass", "score", "fetch", "materialize", "prove", "rows", "survey", "time", "probe", "take"]


@dataclass(frozen=True)
class Ahead:
    """What jobs will do that are still being prepared.

    passes: by name, those that will run. scores: whether a model of transformers is to be scored. offline: see Machine.
    """

    passes: tuple[str, ...] = ()
    scores: bool = False
    offline: bool = False


@dataclass(frozen=True)
class Job:
    """One thing for a worker to do.

    kind: "pass" runs a pass; "score" measures a model on rows; "fetch" brings an input model from the hub to a folder;
      "materialize" writes a model whose weights are computed into a folder of its own; "prove" lets a pass prove its
      claim on a small model of the input model's config; "rows" looks at data that is not here; "survey" looks at all
      rows with the model's tokenizer; "time" times models beside each other; "probe" says what is there, see Probe;
      "take" keeps a model in the store of its side, from where the system has mounted it.
    step: the name users see. name: name of the pass (kinds "pass" and "prove"). params: JSON values of its params, or
      of the task.
    model: the input model's record (None for "fetch"). output, scratch: folders, see work.Context.
    data: data configs by name, with absolute paths. models: records of the models before, see work.Context.
    machine: fields of work.Machine. log: file for all that is printed while the job runs.
    files: other files that the params name, and folders of such files.
    trees: a job without places has names for what it reads, `${tree:DIGEST}` for a folder, and here the hashes of the
      files in it, by their names; see `_parcel`. Who runs it finds them in a store of its own, where also lies what it
      writes. Its log is what the process prints.
    team: fields of work.Team, said by whoever brings several nodes together for it.
    """

    kind: JobKind
    step: str
    output: Path
    scratch: Path
    name: str = ""
    params: Mapping[str, Any] = field(default_factory=dict)
    model: Mapping[str, Any] | None = None
    data: Mapping[str, Any] = field(default_factory=dict)
    models: Mapping[str, Any] = field(default_factory=dict)
    machine: Mapping[str, Any] = field(default_factory=dict)
    log: str = ""
    files: tuple[str, ...] = ()
    trees: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    team: Mapping[str, Any] | None = None

    @property
    def log_path(self) -> Path | None:
        """Where its log lies, if it has one."""
        return Path(self.log) if self.log else None

    @property
    def has_places(self) -> bool:
        """Whether it names folders of one machine."""
        return str(self.output) != OUTPUT

    @property
    def title(self) -> str:
        """What it is called where jobs are looked for: the same for the same job, wherever and whenever it is given."""
        record = self.to_json()
        del record["machine"], record["team"]  # how much disk is free there, and which nodes, is no other job
        return digest(record)[:24]

    def to_json(self) -> dict[str, Any]:
        """JSON values only; the inverse of `from_json`."""
        log = self.log if self.has_places else ""
        return asdict(self) | {"output": str(self.output), "scratch": str(self.scratch), "log": log}

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Self:
        """The inverse of `to_json`; ValueError, in a sentence, for what `to_json` never gives."""
        missing = [name for name in ("kind", "step", "output", "scratch") if not isinstance(record.get(name), str)]
        if missing or record["kind"] not in get_args(JobKind):
            raise ValueError(f"it has no {missing[0]}" if missing else f"'{record['kind']}' is no kind of job")
        if unknown := record.keys() - cls.__dataclass_fields__.keys():
            raise ValueError(f"no job has a field '{min(unknown)}'")
        objects = ("params", "data", "models", "machine", "trees")
        if damaged := [name for name in objects if not isinstance(record.get(name, {}), Mapping)]:
            raise ValueError(f"its {damaged[0]} are no object")
        places = {"output": Path(record["output"]), "scratch": Path(record["scratch"])}
        return cls(**{**record, **places, "files": tuple(record.get("files", ()))})


def answer(fields: dict[str, Any], job: Job, listen: Listener) -> dict[str, Any] | None:
    """The result of the job when this event has it, StepFailed when it says why not; others go to the listener."""
    event = fields.pop("event")
    if event == "done":
        result: dict[str, Any] = fields["result"]
        return result
    if event == "failed":
        error = fields["error"]
        how = {
            "is_refused": error["exit_code"] == RequestError.exit_code,
            "is_lost": error["type"] == NodeLost.__name__,
        }
        raise StepFailed(job.step, error["message"], job.log_path, tail=error["traceback"], **how)
    if event == "printed":
        if job.log:
            with Path(job.log).open("a", encoding="utf-8") as log:
                log.write(fields["text"])
        return None
    listen(event, fields)
    return None
