"""One job, done: what stands in it is found, its kind is run, and how it ended is said.

What libraries print goes to the job's log.
"""

import gc
import hashlib
import importlib
import os
import shutil
import sys
import tempfile
import time
import traceback
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from olivine import lazy, memory
from olivine.config.schema import DataConfig
from olivine.errors import ModelError, OlivineError
from olivine.messages import FULL_DISK, Events, sentence
from olivine.models import Model
from olivine.passes import Pass, parts, passes
from olivine.store.entries import WRITTEN
from olivine.store.files import remove_tree
from olivine.store.transfer import Files
from olivine.systems._environment import OFFLINE
from olivine.systems._log import print_to
from olivine.systems._mounted import mounted_at
from olivine.systems._parcel import named, result_files, unpacked
from olivine.systems._probe import probe
from olivine.systems._protocol import Ahead, Job
from olivine.systems._scratch import resumable
from olivine.systems._survey import survey
from olivine.work import Context, Machine, Team

if TYPE_CHECKING:
    import filelock
else:
    filelock = lazy.module("filelock")

SCORED_WITH = ("transformers.modeling_utils",)  # what a model of transformers is opened with
_TRIED_BYTES = 2**20  # less room than that is a full disk


def begin(record: Mapping[str, Any]) -> None:
    """Import what the jobs ahead will need.

    What cannot be imported is told by the job that needs it. Modules stay: a search for garbage passes over them later.
    """
    ahead = Ahead(**record)
    if ahead.offline:  # is read when a library of the hub is first imported
        os.environ.update(OFFLINE)
    plugins = [plugin for name in ahead.passes if (plugin := passes.find(name)) is not None]
    modules = [module for plugin in plugins for module in plugin.works_with]
    with lazy.uncollected():
        for module in dict.fromkeys([*modules, *(SCORED_WITH if ahead.scores else ())]):
            with suppress(Exception):  # whatever a broken package raises
                importlib.import_module(module)
    gc.freeze()


def run(job: Job, events: Events) -> dict[str, Any]:
    """The result of a job whose places are here."""
    return KINDS[job.kind](job, events)


def serve(
    record: Mapping[str, Any],
    events: Events,
    store: Files | None,
    printed: Callable[[], None] = lambda: None,
    do: Callable[[Job, Events], dict[str, Any]] = run,
) -> int:
    """Do one job and say how it ended; returns the exit code that fits.

    store: where a job without places finds what it reads. printed: called before it is said how the job ended, to send
    what was printed. do: does it, once its places are here.
    """
    job = Job.from_json(record)
    if job.log:
        print_to(Path(job.log))
    if job.machine.get("offline"):
        os.environ.update(OFFLINE)
    events.begin()
    memory.restart_peak()
    started = time.monotonic()
    try:
        with _placed(job, events, store) as here, _alone(here):
            result = do(here, events)
            if store is not None:
                result["files"] = result_files(here.output, store)
            cost = {"seconds": time.monotonic() - started, "peak_memory_bytes": memory.peak_bytes()}
            printed()
            events.send("done", result={**result, **cost, **_device_memory()})
    except BaseException as error:  # noqa: BLE001 - the border of the process: whatever it was, the parent decides
        text = traceback.format_exc()
        print(text, file=sys.stderr, flush=True)  # noqa: T201 - standard error is the log here
        printed()
        exit_code = error.exit_code if isinstance(error, OlivineError) else 1
        described = {"type": type(error).__name__, "message": _told(error, job), "exit_code": exit_code}
        events.send("failed", error=described | {"traceback": text})
        return exit_code
    return 0


def _told(error: BaseException, job: Job) -> str:
    """What went wrong; libraries that write natively (torch its checkpoints) do not say that the disk is full."""
    text = sentence(error)
    if isinstance(error, OlivineError | OSError | MemoryError) or text.startswith(FULL_DISK):
        return text
    for folder in (job.output, job.scratch):
        try:
            with tempfile.TemporaryFile(dir=folder) as file:
                file.write(bytes(_TRIED_BYTES))
                os.fsync(file.fileno())
        except FileNotFoundError:  # the job did not come so far
            continue
        except OSError as refusal:
            refusal.filename = folder
            return f"{sentence(refusal)} ({text})"
    return text


@contextmanager
def _placed(job: Job, events: Events, store: Files | None) -> Iterator[Job]:
    """The job with places of this side; events leave without them."""
    if store is None:
        yield job
        return
    output = store.folder / "building" / f"{job.scratch.name}-{uuid.uuid4().hex}"
    output.mkdir(parents=True)
    try:
        here, places = unpacked(job, store, output)
        events.rename = partial(named, places=places)
        with nullcontext() if is_helper(job) else resumable(here.scratch, store):
            yield here
        remove_tree(here.scratch)
    finally:
        remove_tree(output)


@contextmanager
def _alone(job: Job) -> Iterator[None]:
    """Hold the scratch folder: a worker whose parent was killed may live a moment longer and still write there."""
    job.scratch.parent.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(f"{job.scratch}.lock", timeout=60):
        yield


def _device_memory() -> dict[str, int]:
    """Peak memory of the GPU when a job used one."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return {}
    peak = int(torch.cuda.max_memory_allocated())
    torch.cuda.reset_peak_memory_stats()
    torch.cuda.empty_cache()
    return {"peak_device_memory_bytes": peak}


def is_helper(job: Job) -> bool:
    """Whether this node has no part in the result, as others go on from."""
    return job.team is not None and job.team["node"] > 0


def _pass(job: Job) -> Pass:
    plugin = passes.find(job.name)
    if plugin is None:
        why = passes.why_missing(job.name)
        raise OlivineError(f"this environment ({sys.executable}) has no pass '{job.name}'{f': {why}' if why else ''}")
    return plugin(plugin.Params.model_validate(job.params))


def _run_pass(job: Job, events: Events) -> dict[str, Any]:
    step = _pass(job)
    data = {name: DataConfig.model_validate(value) for name, value in job.data.items()}
    models = {name: Model.from_json(value) for name, value in job.models.items()}
    team = Team(**job.team) if job.team is not None else None
    context = Context(job.output, job.scratch, Machine(**job.machine), events, data, models, team=team)
    model = _model(job)
    if is_helper(job):  # it has no result that could hold to anything
        step.requires(model)
        step.run(model, context)
        return {"facts": events.facts}
    result = parts.run(step, model, context)
    inside = {path: one for path, one in context.written.items() if path.is_relative_to(job.output)}
    written = {path.relative_to(job.output).as_posix(): one.to_json() for path, one in inside.items()}
    return {"model": result.to_json(), "facts": events.facts, WRITTEN: written}


def _prove(job: Job, events: Events) -> dict[str, Any]:
    return {"proof": _pass(job).prove(_model(job), Context(job.output, job.scratch, Machine(**job.machine), events))}


def _score(job: Job, events: Events) -> dict[str, Any]:
    from olivine.evaluate import score

    return score(_model(job), job.params, job.output, Machine(**job.machine), events)


def _time(job: Job, events: Events) -> dict[str, Any]:
    from olivine.evaluate import time_models

    models = {name: Model.from_json(record) for name, record in job.models.items()}
    return time_models(models, job.params, job.output, Machine(**job.machine), events)


def _rows(job: Job, events: Events) -> dict[str, Any]:  # noqa: ARG001 - one signature for all kinds
    from olivine.data import content_of

    (config,) = job.data.values()
    return dict(content_of(DataConfig.model_validate(config)))


def _materialize(job: Job, events: Events) -> dict[str, Any]:  # noqa: ARG001 - one signature for all kinds
    from olivine.models.materialize import materialize

    return {"model": materialize(_model(job), job.output).to_json()}


def _fetch(job: Job, events: Events) -> dict[str, Any]:  # noqa: ARG001 - one signature for all kinds
    """Bring a model from the hub into the hub's own local cache, which resumes and shares; never a pickle.

    params: name, revision, trust_remote_code. Offline, the local cache alone is asked.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    from olivine.models.hub import patterns

    name, revision, trusted = job.params["name"], job.params.get("revision"), job.params.get("trust_remote_code", False)
    try:
        folder = Path(snapshot_download(name, revision=revision, allow_patterns=patterns(trusted=trusted)))
    except GatedRepoError:
        raise ModelError(f"the model '{name}' is gated: accept its terms on the hub and set HF_TOKEN") from None
    except (RepositoryNotFoundError, RevisionNotFoundError):
        at = f" at revision '{revision}'" if revision else ""
        raise ModelError(f"the hub has no model '{name}'{at}; a private one needs HF_TOKEN") from None
    except (LocalEntryNotFoundError, OfflineModeIsEnabled):
        if job.machine.get("offline") or os.environ.get("HF_HUB_OFFLINE"):
            raise ModelError(f"the model '{name}' is not in the hub's local cache, and this run is offline") from None
        raise OlivineError(f"the hub cannot be reached, and '{name}' is not in its local cache") from None
    if not any(folder.glob("*.safetensors")):
        raise ModelError(f"the model '{name}' has no safetensors; convert its weights, pickled ones are not read")
    return {"model": Model("hf", folder, trust_remote_code=trusted).to_json()}


def _take(job: Job, events: Events) -> dict[str, Any]:
    """Copy a model from where this machine sees it; result_files keeps it in the store of this side.

    params: `mounted`, the name of the place, see `mounted_at`; `files`: of each, by its name, where it lies below that
    place (`source`), its `bytes` and, where it is known, `md5`; `address` names the model.
    """
    root, files = mounted_at(job.params["mounted"]), job.params["files"]
    total, done = sum(file["bytes"] for file in files.values()), 0
    for name, file in files.items():
        source, target = root / file["source"], job.output / name
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            shutil.copyfile(source, target)
        except FileNotFoundError:
            raise ModelError(f"the node does not see '{file['source']}' of '{job.params['address']}'") from None
        if target.stat().st_size != file["bytes"] or file["md5"] not in (None, _md5(target)):
            raise ModelError(f"'{file['source']}' of '{job.params['address']}' came with other bytes than it has there")
        done += file["bytes"]
        events.progress(done, total)
    return {}


def _md5(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def _probe(job: Job, events: Events) -> dict[str, Any]:  # noqa: ARG001 - one signature for all kinds
    return {"probe": probe(store=job.scratch).to_json()}


def _model(job: Job) -> Model:
    if job.model is None:
        raise ValueError(f"a job of kind '{job.kind}' needs a model")
    return Model.from_json(job.model)


KINDS: dict[str, Callable[[Job, Events], dict[str, Any]]] = {
    "pass": _run_pass,
    "score": _score,
    "time": _time,
    "materialize": _materialize,
    "fetch": _fetch,
    "prove": _prove,
    "rows": _rows,
    "survey": survey,
    "probe": _probe,
    "take": _take,
}
