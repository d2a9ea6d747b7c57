"""Manifests of what runs on a cluster, as JSON values: a Job whose pod is a worker, or says what is there."""

from collections.abc import Mapping, Sequence
from typing import Any

MOUNT = "/olivine"
_KEPT_SECONDS = 24 * 3600  # of a Job that has ended: to look at its pod and log
_GRACE_SECONDS = 10
_SIGTERM = 128 + 15


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
                {"action": "Count", "onExitCodes": {"operator": "In", "values": [_SIGTERM]}},
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


def environment(plain: Mapping[str, str], secrets: Mapping[str, str]) -> list[dict[str, Any]]:
    """Variables of a container. secrets: "NAME/KEY" of a Secret that the node reads; its value stands nowhere else."""
    values: list[dict[str, Any]] = [{"name": name, "value": value} for name, value in plain.items()]
    for variable, place in secrets.items():
        name, _, key = place.partition("/")
        values.append({"name": variable, "valueFrom": {"secretKeyRef": {"name": name, "key": key}}})
    return values
