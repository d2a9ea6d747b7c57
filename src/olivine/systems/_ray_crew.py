"""The workers of one run on a Ray cluster: which of them does a job, and where another one is started."""

import threading
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from olivine import __version__
from olivine.errors import OlivineError, RequestError
from olivine.systems._ray_bridge import Bridge
from olivine.systems._ray_line import Lost

_LOOK_SECONDS = 2.0
_N_STARTS = 3  # of a worker whose nodes go before it has begun; then it may be what ends them
_LOOKS_UNTOLD, _LOOKS_NEAR = 5, 15  # until it is said that a worker waits; at a node that has the files, and no room

Request = Mapping[str, Any]


@dataclass(frozen=True)
class Member:
    """A worker, by its name, and the node that it is on. is_own: nobody else gives it jobs."""

    name: str
    node: str
    node_name: str
    is_own: bool = True


class Crew:
    """Workers that are warm between jobs.

    request: what one asks of a node, made of the nodes that there are; OlivineError when none has it. waits: whether
    one is waited for that no node of now has room for.
    """

    def __init__(self, bridge: Bridge, request: Callable[[list[dict[str, Any]]], Request], *, waits: bool) -> None:
        self.owner = uuid.uuid4().hex
        self._bridge, self._request, self._waits = bridge, request, waits
        self._lock = threading.Lock()
        self._idle: list[Member] = []
        self._at_work: set[Member] = set()

    def take(self, hashes: Iterable[str], note: Callable[[str], None], is_over: Callable[[], bool]) -> Member:
        """The worker that has most of the files, or another one where all are at work.

        note: is told what is waited for. is_over: whether nobody waits any more; OlivineError then.
        """
        needed = sorted(hashes)
        while (idle := self._best(needed)) is not None:
            if self._bridge.ask("is_there", name=idle.name):
                return idle
            self.leaves(idle)  # it had nothing to do for too long
        member = self._started(needed, note, is_over)
        self.joins(member)
        return member

    @property
    def idle(self) -> tuple[Member, ...]:
        """Those that have nothing to do."""
        with self._lock:
            return tuple(self._idle)

    def _best(self, hashes: list[str]) -> Member | None:
        """The idle worker that has most of the files, now at work; of equals, the one that worked last."""
        held = self._bridge.ask("held", hashes=hashes) if len(self.idle) > 1 else {}
        with self._lock:
            best = max(reversed(self._idle), key=lambda one: held.get(one.node, 0), default=None)
            if best is not None:
                self._idle.remove(best)
                self._at_work.add(best)
            return best

    def joins(self, member: Member) -> None:
        """A worker is at work that was started elsewhere."""
        with self._lock:
            self._at_work.add(member)

    def rests(self, member: Member) -> None:
        """A worker has nothing to do."""
        with self._lock:
            self._at_work.discard(member)
            if member.is_own:
                self._idle.append(member)

    def leaves(self, member: Member) -> None:
        """A worker is gone; what is left of it is ended."""
        with self._lock:
            self._at_work.discard(member)
        self._bridge.ask("kill", name=member.name)

    def gather(
        self, n_nodes: int, note: Callable[[str], None], is_over: Callable[[], bool]
    ) -> tuple[Member, list[Member]]:
        """Workers that do one job together, and the holder of their place, with which all of them leave."""
        holder = Member(f"team-{uuid.uuid4().hex[:12]}", "", "")
        names = [f"{holder.name}-{index}" for index in range(n_nodes)]
        self.joins(holder)
        try:
            request = self._request(self._bridge.ask("nodes"))
            self._bridge.ask("gather", holder=holder.name, n_nodes=n_nodes, request=request)
            places = self._gathered(holder.name, names, request, note, is_over)
        except BaseException:
            self.leaves(holder)
            raise
        return holder, [Member(name, one["id"], one["name"]) for name, one in zip(names, places, strict=True)]

    def _gathered(
        self, holder: str, names: list[str], request: Request, note: Callable[[str], None], is_over: Callable[[], bool]
    ) -> list[dict[str, str]]:
        n = 0
        while True:
            asked = {"holder": holder, "names": names, "owner": self.owner, "request": request}
            places: list[dict[str, str]] | None = self._bridge.ask("gathered", **asked, seconds=_LOOK_SECONDS)
            if places is not None:
                return [_fit(place) for place in places]
            n += 1
            self._end_idle()  # what they hold may be what is waited for
            if is_over():
                raise OlivineError("was ended while it waited for nodes")
            if n == _LOOKS_UNTOLD:
                note(f"{len(names)} workers wait for nodes with room for {told(request)} each")

    def close(self) -> bool:
        """End those that have nothing to do; gives whether there are others."""
        self._end_idle()
        with self._lock:
            return bool(self._at_work)

    def _end_idle(self) -> None:
        with self._lock:
            idle, self._idle = self._idle, []
        for member in idle:
            self._bridge.ask("kill", name=member.name)

    def _started(self, hashes: list[str], note: Callable[[str], None], is_over: Callable[[], bool]) -> Member:
        node, n_lost = self._nearest(hashes), 0
        while True:
            name, place = f"worker-{uuid.uuid4().hex[:12]}", None
            try:
                place = self._begun(name, node, note, is_over)
            except Lost:  # its node went before it began: another one is asked for
                n_lost += 1
                if n_lost == _N_STARTS:
                    raise
            finally:
                if place is None:  # nobody waits for it any more, whatever becomes of it
                    self._bridge.ask("kill", name=name)
            if place is not None:
                return Member(name, place["id"], place["name"])
            node = None

    def _begun(
        self, name: str, node: str | None, note: Callable[[str], None], is_over: Callable[[], bool]
    ) -> dict[str, str] | None:
        """Where a worker has begun; None when the node that it should be on has no room for it."""
        request = self._request(self._bridge.ask("nodes"))
        self._bridge.ask("start", name=name, owner=self.owner, request=request, node=node)
        return self._place(name, request, note, is_over, n_looks=_LOOKS_NEAR if node else None)

    def _place(
        self, name: str, request: Request, note: Callable[[str], None], is_over: Callable[[], bool], n_looks: int | None
    ) -> dict[str, str] | None:
        """Where a worker has begun; None after so many looks."""
        n = 0
        while n_looks is None or n < n_looks:
            place: dict[str, str] | None = self._bridge.ask("where", name=name, seconds=_LOOK_SECONDS)
            if place is not None:
                return _fit(place)
            n += 1
            if is_over():
                raise OlivineError("was ended while it waited for a node")
            if n == _LOOKS_UNTOLD:
                note(f"a worker waits for a node with room for {told(request)}")
            if not self._waits:
                self._request(self._bridge.ask("nodes"))  # a node that could have had it may be gone meanwhile
        return None

    def _nearest(self, hashes: list[str]) -> str | None:
        """The node that has most of the files, unless workers of this run fill it."""
        nodes = self._bridge.ask("nodes")
        cpus = self._request(nodes)["num_cpus"]
        with self._lock:
            n_there = Counter(member.node for member in self._at_work)
        has_room = {one["id"] for one in nodes if one["resources"].get("CPU", 0) >= cpus * (n_there[one["id"]] + 1)}
        held = {node: size for node, size in self._bridge.ask("held", hashes=hashes).items() if node in has_room}
        best = max(held, key=lambda node: held[node], default=None)
        return best if best is not None and held[best] else None


def _fit(place: dict[str, str]) -> dict[str, str]:
    """The place of a worker; RequestError where its node has another olivine than the one that was asked for a plan."""
    if (there := place.get("olivine")) != __version__:
        raise RequestError(
            f"the node '{place['name']}' has olivine {there or 'of another release'}, but this is {__version__}: "
            "install it on all nodes, or leave out 'send_olivine: false'"
        )
    return place


def told(request: Request) -> str:
    """What a worker asks for, for a person."""
    parts = [f"{request['num_cpus']:g} CPUs"]
    parts += [f"{request['num_gpus']:g} GPUs"] if request.get("num_gpus") else []
    parts += [f"{request['memory'] / 1e9:.1f} GB of memory"] if request.get("memory") else []
    parts += [f"{amount:g} {name}" for name, amount in request.get("resources", {}).items()]
    return ", ".join(parts)
