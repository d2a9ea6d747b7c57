"""A Kubernetes API server on loopback, with a scheduler, a Job controller and a kubelet that really runs commands.

A container is a process of this machine, whose image is a folder with a `bin`. Where a volume is mounted, its folder
stands in the arguments instead of the path; nothing else of this machine's environment is seen.
"""

import copy
import json
import os
import random
import re
import signal
import string
import subprocess
import threading
import time
import urllib.parse
import uuid
from collections import deque
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import yaml

from fakes.kubernetes.strict import Refused, amount, check

REASONS = {400: "BadRequest", 401: "Unauthorized", 403: "Forbidden", 404: "NotFound", 409: "AlreadyExists"}
REASONS |= {410: "Expired", 422: "Invalid", 429: "TooManyRequests", 500: "InternalError"}
CORE = {"namespaces": "Namespace", "secrets": "Secret", "serviceaccounts": "ServiceAccount"}
CORE |= {"persistentvolumeclaims": "PersistentVolumeClaim"}


def node(name, labels=None, taints=(), **allocatable):
    """A node; what it offers by name, `gpus` for those of NVIDIA."""
    offered = {"cpu": "16", "memory": "64Gi", "ephemeral-storage": "200Gi", **allocatable}
    if gpus := offered.pop("gpus", 0):
        offered["nvidia.com/gpu"] = str(gpus)
    metadata = {"name": name, "labels": {"kubernetes.io/hostname": name, **(labels or {})}}
    return {"metadata": metadata, "spec": {"taints": list(taints)}, "status": {"allocatable": offered}}


class Cluster:
    """The cluster. folder: where its containers and disks lie. images: folders with a `bin`, by name of an image.

    claims: folders, by name of a claim. secrets: values by key, by name of a Secret. forbidden: "VERB RESOURCE" of what
    the user may not. faults: statuses with which the next requests are answered. requests: those that came.
    """

    def __init__(self, folder, images, claims=None, secrets=None, nodes=None, forbidden=()):
        self.folder, self.images, self.forbidden = folder, dict(images), set(forbidden)
        self.claims, self.secrets = dict(claims or {}), dict(secrets or {})
        self.nodes = nodes if nodes is not None else [node("node-1")]
        self.namespaces, self.accounts = {"default"}, {"default"}
        self.jobs, self.pods, self.config_maps, self.requests = {}, {}, {}, []
        self.is_out_of_memory = False  # then a process that is killed was killed for it
        self.faults, self.n_dropped_watches, self.oldest = deque(), 0, 0
        self.token, self.seen_secrets = uuid.uuid4().hex, []
        self.changed, self.version, self.changes = threading.Condition(threading.RLock()), 1, []
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, daemon=True, kwargs={"poll_interval": 0.05}).start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for name in list(self.jobs):
            self.delete_job(name)
        self.server.shutdown()
        self.server.server_close()

    def kubeconfig(self, namespace="default"):
        """A kubeconfig whose token comes from a program, as with the clouds."""
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "test",
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "me", "namespace": namespace}}],
            "clusters": [{"name": "test", "cluster": {"server": f"http://127.0.0.1:{self.server.server_port}"}}],
            "users": [
                {
                    "name": "me",
                    "user": {
                        "exec": {
                            "apiVersion": "client.authentication.k8s.io/v1",
                            "command": "cat",
                            "args": [str(self.folder / "credential.json")],
                            "interactiveMode": "Never",
                        }
                    },
                }
            ],
        }
        self._write_credential()
        path = self.folder / "kubeconfig"
        path.write_text(yaml.safe_dump(config))
        return path

    def expire_token(self):
        """From now on another token is needed, which the program gives."""
        self.token = uuid.uuid4().hex
        self._write_credential()

    def _write_credential(self):
        credential = {"apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential"}
        text = json.dumps({**credential, "status": {"token": self.token}})
        (self.folder / "credential.json").write_text(text)

    # Jobs

    def create_job(self, manifest):
        check(manifest, "V1Job")
        name = manifest["metadata"]["name"]
        with self.changed:
            if name in self.jobs:
                raise Refused(409, f'jobs.batch "{name}" already exists')
            job = copy.deepcopy(manifest)
            job["metadata"] |= {"uid": str(uuid.uuid4()), "creationTimestamp": _now(), "namespace": "default"}
            job["status"] = {"conditions": [], "failed": 0}
            self.jobs[name] = job
        indexes = range(job["spec"]["completions"]) if job["spec"].get("completionMode") == "Indexed" else [None]
        left = set(indexes)
        for index in indexes:
            threading.Thread(target=self._control, args=(name, index, left), daemon=True).start()
        return job

    def apply(self, documents):
        """As kubectl does with a file."""
        for document in documents:
            if document["kind"] == "ConfigMap":
                check(document, "V1ConfigMap")
                self.config_maps[document["metadata"]["name"]] = document["data"]
            else:
                self.create_job(document)

    def delete_job(self, name):
        with self.changed:
            if name not in self.jobs:
                raise Refused(404, f'jobs.batch "{name}" not found')
            job = self.jobs.pop(name)
            pods = [pod for pod in self.pods.values() if pod.job == name]
        for pod in pods:
            pod.delete()
        return job

    def preempt(self, name):
        """Take the node of a Job's pod for something of more weight; of several pods, that of the last."""
        with self.changed:
            pods = [pod for pod in self.pods.values() if pod.job == name and pod.is_at_work()]
        max(pods, key=lambda pod: pod.index or 0).delete("PreemptionByScheduler")

    def running(self):
        """The pods whose process is there."""
        with self.changed:
            return [pod for pod in self.pods.values() if pod.process is not None and pod.process.poll() is None]

    def _control(self, name, index, left):
        """Make pods for a Job until one did well, or its policy says that no more shall be made.

        index: of an Indexed Job, which makes pods for each; left: those that did not do well yet.
        """
        while (job := self.jobs.get(name)) is not None:
            pod = Pod(self, name, job, index)
            with self.changed:
                if job["status"]["conditions"]:
                    return None
                self.pods[pod.name] = pod
                self.tell("ADDED", pod)
            pod.run()
            if pod.state == "Succeeded":
                left.discard(index)
                return self._end(job, "Complete", "") if not left else None
            action = _action(job["spec"], pod)
            if action == "FailJob":
                message = f"Container olivine for pod default/{pod.name} failed with exit code {pod.exit_code}"
                return self._end(job, "Failed", f"{message} matching FailJob rule")
            job["status"]["failed"] += action == "Count"
            if job["status"]["failed"] > job["spec"].get("backoffLimit", 6):
                return self._end(job, "Failed", "Job has reached the specified backoff limit")
        return None

    def _end(self, job, kind, message):
        condition = {"type": kind, "status": "True", "message": message, "lastTransitionTime": _now()}
        with self.changed:
            if not job["status"]["conditions"]:
                job["status"]["conditions"].append(condition)
            others = [pod for pod in self.pods.values() if pod.job == job["metadata"]["name"] and pod.is_at_work()]
        for pod in others:  # of a Job that has failed
            pod.stop()

    # Scheduling

    def place(self, pod):
        """The node for a pod, or None and why there is none."""
        spec, asked = pod.spec, pod.container.get("resources", {}).get("requests", {})
        for volume in spec.get("volumes", []):
            claim = volume.get("persistentVolumeClaim", {}).get("claimName")
            if claim is not None and claim not in self.claims:
                return None, f'persistentvolumeclaim "{claim}" not found'
        whys = []
        for one in self.nodes:
            labels, taints = one["metadata"]["labels"], one["spec"]["taints"]
            offered = one["status"]["allocatable"]
            if any(labels.get(key) != value for key, value in spec.get("nodeSelector", {}).items()):
                whys.append("node(s) didn't match Pod's node affinity/selector")
            elif not all(any(_tolerates(each, taint) for each in spec.get("tolerations", [])) for taint in taints):
                whys.append("node(s) had untolerated taint(s)")
            elif lacks := [name for name, value in asked.items() if amount(value) > amount(offered.get(name, 0))]:
                whys.append(f"Insufficient {lacks[0]}")
            else:
                return one["metadata"]["name"], ""
        counted = ", ".join(f"{whys.count(why)} {why}" for why in dict.fromkeys(whys))
        return None, f"0/{len(self.nodes)} nodes are available: {counted}."

    # What is told

    def tell(self, kind, pod):
        with self.changed:
            self.version += 1
            self.changes.append((self.version, kind, pod.to_json()))
            self.changed.notify_all()

    def review(self, asked):
        resource = asked["resource"] + (f"/{asked['subresource']}" if asked.get("subresource") else "")
        return f"{asked['verb']} {resource}" not in self.forbidden


class Pod:
    """A pod of a Job with one container."""

    def __init__(self, cluster, job, manifest, index=None):
        self.cluster, self.job, self.index = cluster, job, index
        self.name = f"{job}-{''.join(random.choices(string.ascii_lowercase, k=5))}"
        self.spec = manifest["spec"]["template"]["spec"]
        (self.container,) = self.spec["containers"]
        labels = manifest["spec"]["template"].get("metadata", {}).get("labels", {})
        self.labels = {**labels, "job-name": job, "batch.kubernetes.io/job-name": job}
        if index is not None:
            self.labels["batch.kubernetes.io/job-completion-index"] = str(index)
        self.state, self.exit_code, self.reason, self.message = "Pending", None, "", ""
        self.waiting, self.conditions, self.process = {"reason": "ContainerCreating"}, [], None
        self.is_deleted, self.created, self.image_id = False, _now(), ""
        self.folder = cluster.folder / "pods" / self.name
        self.folder.mkdir(parents=True)
        self.log = self.folder / "log"

    def is_at_work(self):
        return self.state in ("Pending", "Running") and not self.is_deleted

    def delete(self, disruption=None):
        """End it as the API does: SIGTERM, and SIGKILL when the time for it is over."""
        with self.cluster.changed:
            self.is_deleted = True
            if disruption:
                self.conditions.append({"type": "DisruptionTarget", "status": "True", "reason": disruption})
            self.cluster.changed.notify_all()
        self.stop()

    def stop(self):
        """End what runs in it."""
        if self.process is None or self.process.poll() is not None:
            return
        os.killpg(self.process.pid, signal.SIGTERM)
        try:
            self.process.wait(self.spec.get("terminationGracePeriodSeconds", 30))
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()

    def run(self):
        """From pending to its end."""
        if self._is_started():
            self._finish(self.process.wait())
        elif self.state == "Pending":
            self._finish(None)
        if self.is_deleted:
            with self.cluster.changed:
                self.cluster.pods.pop(self.name, None)
                self.cluster.tell("DELETED", self)

    def _is_started(self):
        while not self.is_deleted:
            host, why = self.cluster.place(self)
            if host is None:
                self._condition("PodScheduled", "False", "Unschedulable", why)
            else:
                self._condition("PodScheduled", "True", "", "")
                if self._is_made():
                    return True
                if self.state == "Failed":
                    return False
            with self.cluster.changed:
                self.cluster.changed.wait(0.2)
        return False

    def _is_made(self):
        """Start the container, or say what is in the way."""
        image = self.container["image"]
        if image not in self.cluster.images:
            pulled = self.waiting["reason"] == "ErrImagePull"
            return self._wait("ImagePullBackOff" if pulled else "ErrImagePull", f'Back-off pulling image "{image}"')
        try:
            environment = {one["name"]: self._value(one) for one in self.container.get("env", [])}
        except Refused as missing:
            return self._wait("CreateContainerConfigError", str(missing))
        if self.index is not None:
            environment["JOB_COMPLETION_INDEX"] = str(self.index)
        root = Path(self.cluster.images[image])
        command = [_expanded(word, environment) for word in self._command()]
        if not (root / "bin" / command[0]).exists():
            self.exit_code, self.reason = 128, "StartError"
            self.message = f'exec: "{command[0]}": executable file not found in $PATH: unknown'
            self.state = "Failed"
            self.cluster.tell("MODIFIED", self)
            return False
        environment |= {"PATH": f"{root / 'bin'}:/usr/bin:/bin", "HOME": str(self.folder), "OMP_NUM_THREADS": "1"}
        with self.cluster.changed, self.log.open("wb") as log:
            if self.is_deleted:
                return False
            self.process = subprocess.Popen(
                [str(root / "bin" / command[0]), *command[1:]],
                env=environment, cwd=self.folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                start_new_session=True,
            )  # fmt: skip
            self.state, self.image_id = "Running", f"{image}@sha256:{root.name}"
            self.cluster.tell("MODIFIED", self)
        return True

    def _wait(self, reason, message):
        if self.waiting.get("reason") != reason:
            self.waiting = {"reason": reason, "message": message}
            self.cluster.tell("MODIFIED", self)
        return False

    def _condition(self, kind, status, reason, message):
        condition = {"type": kind, "status": status, "reason": reason, "message": message}
        if condition not in self.conditions:
            self.conditions = [one for one in self.conditions if one["type"] != kind] + [condition]
            self.cluster.tell("MODIFIED", self)

    def _value(self, variable):
        if "valueFrom" not in variable:
            return variable.get("value", "")
        if (field := variable["valueFrom"].get("fieldRef")) is not None:
            return {"status.podIP": "127.0.0.1"}[field["fieldPath"]]
        reference = variable["valueFrom"]["secretKeyRef"]
        if reference["name"] not in self.cluster.secrets:
            raise Refused(404, f'secret "{reference["name"]}" not found')
        secret = self.cluster.secrets[reference["name"]]
        if reference["key"] not in secret:
            raise Refused(404, f"couldn't find key {reference['key']} in Secret default/{reference['name']}")
        return secret[reference["key"]]

    def _command(self):
        """Its arguments, with the folder of a volume where the volume is mounted."""
        volumes = {volume["name"]: volume for volume in self.spec.get("volumes", [])}
        mounts = {
            mount["mountPath"]: self._folder(volumes[mount["name"]]) / mount.get("subPath", "")
            for mount in self.container.get("volumeMounts", [])
        }
        for folder in mounts.values():
            folder.mkdir(parents=True, exist_ok=True)
        for volume in volumes.values():
            for name, text in self.cluster.config_maps.get(volume.get("configMap", {}).get("name"), {}).items():
                here = text
                for path, folder in mounts.items():
                    here = here.replace(f'"{path}/', f'"{folder}/')
                (self._folder(volume) / name).write_text(here)
        command = [*self.container.get("command", []), *self.container.get("args", [])]
        for path, folder in mounts.items():
            command = [
                f"{folder}{word[len(path) :]}" if word == path or word.startswith(f"{path}/") else word
                for word in command
            ]
        return command

    def _folder(self, volume):
        """Where a volume lies on this machine."""
        claim = volume.get("persistentVolumeClaim")
        return Path(self.cluster.claims[claim["claimName"]]) if claim else self.folder / volume["name"]

    def _finish(self, code):
        with self.cluster.changed:
            if code is not None:
                self.exit_code = code if code >= 0 else 128 - code
                is_killed = code == -signal.SIGKILL and self.cluster.is_out_of_memory
                self.reason = "OOMKilled" if is_killed else "Completed" if code == 0 else "Error"
            self.state = "Succeeded" if code == 0 else "Failed"
            self.cluster.tell("MODIFIED", self)

    def to_json(self):
        state = {"waiting": self.waiting}
        if self.state == "Running":
            state = {"running": {"startedAt": self.created}}
        elif self.exit_code is not None:
            ended = {"exitCode": self.exit_code, "reason": self.reason}
            state = {"terminated": {**ended, **({"message": self.message} if self.message else {})}}
        status = {"name": "olivine", "image": self.container["image"], "imageID": self.image_id, "state": state}
        metadata = {"name": self.name, "namespace": "default", "labels": self.labels, "creationTimestamp": self.created}
        if self.is_deleted:
            metadata["deletionTimestamp"] = _now()
        is_placed = any(one["type"] == "PodScheduled" and one["status"] == "True" for one in self.conditions)
        told = {"phase": self.state, "conditions": list(self.conditions)}
        return {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {**metadata, "resourceVersion": str(self.cluster.version)},
            "spec": self.spec,
            "status": {**told, **({"containerStatuses": [status]} if is_placed else {})},
        }


def _expanded(word, environment):
    """An argument with the values of variables that stand in it as $(NAME)."""
    return re.sub(r"\$\((\w+)\)", lambda name: environment.get(name[1], name[0]), word)


def _action(spec, pod):
    """What the first rule that fits says of a pod that failed."""
    for rule in spec.get("podFailurePolicy", {}).get("rules", []):
        for pattern in rule.get("onPodConditions", []):
            if any(one["type"] == pattern["type"] and one["status"] == pattern["status"] for one in pod.conditions):
                return rule["action"]
        codes = rule.get("onExitCodes")
        if codes and pod.exit_code is not None and (pod.exit_code in codes["values"]) == (codes["operator"] == "In"):
            return rule["action"]
    return "Count"


def _tolerates(toleration, taint):
    if toleration.get("effect") not in (None, taint["effect"]) or toleration.get("key") not in (None, taint["key"]):
        return False
    return toleration.get("operator") == "Exists" or toleration.get("value", "") == taint.get("value", "")


def _now():
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _handler(cluster):
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_):
            pass

        def do_GET(self):
            self._serve("get")

        def do_POST(self):
            self._serve("create")

        def do_DELETE(self):
            self._serve("delete")

        def _serve(self, verb):
            length = int(self.headers.get("Content-Length") or 0)
            body = json.loads(self.rfile.read(length)) if length else None
            place = urllib.parse.urlsplit(self.path)
            self.query = dict(urllib.parse.parse_qsl(place.query))
            cluster.requests.append((verb, place.path))
            try:
                if cluster.faults and (status := cluster.faults.popleft()):
                    raise Refused(status, "the server is currently unable to handle the request")
                if self.headers.get("Authorization") != f"Bearer {cluster.token}":
                    raise Refused(401, "Unauthorized")
                self._answer(verb, place.path.strip("/").split("/"), body)
            except Refused as refusal:
                self._refuse(refusal)
            except BrokenPipeError:
                pass

        def _refuse(self, refusal):
            status = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": refusal.status}
            headers = {"Retry-After": "1"} if refusal.status == 429 else {}
            told = {**status, "message": str(refusal), "reason": REASONS.get(refusal.status, "")}
            self._send(told, refusal.status, headers)

        def _answer(self, verb, path, body):
            match path:
                case ["apis", "authorization.k8s.io", "v1", "selfsubjectaccessreviews"] if verb == "create":
                    check(body, "V1SelfSubjectAccessReview")
                    allowed = cluster.review(body["spec"]["resourceAttributes"])
                    self._send({**body, "status": {"allowed": allowed}}, 201)
                case ["api", "v1", "nodes"]:
                    self._allow("list nodes")
                    items = [one for one in cluster.nodes if self._selects(one["metadata"]["labels"])]
                    self._send({"kind": "NodeList", "apiVersion": "v1", "metadata": {}, "items": items})
                case ["api", "v1", "namespaces", name]:
                    self._object("namespaces", name, cluster.namespaces)
                case ["api", "v1", "namespaces", namespace, *rest]:
                    self._inside(namespace)
                    self._core(verb, rest)
                case ["apis", "batch", "v1", "namespaces", namespace, "jobs", *rest]:
                    self._inside(namespace)
                    self._jobs(verb, rest, body)
                case _:
                    raise Refused(404, "the server could not find the requested resource")

        def _core(self, verb, path):
            match path:
                case ["secrets", name]:
                    self._object("secrets", name, cluster.secrets)
                case ["serviceaccounts", name]:
                    self._object("serviceaccounts", name, cluster.accounts)
                case ["persistentvolumeclaims", name]:
                    self._object("persistentvolumeclaims", name, cluster.claims)
                case ["pods"]:
                    self._allow("list pods")
                    self._pods()
                case ["pods", name, "log"]:
                    self._allow("get pods/log")
                    if name not in cluster.pods:
                        raise Refused(404, f'pods "{name}" not found')
                    self._send(cluster.pods[name].log.read_text() if cluster.pods[name].log.exists() else "")
                case _:
                    raise Refused(404, "the server could not find the requested resource")

        def _jobs(self, verb, path, body):
            if verb == "create" and not path:
                self._allow("create jobs")
                self._send(cluster.create_job(body), 201)
                return
            (name,) = path
            self._allow(f"{verb} jobs")
            if verb == "delete":
                check(body or {}, "V1DeleteOptions")
                cluster_job = cluster.jobs.get(name)
                if cluster_job is None:
                    raise Refused(404, f'jobs.batch "{name}" not found')
                threading.Thread(target=cluster.delete_job, args=(name,), daemon=True).start()
                until = time.monotonic() + 1
                while name in cluster.jobs and time.monotonic() < until:
                    time.sleep(0.01)
                self._send({"kind": "Status", "apiVersion": "v1", "status": "Success"})
            elif name not in cluster.jobs:
                raise Refused(404, f'jobs.batch "{name}" not found')
            else:
                self._send(cluster.jobs[name])

        def _object(self, resource, name, there):
            self._allow(f"get {resource}")
            if name not in there:
                raise Refused(404, f'{resource} "{name}" not found')
            kind, is_bare = CORE[resource], "as=PartialObjectMetadata" in self.headers.get("Accept", "")
            if resource == "secrets" and not is_bare:
                cluster.seen_secrets.append(name)
            self._send({"kind": "PartialObjectMetadata" if is_bare else kind, "metadata": {"name": name}})

        def _pods(self):
            with cluster.changed:
                pods = [pod.to_json() for pod in cluster.pods.values() if self._selects(pod.labels)]
                version = str(cluster.version)
            if self.query.get("watch") not in ("True", "true"):
                self._send({"kind": "PodList", "metadata": {"resourceVersion": version}, "items": pods})
                return
            self._watch()

        def _watch(self):
            """Changes after a version, in chunks, until the time is over."""
            last, until = int(self.query["resourceVersion"]), time.monotonic() + float(self.query["timeoutSeconds"])
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            if last < cluster.oldest:
                error = {"kind": "Status", "code": 410, "message": "too old resource version", "reason": "Expired"}
                self._chunk(json.dumps({"type": "ERROR", "object": error}) + "\n")
                self._chunk("")
                return
            while time.monotonic() < until:
                with cluster.changed:
                    new = [change for change in cluster.changes if change[0] > last]
                    if not new:
                        cluster.changed.wait(0.2)
                for version, kind, pod in new:
                    last = version
                    if self._selects(pod["metadata"]["labels"]):
                        text = json.dumps({"type": kind, "object": pod}) + "\n"
                        if cluster.n_dropped_watches:
                            cluster.n_dropped_watches -= 1
                            self._chunk(text[: len(text) // 2])
                            self.close_connection = True
                            self.connection.shutdown(2)
                            return
                        self._chunk(text)
            self._chunk("")

        def _chunk(self, text):
            content = text.encode()
            self.wfile.write(f"{len(content):X}\r\n".encode() + content + b"\r\n")
            self.wfile.flush()

        def _selects(self, labels):
            pairs = [pair.split("=", 1) for pair in self.query.get("labelSelector", "").split(",") if pair]
            return all(labels.get(key) == value for key, value in pairs)

        def _inside(self, namespace):
            if namespace not in cluster.namespaces:
                raise Refused(404, f'namespaces "{namespace}" not found')

        def _allow(self, what):
            if what in cluster.forbidden:
                verb, resource = what.split()
                raise Refused(403, f'{resource} is forbidden: User "me" cannot {verb} resource "{resource}"')

        def _send(self, content, status=200, headers=None):
            is_text = isinstance(content, str)
            data = content.encode() if is_text else json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Type", "text/plain" if is_text else "application/json")
            self.send_header("Content-Length", str(len(data)))
            for name, value in (headers or {}).items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(data)

    return Handler
