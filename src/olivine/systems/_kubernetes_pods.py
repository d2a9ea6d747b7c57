"""What the status of a pod means."""

from collections.abc import Mapping
from typing import Any

# what a pod waits for that does not come by itself
_STUCK = {
    "ImagePullBackOff": "the image '{image}' cannot be pulled",
    "InvalidImageName": "'{image}' is no name of an image",
    "ErrImageNeverPull": "the node has no image '{image}', and may not pull it",
    "CreateContainerConfigError": "its container cannot be made",
    "CreateContainerError": "its container cannot be made",
}

Pod = Mapping[str, Any]


def has_ended(pod: Pod) -> bool:
    """Whether nothing of it runs any more."""
    return pod["status"].get("phase") in ("Succeeded", "Failed")


def state_at_end(pod: Pod) -> Mapping[str, Any]:
    """How its container ended; empty when it has not, or was never made."""
    state: Mapping[str, Any] = _container(pod).get("state", {}).get("terminated") or {}
    return state


def image_id(pod: Pod) -> str:
    """Which image its name meant; empty before it was pulled."""
    return str(_container(pod).get("imageID") or "")


def stuck(pod: Pod) -> str | None:
    """Why it will never start, if so."""
    status = _container(pod)
    waiting = status.get("state", {}).get("waiting") or {}
    if (sentence := _STUCK.get(waiting.get("reason", ""))) is None:
        return None
    message = " ".join(str(waiting.get("message", "")).split())
    return sentence.format(image=status.get("image", "")) + (f" ({message})" if message else "")


def waits_for(pod: Pod) -> str | None:
    """Why no node has it yet; None when one has."""
    for condition in pod["status"].get("conditions") or ():
        if condition["type"] == "PodScheduled" and condition["status"] == "False":
            return str(condition.get("message") or condition.get("reason", "no node has been looked for"))
    return None


def told(pod: Pod) -> str:
    """What it does, for a log."""
    if why := waits_for(pod):
        return f"the pod waits for a node: {why}"
    reason = (_container(pod).get("state", {}).get("waiting") or {}).get("reason", "")
    return f"the pod is {pod['status'].get('phase', 'unknown').lower()}{f': {reason}' if reason else ''}"


def _container(pod: Pod) -> Mapping[str, Any]:
    statuses = pod["status"].get("containerStatuses") or [{}]
    status: Mapping[str, Any] = statuses[0]
    return status
