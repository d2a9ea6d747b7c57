"""A Kubernetes cluster: its worker is the pod of a Job; files go by a volume claim, or an address that both reach."""

import io
import json
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import IO, Any, ClassVar

from olivine import __version__
from olivine.errors import OlivineError, RequestError, StepFailed
from olivine.messages import ending
from olivine.paths import is_folder
from olivine.store.hashes import digest
from olivine.store.remote import RemoteFiles
from olivine.store.transfer import Files
from olivine.systems import _kubernetes_ray
from olivine.systems._base import Manifests
from olivine.systems._batch import Batch
from olivine.systems._kubernetes import Absent, Cluster, Forbidden
from olivine.systems._kubernetes_check import check
from olivine.systems._kubernetes_manifests import (
    INDEX,
    MOUNT,
    SIGTERM,
    as_local,
    environment,
    job,
    moved,
    spread,
    workflow_job,
)
from olivine.systems._kubernetes_params import KubernetesParams
from olivine.systems._kubernetes_pods import has_ended, image_id, state_at_end, stuck, waits_for
from olivine.systems._kubernetes_pods import told as told_of
from olivine.systems._probe import PROBE, Probe, read_answer
from olivine.systems._process import WORKER
from olivine.work import Estimate

_PROBE_SECONDS = 1800.0  # a node may have to be added, and the image pulled


class Kubernetes(Batch):
    """A Kubernetes cluster: each worker is the pod of a Job, with the GPUs and memory that the config asks for."""

    aliases = ("Kubernetes",)
    modules = {"kubernetes": "kubernetes"}  # noqa: RUF012 - declared in the base

    Params = KubernetesParams
    stuck_seconds: ClassVar[float] = 60.0  # that a pod may wait for its image or a Secret
    params: KubernetesParams

    def __init__(self, params: KubernetesParams) -> None:
        super().__init__(params)
        if params.files is not None and _is_here(params.files):
            raise RequestError(
                f"'files: {params.files}' is a folder of this machine, which pods do not see: name an address that "
                "both reach, or a volume_claim and the volume_folder where this machine has it"
            )
        if params.files is None and (params.volume_claim is None or params.volume_folder is None):
            raise RequestError(
                "files have no way to the pods: name an address that both reach as 'files', or a 'volume_claim' and as "
                "'volume_folder' where this machine has it mounted"
            )
        if params.volume_folder is not None and not is_folder(params.volume_folder):
            raise RequestError(f"there is no volume_folder '{params.volume_folder}'")
        self._cluster = Cluster(params.kubeconfig, params.context)
        self._need = Estimate()
        self._known_images: set[str] = set()
        self._waiting: dict[str, str] = {}
        self._stuck_since: dict[str, float] = {}

    @property
    def _shares_folder(self) -> bool:
        """Whether the pods and this machine see one folder; else files go by an address."""
        return self.params.files is None

    @cached_property
    def _namespace(self) -> str:
        return self.params.namespace or self._cluster.namespace

    @property
    def _n_gpus(self) -> int:
        return self.params.gpus if self.params.gpus is not None else self.n_gpus

    # What is there

    def is_prepared(self) -> bool:
        """Whether it is known what a pod of the image has; RequestError where no pod could be made."""
        check(self._cluster, self._namespace, self.params, self._n_gpus)
        return self._remembered() is not None

    def probe(self) -> Probe:
        """What a pod of the image has; one is started where none was asked before."""
        remembered = self._remembered()
        if remembered is None:
            check(self._cluster, self._namespace, self.params, self._n_gpus)
            remembered = self._ask(io.StringIO())
        return Probe.from_json(remembered["probe"])

    def prepare(self, log: Path) -> None:
        """Ask a pod of the image what it has."""
        try:
            with log.open("a", encoding="utf-8", buffering=1) as told:
                self._ask(told)
        except StepFailed:
            raise
        except OlivineError as error:
            raise StepFailed("prepare", str(error), log) from None

    @property
    def n_nodes(self) -> int:
        """See System."""
        return self.params.nodes

    def reserve(self, need: Estimate) -> None:
        """See System: pods ask for it where the config does not say more."""
        self._need = need

    # What a queue is asked

    def files(self) -> RemoteFiles:
        """See Batch."""
        return RemoteFiles(self.params.files or str(self.params.volume_folder))

    def missing(self, hashes: Iterable[str]) -> set[str]:
        """See System."""
        return self._shared.missing(hashes) if self._shares_folder else super().missing(hashes)

    def put(self, source: Path, hashed: str) -> None:
        """See System."""
        (self._shared if self._shares_folder else self.far).put(source, hashed)

    def get(self, hashed: str, target: Path) -> None:
        """See System."""
        (self._shared if self._shares_folder else self.far).get(hashed, target)

    @property
    def _shared(self) -> Files:
        return Files(Path(str(self.params.volume_folder)))

    def submit(self, name: str, arguments: Sequence[str]) -> str:
        """See Batch."""
        manifest = self.worker_manifest(f"olivine-{name}", arguments)
        self._create(manifest)
        return f"olivine-{name}"

    def ended(self, identity: str) -> str | None:
        """See Batch."""
        self._waiting.pop(identity, None)
        try:
            told = self._cluster.call("BatchV1Api", "read_namespaced_job", identity, self._namespace)
            pods = self._cluster.pods(self._namespace, identity)
        except Absent:
            return f"is gone: somebody has deleted its Job '{identity}'"
        conditions = {one["type"]: one for one in told["status"].get("conditions") or () if one["status"] == "True"}
        if "Complete" in conditions:
            return self._success(identity)
        if "Failed" in conditions:
            return self._failure(pods, conditions["Failed"].get("message", ""))
        for pod in pods[-self.n_nodes :]:
            if why := self._stays_stuck(identity, pod) or self._has_changed(pod):
                self.cancel(identity)
                return f"was not started: {why}"
            if why := waits_for(pod):
                self._waiting[identity] = f"its pod waits for a node: {why}"
        return None

    def waiting(self, identity: str) -> str:
        """See Batch."""
        return self._waiting.get(identity, "")

    def cancel(self, identity: str) -> None:
        """See Batch."""
        options = {"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": "Background"}
        try:
            self._cluster.call("BatchV1Api", "delete_namespaced_job", identity, self._namespace, body=options)
        except Absent:
            return

    # Manifests

    def worker_manifest(self, name: str, arguments: Sequence[str]) -> dict[str, Any]:
        """The Job of a worker. arguments: see Batch.submit."""
        places = ["--store", MOUNT] if self._shares_folder else ["--store", MOUNT, "--files", str(self.params.files)]
        manifest = self._job(name, [self.params.python, *WORKER, *arguments, *places], self._need)
        return spread(manifest, self.n_nodes) if self.n_nodes > 1 else manifest

    def probe_manifest(self, name: str) -> dict[str, Any]:
        """The Job that says what a pod has."""
        return self._job(name, [self.params.python, *PROBE, "--store", MOUNT], Estimate())

    def manifests(self, name: str, workflow: Mapping[str, Any]) -> Manifests:
        """See System: the Jobs of a run, and with a claim the whole workflow as one."""
        title = f"olivine-{digest(workflow)[:12]}"
        jobs: dict[str, list[dict[str, Any]]] = {
            "probe": [self.probe_manifest(f"{title}-probe")],
            "worker": [self.worker_manifest(f"{title}-worker", ["--batch", title])],
        }
        parts, notes = self._pod(self._need), list[str]()
        if (nodes := self.params.ray) is not None:
            jobs["raycluster"] = [_kubernetes_ray.cluster(f"{title}-ray", self.params, nodes, parts)]
        if self.params.volume_claim is not None:
            system = workflow["systems"][name]
            inside, outside = moved(workflow, as_local(system), self.params.volume_folder, title)
            if outside:
                places = ", ".join(f"'{place}'" for place in dict.fromkeys(outside))
                notes.append(f"the workflow is not written as a Job of its own: {places} lies outside of volume_folder")
            else:
                jobs["run"] = workflow_job(title, self.params.python, inside, *parts)
                if self.n_nodes > 1:
                    notes.append("the workflow as a Job of its own has one pod, and fine-tunes on that alone")
            if nodes is not None and not outside:
                ray = _kubernetes_ray.as_ray(self.params, system, self._n_gpus)
                spread, _ = moved(workflow, ray, self.params.volume_folder, f"{title}-rayjob")
                jobs["rayjob"] = _kubernetes_ray.job(f"{title}-rayjob", spread, self.params, nodes, parts)
        where = {"namespace": self.params.namespace} if self.params.namespace else {}
        placed = {
            kind: [one | {"metadata": {**one["metadata"], **where}} for one in documents]
            for kind, documents in jobs.items()
        }
        return Manifests(placed, tuple(notes))

    def _job(self, name: str, command: Sequence[str], need: Estimate) -> dict[str, Any]:
        return job(name, command, *self._pod(need))

    def _pod(self, need: Estimate) -> tuple[dict[str, Any], dict[str, Any], dict[str, str]]:
        """What stands in the spec of a pod and of its container beside the command, and the labels of both."""
        params = self.params
        labels = {"app.kubernetes.io/name": "olivine", "app.kubernetes.io/version": __version__, **params.labels}
        claim = {"persistentVolumeClaim": {"claimName": params.volume_claim}}
        store = {"name": "store", **(claim if params.volume_claim else {"emptyDir": {}})}
        sub_path = {"subPath": params.volume_path} if params.volume_claim and params.volume_path else {}
        pod = {
            "nodeSelector": params.node_selector,
            "tolerations": [one.model_dump(by_alias=True, exclude_none=True) for one in params.tolerations],
            "imagePullSecrets": [{"name": secret} for secret in params.image_pull_secrets],
            "serviceAccountName": params.service_account,
            "priorityClassName": params.priority_class,
            "volumes": [store, {"name": "shm", "emptyDir": {"medium": "Memory"}}],
        }
        container = {
            "image": params.image,
            "env": environment({"PYTHONUNBUFFERED": "1", **params.env}, params.secrets),
            "resources": self._resources(need),
            "volumeMounts": [
                {"name": "store", "mountPath": MOUNT, **sub_path},
                {"name": "shm", "mountPath": "/dev/shm"},  # noqa: S108 - of the pod: what its processes share
            ],
        }
        return {key: value for key, value in pod.items() if value}, container, labels

    def _resources(self, need: Estimate) -> dict[str, Any]:
        """What a pod asks for. What the config says is its limit too; an estimate is none."""
        gpus = {self.params.gpu_resource: str(self._n_gpus)} if self._n_gpus else {}
        said = {
            "cpu": self.params.cpus,
            "memory": self.params.memory,
            "ephemeral-storage": self.params.ephemeral_storage,
        }
        stays = self.params.volume_claim is not None  # what is written lies on the volume
        needed = {"memory": need.memory_bytes, "ephemeral-storage": 0 if stays else need.disk_bytes}
        requests = {name: str(amount) for name, amount in needed.items() if amount}
        requests |= {name: amount for name, amount in said.items() if amount is not None}
        limits = {name: amount for name, amount in said.items() if amount is not None and name != "cpu"}
        return {"requests": requests | gpus, "limits": limits | gpus}

    # What a pod has

    def _remembered(self) -> Mapping[str, Any] | None:
        content = self.far.read(self._memory)
        return json.loads(content) if content else None

    @property
    def _memory(self) -> str:
        """Where it is kept what a pod has: of the same manifest, the same."""
        return f"probes/{digest(self.probe_manifest('probe'))[:24]}.json"

    def _ask(self, told: IO[str]) -> Mapping[str, Any]:
        """Start a pod that says what it has, and remember it."""
        name = f"olivine-probe-{uuid.uuid4().hex[:8]}"
        self._create(self.probe_manifest(name))
        try:
            pod = self._finished(name, told)
            log = self._log(pod)
            told.write(log)
            state = state_at_end(pod)
            if state.get("exitCode") != 0:
                raise self._unfit(log, state)
            probe = read_answer(log, f"{self.params.image}: {' '.join(PROBE)}")
            if probe.olivine != __version__:
                raise RequestError(
                    f"the image '{self.params.image}' has olivine {probe.olivine}, but this is {__version__}; "
                    f"{self._fix}"
                )
        finally:
            self.cancel(name)
        record = {"probe": probe.to_json(), "image_id": image_id(pod)}
        self.far.write(self._memory, json.dumps(record).encode())
        return record

    @property
    def _fix(self) -> str:
        return f"make it with: pip install olivine=={__version__}"

    def _finished(self, name: str, told: IO[str]) -> Mapping[str, Any]:
        """The pod of a Job when it has ended; what it waits for is told until then."""
        until, last = time.monotonic() + _PROBE_SECONDS, ""
        for pod in self._seen(name, until):
            if has_ended(pod):
                return pod
            if why := stuck(pod):
                raise OlivineError(f"no pod of the image can be started: {why}")
            if (waits := told_of(pod)) != last:
                told.write(f"{waits}\n")
                last = waits
        raise OlivineError(f"no pod has started within {_PROBE_SECONDS / 60:.0f} minutes{f': {last}' if last else ''}")

    def _seen(self, name: str, until: float) -> Iterator[Mapping[str, Any]]:
        while (left := until - time.monotonic()) > 0:
            yield from self._cluster.changes(self._namespace, name, max(1, min(240, int(left))))
            time.sleep(0.2)

    def _unfit(self, log: str, state: Mapping[str, Any]) -> RequestError:
        """Why the image does not serve."""
        image = self.params.image
        message = str(state.get("message", ""))
        if "No module named" in log and "olivine" in log:
            return RequestError(f"the image '{image}' has no olivine; {self._fix}")
        if "not found" in message:
            return RequestError(f"the image '{image}' has no '{self.params.python}'; name its Python as 'python'")
        last = (log.strip().splitlines() or [message or f"exit code {state.get('exitCode')}"])[-1]
        return RequestError(f"a pod of the image '{image}' cannot say what it has: {last}")

    # How a pod ended

    def _success(self, identity: str) -> str:
        """How a Job ended whose pod did well; one that said nothing has looked elsewhere for what it should do."""
        if self.far.names(f"jobs/{identity.removeprefix('olivine-')}/events"):
            return "ended with exit code 0"
        here = self.params.files or f"the volume_folder '{self.params.volume_folder}'"
        return f"left no word at {here}: is that where the pods find '{self.params.volume_claim or here}'?"

    def _failure(self, pods: Sequence[Mapping[str, Any]], message: str) -> str:
        """How the last pod of a Job that failed has ended, in words that follow "its worker "."""
        if not pods:
            return f"was ended by the cluster: {message or 'its pod is gone'}"
        pod = ([pod for pod in pods if state_at_end(pod).get("exitCode", 0) not in (0, SIGTERM)] or pods)[-1]
        which = f"on node {self._index(pod) + 1} of {self.n_nodes} " if self.n_nodes > 1 else ""
        return which + self._end_of(pod, message)

    def _index(self, pod: Mapping[str, Any]) -> int:
        return int(pod["metadata"].get("labels", {}).get(INDEX, 0))

    def _end_of(self, pod: Mapping[str, Any], message: str) -> str:
        """How a pod has ended, in words that follow "its worker "."""
        state = state_at_end(pod)
        if state.get("reason") == "OOMKilled":
            limit = f" (its limit is {self.params.memory})" if self.params.memory else ""
            return f"was killed by the kernel: out of memory{limit}"
        if pod["status"].get("reason") == "Evicted":
            return f"was evicted: {pod['status'].get('message', message)}"
        if "exitCode" not in state:
            return f"was ended by the cluster: {message}"
        code = state["exitCode"]
        last = (self._log(pod).strip().splitlines() or [""])[-1]
        return ending(code if code <= 128 else 128 - code) + (f"; the log of its pod ends: {last}" if last else "")

    def _stays_stuck(self, identity: str, pod: Mapping[str, Any]) -> str | None:
        """Why the pod of a worker will not start; a registry that is away for a moment is no reason."""
        if (why := stuck(pod)) is None:
            self._stuck_since.pop(identity, None)
            return None
        since = self._stuck_since.setdefault(identity, time.monotonic())
        return why if time.monotonic() - since >= self.stuck_seconds else None

    def _has_changed(self, pod: Mapping[str, Any]) -> str | None:
        """Why the image of a pod is not the one that was planned with, if so: its tag names another one now."""
        running = image_id(pod)
        if not running or running in self._known_images:
            return None
        self._known_images.add(running)
        remembered = self._remembered()
        if remembered is None or remembered["image_id"] in ("", running):
            return None
        self.far.write(self._memory, b"")
        return f"the image '{self.params.image}' is another one than it was when it was planned with; run it again"

    def _log(self, pod: Mapping[str, Any]) -> str:
        try:
            name = pod["metadata"]["name"]
            return str(self._cluster.call("CoreV1Api", "read_namespaced_pod_log", name, self._namespace))
        except OlivineError as error:  # a node that is gone has no logs
            return str(error)

    def _create(self, manifest: Mapping[str, Any]) -> None:
        try:
            self._cluster.call("BatchV1Api", "create_namespaced_job", self._namespace, manifest)
        except Forbidden as error:  # a quota, or a policy of the cluster
            raise OlivineError(f"the cluster does not take the Job: {error}") from None


def _is_here(address: str) -> bool:
    return "://" not in address or address.startswith(("file:", "local:", "memory:"))
