"""Manifests for KubeRay, as JSON values: a cluster of the pods that a system describes, and a workflow that runs on it.

Their shape is that of the operator's resources: RayCluster and RayJob of ray.io/v1.
"""

import shlex
from collections.abc import Mapping
from typing import Any

from olivine.systems._kubernetes_manifests import CONFIG, MOUNT, config_map
from olivine.systems._kubernetes_params import KubernetesParams, RayNodes

_API = "ray.io/v1"
_KEPT_SECONDS = 3600  # of a cluster whose job has ended: to look at its logs
_HEAD = {"requests": {"cpu": "1", "memory": "4Gi"}, "limits": {"memory": "4Gi"}}

Parts = tuple[Mapping[str, Any], Mapping[str, Any], Mapping[str, str]]
"""What stands in the spec of a pod and of its container, and the labels of both."""


def cluster(name: str, params: KubernetesParams, nodes: RayNodes, parts: Parts) -> dict[str, Any]:
    """A RayCluster: a head that does no jobs, and as many nodes as are asked for."""
    _, _, labels = parts
    return _resource("RayCluster", name, labels, _cluster_spec(params, nodes, parts))


def job(
    name: str, workflow: Mapping[str, Any], params: KubernetesParams, nodes: RayNodes, parts: Parts
) -> list[dict[str, Any]]:
    """A RayJob that runs a workflow on a cluster of its own, with the config in a ConfigMap."""
    pod, container, labels = parts
    config = {"name": "config", "configMap": {"name": name}}
    mount = {"name": "config", "mountPath": CONFIG}
    with_config = (
        {**pod, "volumes": [*pod["volumes"], config]},
        {**container, "volumeMounts": [*container["volumeMounts"], mount]},
        labels,
    )
    command = [params.python, "-P", "-m", "olivine", "run", "--config", f"{CONFIG}/workflow.json"]
    spec = {
        "entrypoint": shlex.join(command),
        "shutdownAfterJobFinishes": True,
        "ttlSecondsAfterFinished": _KEPT_SECONDS,
        "rayClusterSpec": _cluster_spec(params, nodes, with_config),
    }
    return [config_map(name, workflow, labels), _resource("RayJob", name, labels, spec)]


def as_ray(params: KubernetesParams, system: Mapping[str, Any], n_gpus: int) -> dict[str, Any]:
    """A system of the cluster that a RayJob makes, for the workflow that runs there; files go by the claim."""
    config: dict[str, Any] = {"address": "auto", "files": f"{MOUNT}/ray", "gpus": n_gpus}
    config |= {"autoscales": True} if params.autoscales else {}
    config |= {"nodes": params.nodes} if params.nodes > 1 else {}
    return {"type": "Ray", "accelerators": system.get("accelerators", []), "config": config}


def _resource(kind: str, name: str, labels: Mapping[str, str], spec: Mapping[str, Any]) -> dict[str, Any]:
    metadata = {"name": name, "labels": dict(labels)}
    return {"apiVersion": _API, "kind": kind, "metadata": metadata, "spec": dict(spec)}


def _cluster_spec(params: KubernetesParams, nodes: RayNodes, parts: Parts) -> dict[str, Any]:
    pod, container, labels = parts
    head = {"num-cpus": "0", "dashboard-host": "0.0.0.0"}  # noqa: S104 - in the pod: whoever submits jobs reaches it
    spec: dict[str, Any] = {
        "headGroupSpec": {
            "rayStartParams": head,
            "template": _template("ray-head", _without_gpus(pod), {**container, "resources": _HEAD}, labels),
        },
        "workerGroupSpecs": [
            {
                "groupName": "workers",
                "replicas": nodes.workers,
                "minReplicas": 0 if params.autoscales else nodes.workers,
                "maxReplicas": nodes.workers,
                "rayStartParams": {},
                "template": _template("ray-worker", pod, container, labels),
            }
        ],
    }
    if nodes.version is not None:
        spec["rayVersion"] = nodes.version
    if params.autoscales:
        spec["enableInTreeAutoscaling"] = True
    return spec


def _template(
    name: str, pod: Mapping[str, Any], container: Mapping[str, Any], labels: Mapping[str, str]
) -> dict[str, Any]:
    return {"metadata": {"labels": dict(labels)}, "spec": {**pod, "containers": [{"name": name, **container}]}}


def _without_gpus(pod: Mapping[str, Any]) -> dict[str, Any]:
    """The head needs no node of those that are chosen for their GPUs."""
    return {key: value for key, value in pod.items() if key not in ("nodeSelector", "tolerations")}
