"""Models and data that a config names where they lie: in AzureML, or in a folder of another layout.

What was brought is kept in the cache, under a key of what cannot change (a version) or of what lies there now. A plan
takes from there what has come; what has not is known by its list of files and their beginnings, and a run brings it
before anything else.

Rows that only nodes of AzureML read are named to them by address: they never come here.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from olivine.azureml import Blobs, Malformed, Refused, address_of, client_of, reference
from olivine.config import Loaded
from olivine.config.schema import AzureMLClient, Resource, System, Workflow
from olivine.errors import OlivineError, Problem, RequestError, StepFailed
from olivine.models import sources
from olivine.models.mlflow import MARK
from olivine.models.sources import FolderSource, Source, SourceFile
from olivine.paths import is_file, of_user
from olivine.store.entries import Cache, Entry
from olivine.store.hashes import digest
from olivine.store.packing import unpack
from olivine.workflow.events import Progress
from olivine.workflow.workshop import Task, Workshop

MODEL = ("input_model", "model_path")
MLFLOW = "PyTorch.MLflow"


@dataclass(frozen=True)
class Remote:
    """A model, or the files of a data config, that lies elsewhere.

    place: of its key in the config. address: names it. source, files: what is there; None and empty where that need not
    be asked. within: the file that is the model, where it is no folder. is_here: it is in the cache. urls: of all
    files, for those who read them there.
    """

    place: tuple[str | int, ...]
    address: str
    key: str
    source: Source | None = None
    files: tuple[SourceFile, ...] = ()
    within: str = ""
    is_mlflow: bool = False
    is_here: bool = False
    urls: tuple[str, ...] = ()

    @property
    def is_model(self) -> bool:
        """Whether it is the input model."""
        return self.place == MODEL

    @property
    def n_bytes(self) -> int:
        """That bringing it moves."""
        return sum(file.n_bytes for file in self.files)


@dataclass(frozen=True)
class Settled:
    """A workflow with the paths of what has come in place of its references.

    remotes: what it names elsewhere, whether it has come or not. problems: of references that lead nowhere.
    has_model: the reference to the model, where it is one, is none of those.
    """

    workflow: Workflow
    remotes: tuple[Remote, ...] = ()
    problems: tuple[Problem, ...] = ()
    has_model: bool = True


def settle(loaded: Loaded, workflow: Workflow, cache_dir: Path, known: dict[str, Remote], *, offline: bool) -> Settled:
    """The workflow with what has come; of what has not, what AzureML says of it. Nothing is written.

    known: what was found out before, which is not asked again; what is found out now is added.
    """
    remotes: list[Remote] = []
    problems: list[Problem] = []
    has_model = True
    for place, resource in named(workflow):
        name = f"{place} {resource} {workflow.azureml_client} {workflow.input_model.load_kwargs.trust_remote_code}"
        try:
            remote = known.get(name) or _remote(
                place, resource, workflow, loaded.document.folder, cache_dir, offline=offline
            )
            known[name] = remote
        except OlivineError as error:
            kind = error.kind if isinstance(error, RequestError) else "network"
            if not _is_told(error, loaded):
                problems.append(Problem(kind, loaded.document.where(place), f"{error}."))
            has_model = has_model and place != MODEL
            continue
        if _nodes_read(workflow, remote):
            workflow = _with_files(workflow, remote, remote.urls)
            continue
        if (entry := _entry(Cache(cache_dir), remote)) is not None:
            workflow = _with_paths(workflow, remote, entry)
        remotes.append(replace(remote, is_here=entry is not None))
    if has_model:
        problems += _wrong_format(loaded, workflow, remotes)
    return Settled(workflow, tuple(remotes), tuple(problems), has_model)


def _is_told(error: OlivineError, loaded: Loaded) -> bool:
    """Whether the check of the config has said what keeps a reference from being followed."""
    of_client = "azureml_client lacks" in str(error) and any("azureml_client" in one.message for one in loaded.problems)
    return isinstance(error, Malformed) or of_client


def named(workflow: Workflow) -> Iterator[tuple[tuple[str | int, ...], Resource | Path]]:
    """What a config names elsewhere, with the place of its key: resources, and a local folder of MLflow."""
    model = workflow.input_model.model_path
    if isinstance(model, Resource):
        yield MODEL, model
    elif is_file(of_user(model) / MARK) and not is_file(of_user(model) / "config.json"):
        yield MODEL, of_user(model).absolute()
    for index, config in enumerate(workflow.data_configs):
        if isinstance(files := config.load_dataset_config.data_files, Resource):
            yield ("data_configs", index, "load_dataset_config", "data_files"), files


def _remote(
    place: tuple[str | int, ...],
    resource: Resource | Path,
    workflow: Workflow,
    folder: Path,
    cache_dir: Path,
    *,
    offline: bool,
) -> Remote:
    trusted = workflow.input_model.load_kwargs.trust_remote_code and place == MODEL
    if isinstance(resource, Path):
        source: Source = FolderSource(resource)
        return _listed(Remote(place, str(resource), ""), source, {"address": str(resource)}, trusted=trusted)
    there = reference(resource, workflow.azureml_client, folder)
    identity = dict(there.identity)
    if there.is_versioned:
        remote = Remote(place, there.address, _key(identity, trusted=trusted))
        if _entry(Cache(cache_dir), remote) is not None:
            return remote
    if offline:
        raise Refused(f"'{there.address}' is to be fetched, and the network is off", "network")
    return _listed(
        Remote(place, there.address, ""), there.open(), identity, trusted=trusted, is_versioned=there.is_versioned
    )


def _key(identity: Mapping[str, Any], *, trusted: bool) -> str:
    return digest({"bring": dict(identity), "trusted": trusted})


def _listed(
    remote: Remote, source: Source, identity: Mapping[str, Any], *, trusted: bool, is_versioned: bool = False
) -> Remote:
    """What lies there now. Refused where that is nothing."""
    files = tuple(source.files())
    if not files:
        kind: Any = "missing-model" if remote.is_model else "missing-file"
        raise Refused(f"nothing lies at '{remote.address}'", kind)
    layout = sources.Layout(files)
    if remote.is_model:
        layout = sources.model_layout(source, files, trusted=trusted)
    content = {} if is_versioned else {"files": [(file.name, file.n_bytes, file.tag) for file in layout.files]}
    key = _key({**identity, **content}, trusted=trusted)
    urls = [source.address(file) for file in files] if isinstance(source, Blobs) and not remote.is_model else []
    told = replace(remote, urls=() if None in urls else tuple(str(url) for url in urls))
    return replace(told, key=key, source=source, files=layout.files, within=layout.within, is_mlflow=layout.is_mlflow)


def _nodes_read(workflow: Workflow, remote: Remote) -> bool:
    """Whether all that reads rows runs on computes of AzureML whose files go by the same datastore."""
    hosts = [workflow.host, *(config.host for config in workflow.passes.values() if config.host is not None)]
    hosts += [workflow.target] if workflow.target is not None else []
    systems = [workflow.systems.get(host) if host is not None else None for host in hosts]
    return bool(remote.urls) and all(
        system is not None and system.type == "AzureML" and remote.address.startswith(_datastore_of(system, workflow))
        for system in systems
    )


def _datastore_of(system: System, workflow: Workflow) -> str:
    """The address of the datastore where the files of a system lie, as far as the config says it."""
    own = system.config.get("azureml_client_config")
    client = AzureMLClient.model_validate(own) if own is not None else client_of(workflow) or AzureMLClient()
    return f"{address_of(client)}/datastores/{system.config.get('datastores', 'workspaceblobstore')}/"


def _wrong_format(loaded: Loaded, workflow: Workflow, remotes: list[Remote]) -> Iterator[Problem]:
    """A model that is said to be one of MLflow and is not; what is in the cache was looked at when it came."""
    if workflow.input_model.model_file_format != MLFLOW:
        return
    model = next((remote for remote in remotes if remote.is_model), None)
    is_other = model is not None and model.source is not None and not model.is_mlflow
    if is_other or (model is None and not isinstance(workflow.input_model.model_path, Resource)):
        where = loaded.document.where(("input_model", "model_file_format"))
        message = f"the model is no MLflow folder: it has no file {MARK}."
        yield Problem("missing-model", where, message, "Remove model_file_format.")


def _entry(cache: Cache, remote: Remote) -> Entry | None:
    return cache.peek(remote.key) if remote.key and cache.has(remote.key) else None


def _with_paths(workflow: Workflow, remote: Remote, entry: Entry) -> Workflow:
    """The workflow with the paths of an entry in the place of the reference."""
    paths = [str(path) for path in unpack(entry.result["paths"], entry.content, None)]
    if remote.is_model:
        model = workflow.input_model.model_copy(update={"model_path": paths[0]})
        return workflow.model_copy(update={"input_model": model})
    return _with_files(workflow, remote, paths)


def _with_files(workflow: Workflow, remote: Remote, files: Sequence[str]) -> Workflow:
    index, configs = int(remote.place[1]), list(workflow.data_configs)
    load = configs[index].load_dataset_config.model_copy(update={"data_files": list(files)})
    configs[index] = configs[index].model_copy(update={"load_dataset_config": load})
    return workflow.model_copy(update={"data_configs": configs})


def bring(remotes: tuple[Remote, ...], workshop: Workshop) -> None:
    """Bring what is not in the cache; of what is, note that it was used."""
    for remote in remotes:
        task = Task(f"fetch:{remote.address}", remote.key, f"Bring {remote.address}")
        workshop.obtain(task, partial(_brought, remote, task, workshop))


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
