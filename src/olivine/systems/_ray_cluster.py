"""A Ray cluster, as the process sees it that is connected to it: nodes, actors, files. Answers are JSON values."""

import difflib
import json
import os
import socket
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from olivine import __version__, lazy
from olivine.errors import MissingExtra, OlivineError, RequestError
from olivine.messages import sentence
from olivine.store.remote import RemoteFiles
from olivine.systems._ray_files import HEAD, NAMESPACE, open_files
from olivine.systems._ray_line import Lost, of_team
from olivine.systems._ray_node import NodeWorker
from olivine.systems._ray_team import Holder
from olivine.systems._wheel import build_wheel

if TYPE_CHECKING:
    import ray
else:
    ray = lazy.module("ray")

CLIENT = "ray://"
_REACH_SECONDS = 10.0
_AWAY_SECONDS = 120.0  # that an actor may not be reached
_GONE_SECONDS = 5.0
_TRIES = 3
_TOO_BUSY = "Starting Ray client server failed"
_CALL_SECONDS = 60.0  # an actor that is at work answers in a moment


class Cluster:
    """What is asked of a cluster by name; each method may be called at any time, from any thread, and again.

    settings: "address", "runtime_env", "sends_olivine", "folder", "files", "secrets" (names of variables).
    """

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self._address, self._folder, self._url = (str(settings[name]) for name in ("address", "folder", "files"))
        self._secrets = {name: os.environ[name] for name in settings["secrets"] if name in os.environ}
        environment = dict(settings["runtime_env"])
        _check_keys(environment)
        with tempfile.TemporaryDirectory() as folder:
            if settings["sends_olivine"]:
                environment["py_modules"] = [*environment.get("py_modules", []), _unpacked_wheel(Path(folder))]
            _connect(self._address, environment)
        self._actors: dict[str, Any] = {}
        self._waited_for: dict[str, Any] = {}  # answers of workers that have no node yet

    @cached_property
    def _files(self) -> RemoteFiles:
        return open_files(self._url, self._folder)

    # Nodes

    def nodes(self) -> list[dict[str, Any]]:
        """Those that are alive, with what each has in all."""
        alive = [node for node in ray.nodes() if node["Alive"]]
        return [{"id": node["NodeID"], "resources": dict(node["Resources"])} for node in alive]

    def held(self, hashes: Sequence[str]) -> dict[str, int]:
        """How many bytes of some files lie on which node, by its id, as far as it was said."""
        by_name = {f"{node['NodeName']}.json": node["NodeID"] for node in ray.nodes() if node["Alive"]}
        held = {}
        for name in self._files.names("nodes"):
            if name in by_name:
                sizes = json.loads(self._files.read(f"nodes/{name}") or b"{}")
                held[by_name[name]] = sum(sizes.get(hashed, 0) for hashed in hashes)
        return held

    # Files

    def missing(self, hashes: Sequence[str]) -> list[str]:
        """See System."""
        return sorted(self._files.missing(hashes))

    def put(self, source: str, hashed: str) -> None:
        """See System."""
        self._files.put(Path(source), hashed)

    def get(self, hashed: str, target: str) -> None:
        """See System."""
        self._files.get(hashed, Path(target))

    # Workers

    def start(self, name: str, owner: str, request: Mapping[str, Any], node: str | None) -> None:
        """Ask for a worker. request: options of Ray, such as num_cpus. node: where it had best be."""
        strategy: Any = "SPREAD"
        if node is not None:
            from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

            strategy = NodeAffinitySchedulingStrategy(node, soft=True)
        self._begin(name, owner, request, strategy)

    def _begin(self, name: str, owner: str, request: Mapping[str, Any], strategy: Any) -> None:
        options: dict[str, Any] = {**request, "name": name, "namespace": NAMESPACE, "lifetime": "detached"}
        options |= {"get_if_exists": True, "max_concurrency": 8, "max_restarts": 0, "scheduling_strategy": strategy}
        self._actors[name] = ray.remote(NodeWorker).options(**options).remote(owner, self._folder, self._url)

    def gather(self, holder: str, n_nodes: int, request: Mapping[str, Any]) -> None:
        """Ask for a place for so many workers at once. holder: the name of the actor that has it."""
        options = {"name": holder, "namespace": NAMESPACE, "lifetime": "detached", "get_if_exists": True}
        # on the head, which the cluster does not outlive: a node that goes must not take the place of all with it
        made = ray.remote(Holder).options(**options, num_cpus=0, resources={HEAD: 0.001}, max_concurrency=4)
        self._actors[holder] = made.remote(dict(request), n_nodes)

    def gathered(
        self, holder: str, names: Sequence[str], owner: str, request: Mapping[str, Any], seconds: float
    ) -> list[dict[str, str]] | None:
        """The nodes of the workers of a place; None while there is no room for all of them."""
        from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

        group = self._call(holder, "group", seconds)
        if group is None:
            return None
        for index, name in enumerate(names):
            if name not in self._actors:
                strategy = PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=index)
                self._begin(name, owner, request, strategy)
        places = []
        for index, name in enumerate(names):
            with of_team(index, len(names)):
                places.append(self.where(name, 4 * _CALL_SECONDS))
        return [place for place in places if place is not None] if None not in places else None

    def run_together(self, holder: str, names: Sequence[str], owner: str, turn: str, title: str, job: str) -> None:
        """Give a job to the workers of a place; the first of them is heard."""
        address, port = self._call_node(0, names, "meeting")
        team = {"names": list(names), "holder": holder, "address": address, "port": port}
        for node in reversed(range(len(names))):
            self._call_node(node, names, "run", owner, turn, title, job, {**team, "node": node})

    def _call_node(self, node: int, names: Sequence[str], method: str, *arguments: Any) -> Any:
        """What one of several workers answers; Lost says which of them is gone."""
        with of_team(node, len(names)):
            return self._call(names[node], method, *arguments)

    def where(self, name: str, seconds: float) -> dict[str, str] | None:
        """The node that a worker is on; None while none has room for it."""
        with _told(self._address):
            if name not in self._waited_for:
                self._waited_for[name] = self._actor(name).where.remote(self._secrets)
            if not ray.wait([self._waited_for[name]], timeout=seconds)[0]:
                return None
            try:
                answer: dict[str, str] = ray.get(self._waited_for.pop(name))
            except ray.exceptions.RayActorError as error:
                if _is_unfit(error):
                    raise
                raise Lost(_how(error), with_node=True) from None  # its node went while it began
        return answer

    def is_there(self, name: str) -> bool:
        """Whether a worker waits for a job; it goes on waiting then."""
        try:
            self._call(name, "wait")
        except Lost:
            return False
        return True

    def probe(self, name: str) -> dict[str, Any]:
        """What a worker has."""
        answer: dict[str, Any] = self._call(name, "probe", seconds=4 * _CALL_SECONDS)
        return answer

    def run(self, name: str, node: str, owner: str, turn: str, title: str, job: str) -> None:
        """Give a job to a worker. node: where it is."""
        self._call(name, "run", owner, turn, title, job, node=node)

    def heard(self, name: str, node: str, owner: str, turn: str, n_events: int, n_printed: int) -> dict[str, Any]:
        """See NodeWorker."""
        answer: dict[str, Any] = self._call(name, "heard", owner, turn, n_events, n_printed, node=node)
        return answer

    def attached(self, title: str, owner: str) -> dict[str, Any] | None:
        """What came of a job of that title ("result"), or the "worker" that is at it; None where it was not given."""
        record = self._record(title)
        if "result" in record:
            return record if not self._files.missing(record["result"]["files"].values()) else None
        try:
            answer = self._call(record["worker"], "adopt", owner, record["turn"]) if record else {}
            place = self._call(record["worker"], "where", {}) if answer.get("is_here") else None
        except OlivineError:  # it is gone
            return None
        return {**record, **place, "is_own": answer["is_own"]} if place is not None else None

    def end_job(self, title: str) -> str | None:
        """End the worker that is at a job of that title, and the place that it has with others; gives its name."""
        record = self._record(title)
        try:
            if "worker" not in record or not self._call(record["worker"], "is_at", record["turn"]):
                return None
        except OlivineError:  # it is gone
            return None
        for name in (record["worker"], record.get("holder")):
            if name is not None:
                self.kill(name)
        return str(record["worker"])

    def _record(self, title: str) -> dict[str, Any]:
        """What is known of a job of that title; empty where it was never given."""
        content = self._files.read(f"jobs/{title}.json")
        record: dict[str, Any] = json.loads(content) if content else {}
        return record

    def kill(self, name: str) -> None:
        """End a worker and all that it started."""
        if name in self._waited_for:  # it has no node yet
            self._forget(name)
            return
        try:
            self._call(name, "end", seconds=10.0)
            ray.kill(self._actor(name))
        except (OlivineError, ray.exceptions.RayError, ValueError):  # it is gone, or never was anywhere
            self._forget(name)

    def _forget(self, name: str) -> None:
        """Give up an actor that is not there, or still waits for a node."""
        self._waited_for.pop(name, None)
        actor = self._actors.pop(name, None)
        if actor is not None:
            ray.kill(actor)

    def _actor(self, name: str) -> Any:
        if name not in self._actors:
            self._actors[name] = ray.get_actor(name, namespace=NAMESPACE)
        return self._actors[name]

    def _call(
        self, name: str, method: str, *arguments: Any, node: str | None = None, seconds: float = _CALL_SECONDS
    ) -> Any:
        """What a worker answers; Lost when it is gone."""
        until = time.monotonic() + _AWAY_SECONDS
        while True:
            with _told(self._address):
                try:
                    called: Callable[..., Any] = getattr(self._actor(name), method).remote
                    return ray.get(called(*arguments), timeout=seconds)
                except ValueError:  # no actor has that name any more
                    raise Lost("is gone", with_node=self._is_gone(node)) from None
                except ray.exceptions.GetTimeoutError:
                    raise OlivineError(f"the worker {name} gives no answer") from None
                except ray.exceptions.ActorUnavailableError:  # its node cannot be reached, which may pass
                    if time.monotonic() > until:
                        raise Lost("cannot be reached", with_node=True) from None
                except ray.exceptions.RayActorError as error:
                    raise Lost(_how(error), with_node=self._is_gone(node)) from None
            time.sleep(1.0)

    def _is_gone(self, node: str | None) -> bool:
        """Whether a node is not alive; what is heard of it comes a moment after what is heard of its actors."""
        until = time.monotonic() + _GONE_SECONDS
        while node is not None:
            if all(one["id"] != node for one in self.nodes()):
                return True
            if time.monotonic() > until:
                break
            time.sleep(0.2)
        return False


def _check_keys(environment: Mapping[str, Any]) -> None:
    """RequestError for a key that Ray would pass over."""
    from ray.runtime_env import RuntimeEnv

    known = sorted(name for name in RuntimeEnv.known_fields if not name.startswith("_"))
    for key in sorted(set(environment) - set(known)):
        near = difflib.get_close_matches(key, known, n=1)
        hint = f"did you mean '{near[0]}'?" if near else f"there are: {', '.join(known)}"
        raise RequestError(f"'runtime_env' of Ray has no '{key}'; {hint}")


def _connect(address: str, environment: dict[str, Any]) -> None:
    """Connect this process; OlivineError with one sentence when that cannot be done."""
    _reach(address)
    with _told(address):
        try:
            _begin(address, environment)
        except ImportError as error:
            raise MissingExtra(f"'{address}' needs {error.name}; run: pip install 'olivine[ray]'") from None
        except (RuntimeError, ConnectionError) as error:
            text = " ".join(str(error).split())
            if "ersion mismatch" in text:
                raise RequestError(f"the cluster is of another Ray or Python than this process: {text}") from None
            if address == "auto":
                raise OlivineError(
                    "no Ray cluster runs on this machine: start one with 'ray start --head', or name the address of "
                    "another, such as ray://HOST:10001"
                ) from None
            raise OlivineError(f"the Ray cluster at {address} gives no answer: {text[:200]}") from None


def _begin(address: str, environment: dict[str, Any]) -> None:
    """Ray's own connecting; a cluster that is too busy to start a server for one more client in time is asked again."""
    for n_left in reversed(range(_TRIES)):
        try:
            ray.init(
                address=address,
                namespace=NAMESPACE,
                runtime_env=environment or None,
                log_to_driver=False,
                logging_level="ERROR",
                **({} if address.startswith(CLIENT) else {"configure_logging": False}),
            )
        except ConnectionError as error:
            if not n_left or _TOO_BUSY not in str(error):
                raise
        else:
            return


def _of_this_machine() -> str:
    """The address that Ray takes for "auto": that of the last cluster that was started here, be it gone; else none."""
    from ray._private.services import canonicalize_bootstrap_address

    try:
        return canonicalize_bootstrap_address("auto") or ""
    except (RuntimeError, ConnectionError):  # there is none, which `ray.init` says, too
        return ""


def _reach(address: str) -> None:
    """OlivineError where nobody listens: Ray itself tries for minutes."""
    if address == "auto":
        address = _of_this_machine()
    host, _, port = address.removeprefix(CLIENT).rpartition(":")
    if not host or not port.isdigit():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_REACH_SECONDS).close()
    except OSError as error:
        why = sentence(error)
        raise OlivineError(f"nobody answers at {address} ({why}): start the cluster, or name its address") from None


@contextmanager
def _told(address: str) -> Iterator[None]:
    """What Ray raises, as a sentence."""
    try:
        yield
    except ray.exceptions.RuntimeEnvSetupError as error:
        raise RequestError(f"the nodes cannot make the runtime environment: {_last(str(error))}") from None
    except ray.exceptions.RayActorError as error:
        raise OlivineError(_how(error)) from None
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, OlivineError):
            raise OlivineError(str(error.cause)) from None
        raise OlivineError(f"a worker cannot be asked: {sentence(error.cause)}") from None
    except ray.exceptions.RayError as error:
        raise OlivineError(f"the Ray cluster at {address} fails: {sentence(error)}") from None


def _is_unfit(error: Exception) -> bool:
    """Whether an actor could not be made, on whichever node."""
    text = str(error)
    return "ModuleNotFoundError" in text or "creation task failed" in text or "error raised in" in text


def _how(error: Exception) -> str:
    """How an actor ended, in words that follow "its worker "."""
    text = " ".join(str(error).split())
    if "ModuleNotFoundError" in text:
        return (
            f"cannot start: {_last(str(error))}; install olivine {__version__} on the nodes, or let runtime_env do so"
        )
    if "OOM" in text or "out of memory" in text.lower():
        return "was killed by Ray: the memory of its node ran out"
    if "creation task failed" in text or "error raised in" in text:
        return f"cannot start: {_last(str(error))}"
    return "was ended, and its actor with it"


def _last(text: str) -> str:
    """The last line that says something."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:300] if lines else "no reason is given"


def _unpacked_wheel(folder: Path) -> str:
    """Our package, which Ray puts on the path of the nodes; a wheel would bring what it needs again, torch included."""
    wheel = build_wheel(folder)
    with zipfile.ZipFile(wheel) as packed:
        packed.extractall(folder / "package", [name for name in packed.namelist() if name.startswith("olivine/")])
    return str(folder / "package" / "olivine")
