"""What a config names in AzureML: a model of a workspace or registry, a place in a datastore, the output of a job."""

import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

from pydantic import ValidationError

from olivine.azureml._blobs import Asset, Blobs, Place
from olivine.azureml._client import Access, Refused, access_by, workspace_settings
from olivine.config.schema import (
    RESOURCE_SETTINGS,
    AzureMLClient,
    AzureMLDatastore,
    AzureMLJobOutput,
    AzureMLModel,
    Resource,
    Workflow,
)

_URL = re.compile(
    r"azureml://(?:subscriptions/(?P<subscription_id>[^/]+)/resourcegroups/(?P<resource_group>[^/]+)"
    r"/(?:providers/Microsoft\.MachineLearningServices/)?workspaces/(?P<workspace_name>[^/]+)/)?"
    r"datastores/(?P<datastore>[^/]+)(?:/paths/(?P<path>.*))?",
    re.IGNORECASE,
)
_REGISTRY_VERSION = "2021-10-01-dataplanepreview"  # of the requests that a registry answers
_BLOB = re.compile(r"(?P<container>https://[^/]+/[^/]+)/(?P<path>.+)")


class Malformed(Refused):
    """The keys of a resource do not hold, which is told where the config is read."""


@dataclass(frozen=True)
class Reference:
    """Something in AzureML.

    address: names it in messages. identity: what a cache may remember it by; is_versioned: its content never changes.
    """

    address: str
    identity: Mapping[str, Any]
    is_versioned: bool
    open: Callable[[], Blobs]


def reference(resource: Resource, client: AzureMLClient | None, folder: Path) -> Reference:
    """What a resource of the config names. client: the workflow's azureml_client; folder: of the config.

    Nothing is asked of AzureML before it is opened. Raises Refused when names are missing.
    """
    try:
        settings: Any = RESOURCE_SETTINGS[resource.type].model_validate(dict(resource.config))
    except (KeyError, ValidationError):
        raise Malformed(f"the resource '{resource.type}' lacks what it needs") from None
    client = settings.azureml_client or client
    if isinstance(settings, AzureMLModel) and resource.type == "azureml_registry_model":
        return _registry_model(settings, client)
    if isinstance(settings, AzureMLDatastore):
        return _datastore(settings, client, folder)
    workspace = workspace_settings(client, folder)
    if isinstance(settings, AzureMLJobOutput):
        return _job_output(settings, workspace)
    return _workspace_model(settings, workspace)


def client_of(workflow: Workflow) -> AzureMLClient | None:
    """The workspace of a workflow: the one that it names, else the only one that what it names in AzureML lies in."""
    if workflow.azureml_client is not None:
        return workflow.azureml_client
    files = (config.load_dataset_config.data_files for config in workflow.data_configs)
    clients: list[AzureMLClient] = []
    for resource in (workflow.input_model.model_path, *files):
        if not isinstance(resource, Resource):
            continue
        with suppress(KeyError, ValidationError):
            settings: Any = RESOURCE_SETTINGS[resource.type].model_validate(dict(resource.config))
            clients += [settings.azureml_client] if settings.azureml_client not in (None, *clients) else []
    return clients[0] if len(clients) == 1 else None


def _registry_model(settings: AzureMLModel, client: AzureMLClient | None) -> Reference:
    if not settings.registry_name:
        raise Refused("the registry model has no registry_name")
    registry, name, version = settings.registry_name, settings.name, str(settings.version)
    address = f"azureml://registries/{registry}/models/{name}/versions/{version}"

    def place(access: Access) -> Place:
        with access.in_sentences(f"registry '{registry}'", "missing-model"):
            ml = access.registry(registry)
        what = f"model '{name}' of version '{version}' in the registry '{registry}'"
        listed = f"az ml model list --registry-name {registry} --name {name}"
        with access.in_sentences(what, "missing-model", listed=listed):
            return _signed(ml, registry, name, version)

    return Reference(address, {"address": address}, True, _opening(client or AzureMLClient(), place, address))


def _signed(ml: Any, registry: str, name: str, version: str) -> Place:
    """Where a registry keeps a model, with the signature that lets it be read.

    The SDK itself only downloads whole models, and no name with a slash, which models of registries may have.
    """
    there = f"models/{quote(name, safe='')}/versions/{quote(version, safe='')}"
    model = _asked(ml, "GET", registry, there)["properties"]
    path, kind = model["modelUri"], model.get("modelType") or "custom_model"
    parts = _BLOB.fullmatch(path)
    if parts is None:
        raise Refused(f"the registry says that the model lies at '{path}', which is no blob")
    body = {"assetId": f"azureml://registries/{registry}/models/{name}/versions/{version}", "blobUri": path}
    signed = _asked(ml, "POST", registry, there.replace("models/", "datarefs/", 1), json=body)
    credential = signed["blobReferenceForConsumption"]["credential"]
    asset = Asset(kind, body["assetId"])
    return Place(credential.get("sasUri") or parts["container"], parts["path"], asset=asset)


def _asked(ml: Any, method: str, registry: str, asset: str, **content: Any) -> Any:
    """What the service of a registry answers."""
    from azure.core.rest import HttpRequest

    place = f"/subscriptions/{ml.subscription_id}/resourceGroups/{ml.resource_group_name}"
    url = f"{place}/providers/Microsoft.MachineLearningServices/registries/{registry}/{asset}"
    request = HttpRequest(method, url, params={"api-version": _REGISTRY_VERSION}, **content)
    client = ml.models._registry_service_client  # noqa: SLF001 - it knows where the registry is, and signs requests
    answer = client.send_request(request)
    answer.raise_for_status()
    return answer.json()


def _workspace_model(settings: AzureMLModel, workspace: AzureMLClient) -> Reference:
    name, version = settings.name, str(settings.version)
    address = f"{address_of(workspace)}/models/{name}/versions/{version}"

    def place(access: Access) -> Place:
        what = f"model '{name}' of version '{version}' in the workspace '{workspace.workspace_name}'"
        listed = f"az ml model list --name {name} {_flags(workspace)}"
        with access.in_sentences(what, "missing-model", listed=listed):
            path = access.workspace.models.get(name, version).path
        return _at(access, path)

    return Reference(address, {"address": address}, True, _opening(workspace, place, address))


def _datastore(settings: AzureMLDatastore, client: AzureMLClient | None, folder: Path) -> Reference:
    url = settings.datastore_url
    if url is None:
        if not settings.datastore_name or settings.relative_path is None:
            raise Refused("the datastore needs datastore_name and relative_path, or a datastore_url")
        url = f"azureml://datastores/{settings.datastore_name}/paths/{settings.relative_path.lstrip('/')}"
    parts = _URL.fullmatch(url)
    if parts is None:
        raise Refused(f"'{url}' is no address of a datastore: azureml://datastores/NAME/paths/PATH")
    own = {key: parts[key] for key in ("subscription_id", "resource_group", "workspace_name") if parts[key]}
    workspace = workspace_settings((client or AzureMLClient()).model_copy(update=own) if own else client, folder)
    if not (parts["path"] or "").strip("/"):
        raise Refused(f"'{url}' names a whole datastore: name a file or folder of it")
    address = f"{address_of(workspace)}/datastores/{parts['datastore']}/paths/{parts['path']}"
    return Reference(address, {"address": address}, False, _opening(workspace, partial(_at, url=address), address))


def _job_output(settings: AzureMLJobOutput, workspace: AzureMLClient) -> Reference:
    job, output, path = settings.job_name, settings.output_name, settings.relative_path.strip("/")
    address = f"{address_of(workspace)}/jobs/{job}/outputs/{output}/{path}".rstrip("/")

    def place(access: Access) -> Place:
        what = f"job '{job}' in the workspace '{workspace.workspace_name}'"
        with access.in_sentences(what, "missing-model", listed=f"az ml job list {_flags(workspace)}"):
            done = access.workspace.jobs.get(job)
        if output not in done.outputs:
            known = ", ".join(done.outputs) or "none"
            raise Refused(f"the job '{job}' has no output '{output}'; there is {known}", "missing-model")
        if done.status != "Completed":
            raise Refused(f"the job '{job}' is {done.status}, so its outputs are not whole", "missing-model")
        # where AzureML puts an output that was given no place
        default = f"azureml://datastores/workspaceblobstore/paths/azureml/{job}/{output}/"
        at = (done.outputs[output].path or default).replace("${{name}}", job).rstrip("/")
        return _at(access, f"{at}/{path}".rstrip("/"))

    return Reference(address, {"address": address}, True, _opening(workspace, place, address))


def _flags(workspace: AzureMLClient) -> str:
    """What tells the command line of Azure of a workspace."""
    return f"-g {workspace.resource_group} -w {workspace.workspace_name}"


def address_of(workspace: AzureMLClient) -> str:
    """Of a workspace."""
    names = workspace.subscription_id, workspace.resource_group, workspace.workspace_name
    return "azureml://subscriptions/{}/resourcegroups/{}/workspaces/{}".format(*names)


def _opening(settings: AzureMLClient, place: Callable[[Access], Place], what: str) -> Callable[[], Blobs]:
    def opened() -> Blobs:
        access = access_by(settings.model_dump_json())
        return Blobs(access, partial(place, access), what)

    return opened


def _at(access: Access, url: str) -> Place:
    """Where a path of a datastore lies, and what opens it: the datastore's own secret, else these credentials."""
    if (blob := _BLOB.fullmatch(url)) is not None:
        return Place(blob["container"], blob["path"], access.credential)
    parts = _URL.fullmatch(url)
    if parts is None:
        raise Refused(f"'{url}' is no place in a datastore")
    name = parts["datastore"]
    store = store_of(access, name)
    container = getattr(store, "container_name", None) or getattr(store, "filesystem", None)
    if container is None:
        raise Refused(f"the datastore '{name}' is a {type(store).__name__}, which is not read: use one of blobs")
    address = f"{store.protocol or 'https'}://{store.account_name}.blob.{store.endpoint or 'core.windows.net'}"
    account_key, signature = secret_of(store)
    path = parts["path"] or ""
    asset = Asset("uri_folder", f"{address_of(access.settings)}/datastores/{name}/paths/{path}")
    return Place(f"{address}/{container}", path, account_key or signature or access.credential, asset)


def store_of(access: Access, name: str) -> Any:
    """A datastore, with the key or signature that it keeps where these credentials may see it."""
    from azure.core.exceptions import HttpResponseError

    what = f"datastore '{name}' in the workspace '{access.settings.workspace_name}'"
    with access.in_sentences(what, listed=f"az ml datastore list {_flags(access.settings)}"):
        stores = access.workspace.datastores
        try:
            return stores.get(name, include_secrets=True)
        except HttpResponseError as error:
            if error.status_code != 403:
                raise
            return stores.get(name)


def secret_of(store: Any) -> tuple[str | None, str | None]:
    """The key and the signature of a datastore; both are None where it is opened by who asks."""
    return getattr(store.credentials, "account_key", None), getattr(store.credentials, "sas_token", None)
