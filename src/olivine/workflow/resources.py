"""Models and data that a config names where they lie: in AzureML, or in a folder of another layout.

What was brought is kept in the cache, under a key of what cannot change (a version) or of what lies there now. A plan
takes from there what has come; what has not is known by its list of files and their beginnings, and a run brings it
before anything else.

What only nodes of AzureML read never comes here: rows are named to them by address, and a model is taken into their
store by one of them. Of such a model, config, tokenizer and headers lie in the cache, see `olivine.absent`. What knows
AzureML is imported where a config names something in it.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from olivine import lazy
from olivine.config import Loaded
from olivine.config.schema import AzureMLClient, Resource, System, Workflow
from olivine.errors import OlivineError, Problem, RequestError
from olivine.models.mlflow import MARK
from olivine.paths import is_file, of_user
from olivine.store.entries import Cache, Entry
from olivine.store.hashes import digest
from olivine.store.packing import unpack

if TYPE_CHECKING:
    from olivine.models import sources
    from olivine.models.sources import Source, SourceFile
else:
    sources = lazy.module("olivine.models.sources")

MODEL = ("input_model", "model_path")
MLFLOW = "PyTorch.MLflow"


@dataclass(frozen=True)
class Remote:
    """A model, or the files of a data config, that lies elsewhere.

    place: of its key in the config. address: names it. source, files: what is there; None and empty where that need not
    be asked. within: the file that is the model, where it is no folder. is_here: it is in the cache. urls: of all
    files, for those who read them there. host: the system one of whose nodes takes the model; None where it comes here.
    """

    place: tuple[str | int, ...]
    address: str
    key: str
    source: "Source | None" = None
    files: "tuple[SourceFile, ...]" = ()
    within: str = ""
    is_mlflow: bool = False
    is_here: bool = False
    urls: tuple[str, ...] = ()
    host: str | None = None

    @property
    def is_model(self) -> bool:
        """Whether it is the input model."""
        return self.place == MODEL

    @property
    def n_bytes(self) -> int:
        """That bringing it moves to this machine."""
        return sum(file.n_bytes for file in self.files) if self.host is None else 0


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
        if (entry := entry_of(Cache(cache_dir), remote)) is not None:
            workflow = _with_paths(workflow, remote, entry)
        remotes.append(replace(remote, is_here=entry is not None))
    if has_model:
        problems += _wrong_format(loaded, workflow, remotes)
    return Settled(workflow, tuple(remotes), tuple(problems), has_model)


def _is_told(error: OlivineError, loaded: Loaded) -> bool:
    """Whether the check of the config has said what keeps a reference from being followed."""
    from olivine.azureml import Malformed

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
        source: Source = sources.FolderSource(resource)
        return _listed(Remote(place, str(resource), ""), source, {"address": str(resource)}, trusted=trusted)
    from olivine.azureml import Refused, reference

    there = reference(resource, workflow.azureml_client, folder)
    identity, store = dict(there.identity), _store_of_nodes(workflow, there.address) if place == MODEL else None
    remote = Remote(place, there.address, "")
    if there.is_versioned:
        taken = replace(remote, key=_key({**identity, "taken": store}, trusted=trusted), host=workflow.host)
        for known in (*([taken] if store else []), replace(remote, key=_key(identity, trusted=trusted))):
            if entry_of(Cache(cache_dir), known) is not None:
                return known
    if offline:
        raise Refused(f"'{there.address}' is to be fetched, and the network is off", "network")
    source = there.open()
    listed = _listed(remote, source, identity, trusted=trusted, is_versioned=there.is_versioned)
    if store is None or not there.is_versioned or not _is_checkpoint(listed) or source.asset() is None:
        return listed
    return replace(taken, source=source, files=listed.files, is_mlflow=listed.is_mlflow)


def _is_checkpoint(remote: Remote) -> bool:
    """Whether a plan knows a model by its config and the headers of its weights."""
    names = [file.name for file in remote.files]
    weights = [name for name in names if name.endswith(".safetensors")]
    return "config.json" in names and bool(weights) and not any("/" in name for name in weights)


def _key(identity: Mapping[str, Any], *, trusted: bool) -> str:
    return digest({"bring": dict(identity), "trusted": trusted})


def _listed(
    remote: Remote, source: "Source", identity: Mapping[str, Any], *, trusted: bool, is_versioned: bool = False
) -> Remote:
    """What lies there now. Refused where that is nothing."""
    from olivine.azureml import Blobs, Refused

    files = tuple(source.files())
    if not files:
        kind: Any = "missing-model" if remote.is_model else "missing-file"
        raise Refused(f"nothing lies at '{remote.address}'; mend its path, in which the case of letters counts", kind)
    layout = sources.Layout(files)
    if remote.is_model:
        layout = sources.model_layout(source, files, trusted=trusted)
    content = {} if is_versioned else {"files": [(file.name, file.n_bytes, file.tag) for file in layout.files]}
    key = _key({**identity, **content}, trusted=trusted)
    urls = [source.address(file) for file in files] if isinstance(source, Blobs) and not remote.is_model else []
    told = replace(remote, urls=() if None in urls else tuple(str(url) for url in urls))
    return replace(told, key=key, source=source, files=layout.files, within=layout.within, is_mlflow=layout.is_mlflow)


def _nodes_read(workflow: Workflow, remote: Remote) -> bool:
    """Whether all that reads rows runs on computes of AzureML whose files go by the datastore where they lie."""
    store = _store_of_all(workflow)
    return bool(remote.urls) and store is not None and remote.address.startswith(store)


def _store_of_nodes(workflow: Workflow, address: str) -> str | None:
    """The datastore where a model is taken to; None where something else than nodes of AzureML reads it.

    address: of the model, which lies in a registry, or in the workspace of the datastore.
    """
    store = _store_of_all(workflow)
    workspace = store.partition("/datastores/")[0] if store is not None else ""
    is_near = address.startswith((f"{workspace}/", "azureml://registries/"))
    return store if is_near and workflow.input_model.adapter_path is None else None


def _store_of_all(workflow: Workflow) -> str | None:
    """The datastore by which files go of all that runs; None where something runs elsewhere than on AzureML."""
    hosts = [workflow.host, *(config.host for config in workflow.passes.values() if config.host is not None)]
    hosts += [workflow.target] if workflow.target is not None else []
    systems = [workflow.systems.get(host) if host is not None else None for host in hosts]
    stores = {
        _datastore_of(system, workflow) if system is not None and system.type == "AzureML" else None
        for system in systems
    }
    return stores.pop() if len(stores) == 1 else None


def _datastore_of(system: System, workflow: Workflow) -> str:
    """The address of the datastore where the files of a system lie, as far as the config says it."""
    from olivine.azureml import address_of, client_of

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


def entry_of(cache: Cache, remote: Remote) -> Entry | None:
    """What the cache holds of it."""
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
