"""What a config names elsewhere is brought into the cache, before a run does anything else; see `resources`."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from olivine import lazy
from olivine.absent import Absent, absent_files, write_absent
from olivine.errors import RequestError, StepFailed
from olivine.store.entries import Cache
from olivine.systems import System
from olivine.work import Machine
from olivine.workflow.events import Progress
from olivine.workflow.resources import Remote, entry_of
from olivine.workflow.workshop import Task, Workshop

if TYPE_CHECKING:
    from olivine.models import sources
else:
    sources = lazy.module("olivine.models.sources")

_MOUNTED = "model"  # what a job of AzureML calls the input where a model lies

Systems = Mapping[str | None, System]


def forget_cleared(remotes: Sequence[Remote], cache: Cache, systems: Systems) -> bool:
    """Forget a model whose weights a node has taken, and that have been cleared away since; gives whether one was."""
    cleared = False
    for remote in remotes:
        entry = entry_of(cache, remote) if remote.host is not None else None
        if entry is None:
            continue
        weights = {file.blake3 for file in absent_files(entry.content).values()}
        if systems[remote.host].missing(weights):
            cache.remove(remote.key)
            cleared = True
    return cleared


def bring(remotes: Sequence[Remote], workshop: Workshop, systems: Systems, machine: Machine) -> None:
    """Bring what is not in the cache, or let a node take it; of what is, note that it was used.

    systems: by the names of hosts. machine: that runs the jobs.
    """
    for remote in remotes:
        if remote.host is None:
            task = Task(f"fetch:{remote.address}", remote.key, f"Bring {remote.address}")
            workshop.obtain(task, partial(_brought, remote, task, workshop))
        else:
            description = f"Let a node of '{remote.host}' take {remote.address}"
            task = Task(f"fetch:{remote.address}", remote.key, description, host=remote.host)
            workshop.obtain(task, partial(_taken, remote, task, systems[remote.host], machine, workshop))


def _brought(remote: Remote, task: Task, workshop: Workshop, content: Path) -> Mapping[str, Any]:
    if remote.source is None:  # it was in the cache when the plan was made
        raise StepFailed(task.step, "what had come is no longer in the cache; run it again")

    def told(done: int, total: int) -> None:
        workshop.tell(Progress(step=task.step, done=done, total=total))

    scratch = workshop.store.scratch(task.key)
    try:
        sources.bring(remote.source, remote.files, content, scratch, told)
    except RequestError as error:
        raise StepFailed(task.step, str(error)) from None
    if remote.is_model:
        return {"paths": [f"${{output}}/{remote.within}".rstrip("/")]}
    return {"paths": [f"${{output}}/{file.name}" for file in remote.files]}


def _taken(
    remote: Remote, task: Task, system: System, machine: Machine, workshop: Workshop, content: Path
) -> Mapping[str, Any]:
    """Let a node take a model from where it lies into the store of nodes, and keep what a plan knows it by."""
    from olivine.azureml import Blobs

    asset = remote.source.asset() if isinstance(remote.source, Blobs) else None
    if not isinstance(remote.source, Blobs) or asset is None:
        raise StepFailed(task.step, "what had come is no longer in the cache; run it again")
    system.mount(_MOUNTED, asset.kind, asset.address)
    files = {
        file.name: {
            "source": remote.source.name_in_asset(file),
            "bytes": file.n_bytes,
            "md5": file.md5.hex() if file.md5 is not None else None,
        }
        for file in remote.files
    }
    params = {"address": remote.address, "mounted": _MOUNTED, "files": files}
    hashes = workshop.do("take", task, content, machine, params=params)["files"]
    weights = sources.outline(remote.source, remote.files, content)
    write_absent(content, remote.address, {file.name: Absent(file.n_bytes, hashes[file.name]) for file in weights})
    return {"paths": ["${output}"]}
