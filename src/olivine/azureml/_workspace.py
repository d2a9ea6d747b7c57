"""A workspace of AzureML as a place where commands run: its computes, environments, key vault and jobs."""

import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from olivine.azureml._blobs import Asset
from olivine.azureml._client import Access, Refused, access_by
from olivine.azureml._files import Address, files_at
from olivine.config.schema import AzureMLClient

_EXPERIMENT = "olivine"
_LOG = re.compile(r"std_log(?:_process_(\d+))?\.txt$")  # the files that have what a command printed, on each node
_LOG_BYTES = 2**16
_ADDRESS = re.compile(
    r"azureml://registries/(?P<registry>[^/]+)/environments/(?P<name>[^/]+)"
    r"(?:/versions/(?P<version>[^/]+)|/labels/(?P<label>[^/]+))?"
)


@dataclass(frozen=True)
class Compute:
    """n_gpus: of one node; n_nodes: at most; None where AzureML does not say."""

    name: str
    kind: str
    n_gpus: int | None
    n_nodes: int | None = None


@dataclass(frozen=True)
class Environment:
    """An environment. path: as a job names it."""

    path: str


@dataclass(frozen=True)
class Command:
    """A job to be sent. resources: settings of it beside the compute, as AzureML names them.

    inputs: what its node sees, by the names that the command has for them. n_nodes: each of which runs the command.
    """

    name: str
    line: str
    environment: Environment
    compute: str
    variables: Mapping[str, str] = field(default_factory=dict)
    resources: Mapping[str, Any] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)
    inputs: Mapping[str, Asset] = field(default_factory=dict)
    n_nodes: int = 1


@dataclass(frozen=True)
class Ended:
    """error: what AzureML says of a job that failed. logs: the end of what its command printed, on each node."""

    error: str
    logs: list[str]


class Workspace:
    """The workspace of the settings; what it refuses is raised as Refused, in one sentence.

    settings: with all three names of the workspace.
    """

    def __init__(self, settings: AzureMLClient) -> None:
        self._access: Access = access_by(settings.model_dump_json())
        self.name = f"workspace '{settings.workspace_name}'"

    @property
    def tries(self) -> tuple[int, float]:
        """How often a request is made again, and after how many seconds, doubled each time."""
        pipeline = self._access.pipeline
        return pipeline["retry_total"], pipeline["retry_backoff_factor"]

    def files(self, datastore: str) -> Address:
        """Where our files lie in a datastore."""
        return files_at(self._access, datastore)

    # What is there

    def vault(self) -> str | None:
        """The name of the workspace's own key vault."""
        with self._access.in_sentences(self.name):
            identity = self._client.workspaces.get(self._access.settings.workspace_name).key_vault
        return str(identity).rpartition("/")[2] if identity else None

    def check_secret(self, vault: str, name: str) -> None:
        """Refused when the vault is not there, or lacks the secret, as far as these credentials may see.

        The value is not asked for.
        """
        from azure.core.exceptions import HttpResponseError, ResourceNotFoundError, ServiceRequestError
        from azure.keyvault.secrets import SecretClient

        client = SecretClient(
            f"https://{vault}.vault.azure.net", self._access.credential, **self._access.pipeline, retry_connect=0
        )
        fix = f"set it: az keyvault secret set --vault-name {vault} --name {name} --value ..."
        with self._access.in_sentences(f"key vault '{vault}'"):
            try:
                versions = list(client.list_properties_of_secret_versions(name))
            except ServiceRequestError:
                raise Refused(f"there is no key vault '{vault}', or it cannot be reached from here") from None
            except ResourceNotFoundError:
                versions = []
            except HttpResponseError as error:
                if error.status_code != 403:  # the node reads it, not who sends the job
                    raise
                return
        if not any(version.enabled is not False for version in versions):
            raise Refused(f"the key vault '{vault}' has no secret '{name}'; {fix}")

    def compute(self, name: str, instance_type: str | None = None) -> Compute:
        """A compute. instance_type: of the nodes of one that has several."""
        from azure.core.exceptions import ResourceNotFoundError

        with self._access.in_sentences(self.name):
            self._client.workspaces.get(self._access.settings.workspace_name)
        with self._access.in_sentences(f"compute '{name}' in the {self.name}"):
            try:
                compute = self._client.compute.get(name)
            except ResourceNotFoundError:
                raise self._without_compute(name) from None
            if _word(compute.provisioning_state).lower() == "failed":
                raise Refused(f"the compute '{name}' was not made: {compute.provisioning_errors or 'see the studio'}")
            n_gpus, n_nodes = self._n_gpus(compute, instance_type), _n_nodes(compute)
            return Compute(name, str(compute.type), n_gpus, n_nodes)

    def _without_compute(self, name: str) -> Refused:
        there = ", ".join(sorted(compute.name for compute in self._client.compute.list())) or "none"
        return Refused(f"the {self.name} has no compute '{name}'; there is {there}")

    def _n_gpus(self, compute: Any, instance_type: str | None) -> int | None:
        if str(compute.type).lower() == "kubernetes":
            return _gpus_of_instance(compute, instance_type)
        size = str(getattr(compute, "size", None) or "").lower()
        sizes = self._client.compute.list_sizes() if size else ()
        return next((int(one.gpus or 0) for one in sizes if str(one.name).lower() == size), None)

    # Environments

    def environment(self, name: str, version: str | None = None, label: str | None = None) -> Environment | None:
        """A registered environment, of a registry where its name is an address there; None when there is none."""
        from azure.core.exceptions import ResourceNotFoundError

        registry, own, version, label = _in_registry(name, version, label)
        where = f"registry '{registry}'" if registry else self.name
        with self._access.in_sentences(f"environment '{name}' in the {where}"):
            try:
                client = self._access.registry(registry) if registry else self._client
                asked: dict[str, str] = {"version": version} if version else {"label": label or "latest"}
                registered = client.environments.get(own, **asked)
            except ResourceNotFoundError:
                return None
        if registry:
            return Environment(f"azureml://registries/{registry}/environments/{own}/versions/{registered.version}")
        return Environment(f"azureml:{own}:{registered.version}")

    def make_environment(self, name: str, version: str, context: str, dockerfile: str) -> None:
        """Register an environment, which is built where the first job needs it. context: address of a folder."""
        with self._access.in_sentences(f"environments in the {self.name}", may="make"):
            from azure.ai.ml.entities import BuildContext
            from azure.ai.ml.entities import Environment as Registered

            build = BuildContext(path=context, dockerfile_path=dockerfile)
            self._client.environments.create_or_update(Registered(name=name, version=version, build=build))

    # Jobs

    def submit(self, command: Command) -> str:
        """Send a job; gives the address of its page."""
        with self._access.in_sentences(f"jobs in the {self.name}", may="start"):
            return str(self._client.jobs.create_or_update(_job_of(command)).studio_url or "")

    def status(self, name: str) -> str | None:
        """How a job goes, in AzureML's word; None when there is no such job."""
        from azure.core.exceptions import ResourceNotFoundError

        with self._access.in_sentences(f"job '{name}' in the {self.name}"):
            try:
                status = self._client.jobs.get(name).status
            except ResourceNotFoundError:
                return None
        return _word(status)

    def cancel(self, name: str) -> None:
        """End a job, whether it waits or runs; nothing when it has ended."""
        from azure.core.exceptions import HttpResponseError

        with self._access.in_sentences(f"job '{name}' in the {self.name}", may="cancel"):
            try:
                self._client.jobs.begin_cancel(name)
            except HttpResponseError as error:
                if error.status_code not in (400, 404, 409):
                    raise

    def how_it_ended(self, name: str) -> Ended:
        """What is known of a job that failed.

        The SDK itself only prints this, as it comes.
        """
        with self._access.in_sentences(f"job '{name}' in the {self.name}"):
            details = self._client.jobs._runs_operations.get_run_details(name)  # noqa: SLF001 - it knows where runs are
        error = details.error.error.message if details.error and details.error.error else ""
        logs = details.log_files or {}
        by_node = {int(parts[1] or 0): address for name, address in logs.items() if (parts := _LOG.search(name))}
        return Ended(" ".join(str(error or "").split()), [_tail(by_node[node]) for node in sorted(by_node)])

    @property
    def _client(self) -> Any:
        return self._access.workspace


def _word(value: Any) -> str:
    """What the service says, whether the SDK has a name for it or not."""
    return str(getattr(value, "value", value))


def _job_of(command: Command) -> Any:
    from azure.ai.ml import Input
    from azure.ai.ml import command as job_of

    resources = command.resources
    job = job_of(
        name=command.name,
        display_name=command.name,
        experiment_name=_EXPERIMENT,
        command=command.line,
        inputs={name: Input(type=one.kind, path=one.address, mode="ro_mount") for name, one in command.inputs.items()},
        environment=command.environment.path,
        compute=command.compute,
        environment_variables=dict(command.variables),
        tags=dict(command.tags),
        instance_count=command.n_nodes,
        distribution={"type": "PyTorch", "process_count_per_instance": 1} if command.n_nodes > 1 else None,
        instance_type=resources.get("instance_type"),
        shm_size=resources.get("shm_size"),
        docker_args=resources.get("docker_args"),
    )
    if (properties := resources.get("properties")) is not None:
        job.resources.properties = properties
    return job


def _n_nodes(compute: Any) -> int | None:
    """How many nodes a job may have at most."""
    if str(compute.type).lower() == "computeinstance":
        return 1
    most = getattr(compute, "max_instances", None)
    return int(most) if most is not None else None


def _gpus_of_instance(compute: Any, instance_type: str | None) -> int | None:
    """How many GPUs a pod gets on a compute of Arc."""
    settings = compute.properties.get("properties", compute.properties)
    types = settings.get("instanceTypes") or settings.get("instance_types") or {}
    default = settings.get("defaultInstanceType") or settings.get("default_instance_type")
    chosen = types.get(instance_type or default)
    if instance_type is not None and types and chosen is None:
        raise Refused(f"the compute '{compute.name}' has no instance_type '{instance_type}'; it has {', '.join(types)}")
    if chosen is None:
        return None
    limits = (chosen.get("resources") or {}).get("limits") or {}
    return int(limits.get("nvidia.com/gpu") or 0)


def _in_registry(name: str, version: str | None, label: str | None) -> tuple[str | None, str, str | None, str | None]:
    """Registry, name, version and label of an environment, of its address where the name is one."""
    parts = _ADDRESS.fullmatch(name)
    if parts is None:
        return None, name.removeprefix("azureml:"), version, label
    return parts["registry"], parts["name"], parts["version"] or version, parts["label"] or label


def _tail(address: str) -> str:
    """The end of a log by its signed address; empty when it is not there."""
    from azure.core.exceptions import AzureError
    from azure.storage.blob import BlobClient

    with suppress(AzureError):
        blob = BlobClient.from_blob_url(address)
        size = blob.get_blob_properties().size
        content = blob.download_blob(offset=max(0, size - _LOG_BYTES)).readall() if size else b""
        return bytes(content).decode("utf-8", errors="replace")
    return ""
