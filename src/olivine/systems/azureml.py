"""A compute of AzureML: its worker is a command job, and files go by a datastore of the workspace."""

import json
import re
import shlex
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from olivine import __version__
from olivine.azureml import Address, Asset, Command, Compute, Environment, Refused, Workspace, workspace_settings
from olivine.errors import OlivineError, RequestError, StepFailed, Unsupported
from olivine.messages import ending
from olivine.store.hashes import digest
from olivine.store.packing import OUTPUT
from olivine.store.remote import RemoteFiles, Tries
from olivine.systems._azureml_image import DOCKERFILE, Image
from olivine.systems._azureml_params import AzureMLParams
from olivine.systems._batch import Batch, BatchWorker
from olivine.systems._probe import Probe
from olivine.systems._protocol import Job

_NODE = ("python", "-P", "-m", "olivine.systems._azureml_node")
_STORE = "olivine-store"  # below the folder that a command begins in, which lies on the node's own disk
_SECRET = "hf-token"  # noqa: S105 - the name of a secret
_EXIT = "olivine: exit code "
_OF_SHELL = re.compile(rf"{_EXIT}|(/bin/)?(ba)?sh: line \d+: ")  # says how the worker ended, not what it said
_ENDED = ("Completed", "Failed", "Canceled")
_WAITS = {
    "NotStarted": "the job waits to be looked at",
    "Queued": "the job waits for a node of '{compute}'",
    "Provisioning": "a node of '{compute}' is made ready",
    "Preparing": "the environment is made ready, which takes some minutes the first time",
    "Starting": "the node starts the job",
    "NotResponding": "the node does not respond",
    "Paused": "the job is paused",
}
_RESOURCES = ("instance_type", "shm_size", "docker_args", "properties")
_ROLE = "Storage Blob Data Contributor"


class AzureML(Batch):
    """A compute of AzureML, Arc's too: each worker is a command job, and files lie in a datastore of the workspace."""

    aliases = ("AzureML",)
    modules: ClassVar[Mapping[str, str]] = {"azure.ai.ml": "azureml", "adlfs": "azureml"}
    pause_seconds = 5.0
    news_seconds: ClassVar[float] = 10.0  # how long a job is in a state before that is told

    Params = AzureMLParams
    params: AzureMLParams

    def __init__(self, params: AzureMLParams) -> None:
        super().__init__(params)
        self._settings = workspace_settings(params.azureml_client_config, Path())
        if unknown := sorted(set(params.resources or {}) - {*_RESOURCES}):
            raise RequestError(f"unknown key '{unknown[0]}' in 'resources'; there is {', '.join(_RESOURCES)}")
        if params.aml_environment_config is None:
            if params.aml_docker_config is None:
                raise RequestError("neither aml_docker_config nor aml_environment_config says what a job runs in")
            self._image.check()
        self._mounted: dict[str, Asset] = {}  # inputs of the jobs, by the names that commands have for them
        self._is_asking = False  # what a node has, for which one is enough
        self._states: dict[str, tuple[str, float]] = {}  # of a job, and since when it is in it

    @cached_property
    def _workspace(self) -> Workspace:
        return Workspace(self._settings)

    @property
    def _image(self) -> Image:
        if self.params.aml_docker_config is None:
            raise ValueError("a registered environment is not made")
        requirements = Path(self.params.requirements_file) if self.params.requirements_file is not None else None
        return Image(self.params.aml_docker_config, requirements, "gpu" if self.n_gpus else "cpu")

    # What is there

    def is_prepared(self) -> bool:
        """Whether it is known what a node has; RequestError where no job could be sent."""
        self._check()
        return self._environment is not None and self._remembered() is not None

    def probe(self) -> Probe:
        """What a node says in this environment; a job asks it where none did before."""
        remembered = self._remembered() if self._environment is not None else None
        if remembered is None:
            with tempfile.TemporaryDirectory() as folder:
                self.prepare(Path(folder, "log"))
            remembered = self._remembered() or {}
        return Probe.from_json(remembered)

    def prepare(self, log: Path) -> None:
        """Register the environment where it is to be made, and ask a node of the compute what it has in it."""
        try:
            self.far.write(self._memory, json.dumps(self._ask(log)).encode())
        except StepFailed:
            raise
        except OlivineError as error:
            raise StepFailed("prepare", str(error), log) from None

    def _check(self) -> None:
        compute = self._workspace.compute(self.params.aml_compute, (self.params.resources or {}).get("instance_type"))
        self._check_gpus(compute)
        if compute.n_nodes is not None and compute.n_nodes < self.n_nodes:
            raise Unsupported(
                f"instance_count asks for {self.n_nodes} nodes, but the compute '{compute.name}' has "
                f"{compute.n_nodes} node{'s' * (compute.n_nodes > 1)} at most"
            )
        if self.params.hf_token:
            self._workspace.check_secret(self._vault, _SECRET)
        if self.params.aml_environment_config is not None and self._environment is None:
            named = self.params.aml_environment_config
            which = f"version '{named.version}'" if named.version else f"label '{named.label or 'latest'}'"
            raise Refused(f"there is no environment '{named.name}' with the {which} in the {self._workspace.name}")
        with self._store_may_be_used():
            self.far.read(self._memory) if self._environment is not None else self.far.names("probes")

    def _check_gpus(self, compute: Compute) -> None:
        if compute.n_gpus is not None and compute.n_gpus < self.n_gpus:
            has = f"has {compute.n_gpus}" if compute.n_gpus else "has none"
            raise Unsupported(
                f"the config asks for {self.n_gpus} GPU{'s' * (self.n_gpus > 1)} in a node, but a node of the compute "
                f"'{compute.name}' {has}; name another compute or instance_type, or accelerators of the device cpu"
            )

    @cached_property
    def _vault(self) -> str:
        """The key vault that secrets are read from."""
        vault = self._settings.keyvault_name or self._workspace.vault()
        if not vault:
            raise Refused(
                f"'hf_token' is set, but the {self._workspace.name} has no key vault: name one as keyvault_name of "
                "azureml_client"
            )
        return vault

    @contextmanager
    def _store_may_be_used(self) -> Iterator[None]:
        try:
            yield
        except OlivineError as error:
            if "Authorization" not in str(error):
                raise
            raise Refused(
                f"these credentials may not use the files of the datastore '{self.params.datastores}': "
                f"ask for the role {_ROLE} ({error})"
            ) from None

    @property
    def n_nodes(self) -> int:
        """See System."""
        return self.params.instance_count

    # The environment

    @cached_property
    def _content(self) -> str:
        """The version of the environment that is made: it changes with all that it is made of."""
        with tempfile.TemporaryDirectory() as folder:
            hashed = self._image.write(Path(folder))[:24]
        docker = self.params.aml_docker_config
        return f"{docker.version}-{hashed}" if docker is not None and docker.version is not None else hashed

    @property
    def _name(self) -> str:
        docker = self.params.aml_docker_config
        return (docker.name if docker is not None else None) or "olivine"

    @property
    def _environment(self) -> Environment | None:
        """The environment where it is registered, looked up until it is."""
        if "_registered" not in vars(self):
            named = self.params.aml_environment_config
            if named is None:
                environment = self._workspace.environment(self._name, self._content)
            else:
                version = str(named.version) if named.version is not None else None
                environment = self._workspace.environment(named.name, version, named.label)
            if environment is None:
                return None
            self._registered = environment
        return self._registered

    def _make(self) -> None:
        """Send what the environment is built of, and register it."""
        name = f"environments/{self._content}"
        with tempfile.TemporaryDirectory() as folder:
            self._image.write(Path(folder))
            for path in sorted(Path(folder).rglob("*")):
                if path.is_file():
                    self.far.write(f"{name}/{path.relative_to(folder).as_posix()}", path.read_bytes())
        self._workspace.make_environment(self._name, self._content, f"{self._address.https}/{name}/", DOCKERFILE)

    @property
    def _made(self) -> Environment:
        """The environment; one of ours that is not there, or no longer, is made."""
        if self._environment is None and self.params.aml_environment_config is None:
            self._make()
        if (environment := self._environment) is None:
            raise Refused(f"the environment that a job needs is gone from the {self._workspace.name}")
        return environment

    # What a node has

    @property
    def _memory(self) -> str:
        """Where it is kept what a node has: in the same environment on the same compute, the same."""
        return f"probes/{digest(self._where)[:24]}.json"

    @property
    def _where(self) -> dict[str, Any]:
        kind = (self.params.resources or {}).get("instance_type")
        return {"environment": self._made.path, "compute": self.params.aml_compute, "instance_type": kind}

    def _remembered(self) -> dict[str, Any] | None:
        content = self.far.read(self._memory)
        with suppress(ValueError):
            told: dict[str, Any] = json.loads(content or b"null")
            return told
        return None

    def _ask(self, log: Path) -> dict[str, Any]:
        """What a worker there says that it has: it has then found its way to the files, too."""
        asked = Job("probe", "prepare", Path(OUTPUT), Path("probe"), params=self._where, log=str(log))
        self._is_asking = True
        with log.open("a", encoding="utf-8", buffering=1) as told, BatchWorker(self) as worker:

            def tell(event: str, fields: Mapping[str, Any]) -> None:
                told.write(f"{fields.get('message') or event}\n")

            try:
                answer = worker.run(asked, tell)
            except StepFailed as failure:
                raise StepFailed("prepare", self._unfit(failure.cause), log) from None
            finally:
                self._is_asking = False
        probe: dict[str, Any] = answer["probe"]
        if probe["olivine"] != __version__:
            raise RequestError(
                f"the environment has olivine {probe['olivine']}, but this is {__version__}; {self._fix}"
            )
        return probe

    def _unfit(self, cause: str) -> str:
        """Why no node can be asked, with what helps."""
        if "No module named" in cause and "olivine" in cause:
            return f"the environment '{self._made.path}' has no olivine {__version__} for AzureML; {self._fix}"
        if "AuthorizationPermissionMismatch" in cause or "AuthorizationFailure" in cause:
            return (
                f"the identity of the compute '{self.params.aml_compute}' may not use the files of the datastore "
                f"'{self.params.datastores}': give it the role {_ROLE} ({cause})"
            )
        return cause

    @property
    def _fix(self) -> str:
        return (
            f"install into it: olivine=={__version__} adlfs azure-identity azure-keyvault-secrets, "
            "or let one be made by aml_docker_config"
        )

    # What a queue is asked

    @cached_property
    def _address(self) -> Address:
        return self._workspace.files(self.params.datastores)

    def files(self) -> RemoteFiles:
        """See Batch."""
        return RemoteFiles(self._address.url, self._address.options, tries=self._tries)

    @property
    def _tries(self) -> Tries:
        """As the client's settings say."""
        return Tries(*self._workspace.tries)

    def mount(self, name: str, kind: str, address: str) -> None:
        """See System: the jobs that are sent from now on have it as an input, which their node reads by itself."""
        self._mounted[name] = Asset(kind, address)

    def submit(self, name: str, arguments: Sequence[str]) -> str:
        """See Batch."""
        secrets = ["--secret", f"HF_TOKEN={self._vault}/{_SECRET}"] if self.params.hf_token else []
        mounted = [text for name in self._mounted for text in ("--mounted", f"{name}=${{{{inputs.{name}}}}}")]
        n_nodes = 1 if self._is_asking else self.n_nodes
        nodes = ["--nodes", str(n_nodes)] if n_nodes > 1 else []
        line = shlex.join([*_NODE, *secrets, *mounted, *nodes, *arguments, "--store", _STORE, "--files", self.far.url])
        command = Command(
            name=f"olivine-{name}",
            line=f'{line}; code=$?; echo "{_EXIT}$code"; exit $code',
            environment=self._made,
            compute=self.params.aml_compute,
            # rows that lie in the same datastore are read by addresses from which `datasets` drops the account
            variables={"PYTHONUNBUFFERED": "1", "AZURE_STORAGE_ACCOUNT_NAME": self._address.account},
            resources=self.params.resources or {},
            tags={str(key): str(value) for key, value in (self.params.tags or {}).items()},
            inputs=dict(self._mounted),
            n_nodes=n_nodes,
        )
        self._workspace.submit(command)
        return command.name

    def ended(self, identity: str) -> str | None:
        """See Batch."""
        status = self._workspace.status(identity)
        if status is None:
            return f"is gone: AzureML has no job '{identity}'"
        if self._states.get(identity, ("", 0.0))[0] != status:
            self._states[identity] = status, time.monotonic()
        if status not in _ENDED:
            return None
        if status == "Canceled":
            return f"was cancelled in AzureML, as job '{identity}'"
        if status == "Completed":
            return "ended with exit code 0"
        return self._failure(identity)

    def _failure(self, identity: str) -> str:
        how = self._workspace.how_it_ended(identity)
        for node, log in enumerate(how.logs):  # the others of several are ended by AzureML, and say nothing
            lines = [line.strip() for line in log.splitlines() if line.strip()]
            code = next((line.removeprefix(_EXIT) for line in reversed(lines) if line.startswith(_EXIT)), "")
            if code.isdigit() and code != "0":
                which = f"on node {node + 1} of {len(how.logs)} " if len(how.logs) > 1 else ""
                ended = which + ending(int(code) if int(code) <= 128 else 128 - int(code))
                printed = [line for line in lines if not _OF_SHELL.match(line)]
                return f"{ended}; the log of its job ends: {printed[-1]}" if printed else ended
        # the command never ran, or its node went away
        return f"was ended by AzureML: {how.error or f'see the job {identity} in the studio'}"

    def waiting(self, identity: str) -> str:
        """See Batch."""
        state, since = self._states.get(identity, ("", 0.0))
        if time.monotonic() - since < self.news_seconds:
            return ""
        return _WAITS.get(state, "").format(compute=self.params.aml_compute)

    def cancel(self, identity: str) -> None:
        """See Batch."""
        if self._workspace.status(identity) not in (None, *_ENDED):
            self._workspace.cancel(identity)
