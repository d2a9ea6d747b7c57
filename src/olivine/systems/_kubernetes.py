"""A cluster's API server: asked again when it is busy or away, and what it refuses as one sentence."""

import json
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from olivine import lazy
from olivine.errors import OlivineError, RequestError
from olivine.messages import sentence
from olivine.paths import is_file, of_user
from olivine.systems._kubernetes_pods import has_ended

if TYPE_CHECKING:
    import kubernetes
    import urllib3
    import yaml
else:
    kubernetes = lazy.module("kubernetes")
    urllib3 = lazy.module("urllib3")
    yaml = lazy.module("yaml")

_BUSY = (408, 425, 429, 500, 502, 503, 504)
_LONGEST_PAUSE_SECONDS = 20.0
_REQUEST_SECONDS = (10.0, 60.0)  # to connect, and between two bytes of an answer
_WATCH_SECONDS = 240  # a watch is begun anew after that long: servers and proxies between end it at some time anyway
_ONLY_METADATA = {"Accept": "application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io"}


class Absent(OlivineError):  # noqa: N818 - as the errors that it derives from
    """There is no such object."""


class Forbidden(RequestError):  # noqa: N818 - as above
    """The user may not do it."""


class Cluster:
    """The API server that a kubeconfig names.

    kubeconfig: None for the one of the environment, or the service account of the pod that this process is in.
    context: of the kubeconfig; None for its current one. patience_seconds: how long a server that is away is tried.
    """

    def __init__(self, kubeconfig: str | None, context: str | None, patience_seconds: float = 30.0) -> None:
        self._file = kubeconfig or os.environ.get("KUBECONFIG") or "~/.kube/config"
        self._context, self._is_named = context, kubeconfig is not None
        self._patience_seconds = patience_seconds
        self._client: Any = None

    @property
    def namespace(self) -> str:
        """The one that the context names, else "default"."""
        with suppress(*_unreadable()):  # a client that is asked for says so
            contexts, current = kubernetes.config.list_kube_config_contexts(self._file)
            named = next((one for one in contexts if one["name"] == self._context), current)
            return str(named["context"].get("namespace") or "default")
        return "default"

    def call(self, api: str, method: str, *names: Any, **options: Any) -> Any:
        """What the server answers, as JSON values; text for a log.

        api: such as "CoreV1Api", whose method is called. Raises Absent, Forbidden, or OlivineError with one sentence.
        """
        until = time.monotonic() + self._patience_seconds
        pause, is_renewed, is_again = 0.5, False, False
        while True:
            try:
                return _content(self._asked(api, method, *names, **options))
            except kubernetes.client.ApiException as refusal:
                status, why, after = refusal.status or 500, _message(refusal), _retry_after(refusal)
            except urllib3.exceptions.HTTPError as error:
                status, why, after = 503, f"it gives no answer: {_root_of(error)}", 0.0
            if status == 401 and not is_renewed:  # the token has expired
                self._client, is_renewed = None, True
                continue
            if status == 409 and is_again:  # the answer to the first try was lost on its way
                return {}
            if status not in _BUSY or time.monotonic() + pause > until:
                raise _refusal(status, why)
            time.sleep(max(pause, after))
            pause, is_again = min(2 * pause, _LONGEST_PAUSE_SECONDS), True

    def exists(self, method: str, *names: str) -> bool | None:
        """Whether the core API has an object, of which only the metadata travels; None where this user may not ask."""
        try:
            self.call("CoreV1Api", method, *names, _headers=_ONLY_METADATA)
        except Absent:
            return False
        except Forbidden:
            return None
        return True

    def may(self, namespace: str, verb: str, group: str, resource: str) -> bool:
        """Whether this user may do so. resource: such as "pods/log"."""
        name, _, part = resource.partition("/")
        asked = {"namespace": namespace, "verb": verb, "group": group, "resource": name, "subresource": part}
        body = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SelfSubjectAccessReview",
            "spec": {"resourceAttributes": {key: value for key, value in asked.items() if value}},
        }
        answer = self.call("AuthorizationV1Api", "create_self_subject_access_review", body)
        return bool(answer["status"]["allowed"])

    def pods(self, namespace: str, job: str) -> list[Mapping[str, Any]]:
        """The pods of a Job, the latest last: the one at work where there is one."""
        selector = f"job-name={job}"
        listed = self.call("CoreV1Api", "list_namespaced_pod", namespace, label_selector=selector)
        pods: list[Mapping[str, Any]] = listed["items"]
        return sorted(pods, key=lambda pod: (not has_ended(pod), pod["metadata"]["creationTimestamp"]))

    def changes(self, namespace: str, job: str, seconds: int = _WATCH_SECONDS) -> Iterator[Mapping[str, Any]]:
        """The pods of a Job as they are, and again as they change, until the server ends the line."""
        listed = self.call("CoreV1Api", "list_namespaced_pod", namespace, label_selector=f"job-name={job}")
        yield from listed["items"]
        options = {
            "label_selector": f"job-name={job}",
            "resource_version": listed["metadata"]["resourceVersion"],
            "timeout_seconds": seconds,
        }
        broken = (urllib3.exceptions.HTTPError, kubernetes.client.ApiException)
        with suppress(*broken):  # the line broke: who listens asks anew
            stream = self._asked("CoreV1Api", "list_namespaced_pod", namespace, watch=True, **options)
            try:
                for event in _events(stream):
                    if event.get("type") == "ERROR":  # too old a version: all of it is listed anew
                        return
                    yield event["object"]
            finally:
                stream.close()

    def _asked(self, api: str, method: str, *names: Any, **options: Any) -> Any:
        called = getattr(getattr(kubernetes.client, api)(self._connected()), method)
        return called(*names, _preload_content=False, _request_timeout=_REQUEST_SECONDS, **options)

    def _connected(self) -> Any:
        if self._client is None:
            self._client = self._connect()
        return self._client

    def _connect(self) -> Any:
        settings = kubernetes.client.Configuration()
        settings.retries = False
        is_inside = "KUBERNETES_SERVICE_HOST" in os.environ and not self._is_named
        try:
            if is_inside and not is_file(of_user(self._file)):
                kubernetes.config.load_incluster_config(settings)
            else:
                kubernetes.config.load_kube_config(self._file, self._context, settings, persist_config=False)
        except _unreadable() as error:
            raise RequestError(self._unled(error)) from None
        return kubernetes.client.ApiClient(settings)

    def _unled(self, error: BaseException) -> str:
        """Why the kubeconfig leads nowhere, and what would."""
        if not is_file(of_user(self._file)):
            return f"there is no kubeconfig '{self._file}'; name yours as 'kubeconfig', or set KUBECONFIG"
        with suppress(*_unreadable()):
            names = [str(one["name"]) for one in kubernetes.config.list_kube_config_contexts(self._file)[0]]
            if self._context is not None and self._context not in names:
                return f"the kubeconfig '{self._file}' has no context '{self._context}'; it has {', '.join(names)}"
        return f"the kubeconfig '{self._file}' does not lead to a cluster: {_plain(error)}"


def _unreadable() -> tuple[type[Exception], ...]:
    """What reading a kubeconfig raises: it is not there, is no YAML, or lacks what it names."""
    return kubernetes.config.ConfigException, yaml.YAMLError, OSError


def _events(stream: Any) -> Iterator[Mapping[str, Any]]:
    """The lines of a watch; one that was cut off in the middle is none."""
    rest = b""
    for piece in stream.stream(2**16):
        *lines, rest = (rest + piece).split(b"\n")
        for line in lines:
            with suppress(ValueError):
                yield json.loads(line)


def _content(answer: Any) -> Any:
    text = answer.data.decode("utf-8", errors="replace")
    is_json = "json" in (answer.headers.get("Content-Type") or "")
    return json.loads(text) if is_json else text


def _message(refusal: Any) -> str:
    """What the server says of a request that it does not serve."""
    with suppress(ValueError, KeyError, TypeError):
        return str(json.loads(refusal.body)["message"])
    return f"HTTP {refusal.status}"


def _retry_after(refusal: Any) -> float:
    told = (refusal.headers or {}).get("Retry-After", "")
    return min(float(told), _LONGEST_PAUSE_SECONDS) if told.isdigit() else 0.0


def _refusal(status: int, why: str) -> OlivineError:
    if status == 401:
        return RequestError("the cluster does not know this user; log in anew, until 'kubectl auth whoami' says who")
    if status == 403:
        return Forbidden(why)
    if status == 404:
        return Absent(why)
    return OlivineError(f"the cluster is busy or broken: {why}" if status in _BUSY else f"the cluster refuses: {why}")


def _root_of(error: BaseException) -> str:
    reason = getattr(error, "reason", None)
    return sentence(reason if isinstance(reason, BaseException) else error)


def _plain(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
