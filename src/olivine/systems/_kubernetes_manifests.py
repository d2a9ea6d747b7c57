"""Manifests of what runs on a cluster, as JSON values: a Job whose pod is a worker, or says what is there."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from olivine.paths import exists

MOUNT = "/olivine"
CONFIG = "/etc/olivine"
INDEX = "batch.kubernetes.io/job-completion-index"  # label of a pod: which of several it is
_NODE = ("--node", "$(JOB_COMPLETION_INDEX)", "--address", "$(POD_IP)")  # Kubernetes says so to each pod
_KEPT_SECONDS = 24 * 3600  # of a Job that has ended: to look at its pod and log
_GRACE_SECONDS = 10
SIGTERM = 128 + 15  # the exit code of a pod that was asked to end


def job(
    name: str, command: Sequence[str], pod: Mapping[str, Any], container: Mapping[str, Any], labels: Mapping[str, str]
) -> dict[str, Any]:
    """A Job that runs a command to its end. pod, container: more of their specs.

    A pod that the cluster takes away (for one of more weight, a node that is drained or reclaimed) is replaced for
    ever; one that was asked to end is replaced some times; one that fails by itself is not, as it would fail again.
    """
    spec = {
        "backoffLimit": 3,
        "ttlSecondsAfterFinished": _KEPT_SECONDS,
        "podFailurePolicy": {
            "rules": [
                {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
                {"action": "Count", "onExitCodes": {"operator": "In", "values": [SIGTERM]}},
                {"action": "FailJob", "onExitCodes": {"operator": "NotIn", "values": [0]}},
            ]
        },
        "template": {
            "metadata": {"labels": dict(labels)},
            "spec": {
                "restartPolicy": "Never",
                "terminationGracePeriodSeconds": _GRACE_SECONDS,
                # the command is no process 1, which does not hear that it should end
                "shareProcessNamespace": True,
                **pod,
                "containers": [{"name": "olivine", "command": list(command), **container}],
            },
        },
    }
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": name, "labels": dict(labels)},
        "spec": spec,
    }


def spread(manifest: Mapping[str, Any], n_nodes: int) -> dict[str, Any]:
    """A Job of a worker that has several pods at once, each of which knows which one it is."""
    template = manifest["spec"]["template"]
    (container,) = template["spec"]["containers"]
    address = {"name": "POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}
    among = {
        **container,
        "command": [*container["command"], *_NODE, "--nodes", str(n_nodes)],
        "env": [*container["env"], address],
    }
    spec = {
        **manifest["spec"],
        "completionMode": "Indexed",
        "completions": n_nodes,
        "parallelism": n_nodes,
        "template": {**template, "spec": {**template["spec"], "containers": [among]}},
    }
    return {**manifest, "spec": spec}


def environment(plain: Mapping[str, str], secrets: Mapping[str, str]) -> list[dict[str, Any]]:
    """Variables of a container. secrets: "NAME/KEY" of a Secret that the node reads; its value stands nowhere else."""
    values: list[dict[str, Any]] = [{"name": name, "value": value} for name, value in plain.items()]
    for variable, place in secrets.items():
        name, _, key = place.partition("/")
        values.append({"name": variable, "valueFrom": {"secretKeyRef": {"name": name, "key": key}}})
    return values


def workflow_job(
    name: str,
    python: str,
    workflow: Mapping[str, Any],
    pod: Mapping[str, Any],
    container: Mapping[str, Any],
    labels: Mapping[str, str],
) -> list[dict[str, Any]]:
    """A workflow whose every place is one of the pod, with a Job that runs it there."""
    config = {"name": "config", "configMap": {"name": name}}
    mount = {"name": "config", "mountPath": CONFIG}
    command = [python, "-P", "-m", "olivine", "run", "--config", f"{CONFIG}/workflow.json"]
    whole = job(
        name,
        command,
        {**pod, "volumes": [*pod["volumes"], config]},
        {**container, "volumeMounts": [*container["volumeMounts"], mount]},
        labels,
    )
    return [config_map(name, workflow, labels), whole]


def config_map(name: str, workflow: Mapping[str, Any], labels: Mapping[str, str]) -> dict[str, Any]:
    """A workflow as an object of the cluster, which pods mount as a file."""
    data = {"workflow.json": json.dumps(workflow, indent=1)}
    metadata = {"name": name, "labels": dict(labels)}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data}


def as_local(system: Mapping[str, Any]) -> dict[str, Any]:
    """A system that is a pod, as the pod itself sees it."""
    return {"type": "LocalSystem", "accelerators": system.get("accelerators", [])}


def moved(
    workflow: Mapping[str, Any], inner: Mapping[str, Any], folder: str | None, name: str
) -> tuple[dict[str, Any], list[str]]:
    """A workflow as a pod runs it by itself, and the places of it that lie on this machine alone.

    inner: the system where it runs, as the pod sees it. folder: of this machine, that lies in the pod at MOUNT.
    """
    inside = {
        **{key: value for key, value in workflow.items() if key not in ("systems", "host", "target")},
        "systems": {"pod": inner},
        "host": "pod",
        "target": "pod",
        "passes": {step: {**said, "host": "pod"} for step, said in workflow["passes"].items()},
        "cache_dir": f"{MOUNT}/cache",
        "output_dir": f"{MOUNT}/out/{name}",
    }
    outside: list[str] = []

    def place(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {key: place(item) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            return [place(item) for item in value]
        if not isinstance(value, str) or not value.startswith("/") or value.startswith(f"{MOUNT}/"):
            return value
        if folder is not None and Path(value).is_relative_to(folder):
            return str(PurePosixPath(MOUNT, Path(value).relative_to(folder).as_posix()))
        if exists(value):
            outside.append(value)
        return value

    return place(inside), outside
