"""Workers of several nodes of a Ray cluster that do one job together.

They are actors of one placement group, so that either all of them get their room or none: two teams cannot each hold a
half and wait for the other. The group belongs to an actor, its holder, and goes with it when nobody calls any more.
"""

import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from olivine import lazy
from olivine.systems._nodes import write_outcomes
from olivine.systems._ray_crew import Member
from olivine.systems._ray_files import Patient
from olivine.work import Team

if TYPE_CHECKING:
    from pathlib import Path

    import ray
else:
    ray = lazy.module("ray")

_IDLE_SECONDS = 60.0
_LOOK_SECONDS, _PAUSE_SECONDS = 2.0, 0.5
_CALL_SECONDS = 20.0  # an actor that is at work answers in a moment
_NEWS_SECONDS = 30.0  # until the cluster knows of one that does not answer whether it is gone
_GONE = {"message": "it is gone", "exit_code": 1, "is_lost": True, "is_gone": True}

Request = Mapping[str, Any]


@dataclass(frozen=True)
class Together:
    """The holder of a placement group, and the workers in it; the first has the result."""

    holder: Member
    members: tuple[Member, ...]


class Holder(Patient):
    """Has a placement group for so many workers, each with what one asks for."""

    def __init__(self, request: Request, n_nodes: int, idle_seconds: float = _IDLE_SECONDS) -> None:
        super().__init__(idle_seconds)
        named = {"CPU": request.get("num_cpus", 0), "GPU": request.get("num_gpus", 0)}
        named |= {"memory": request.get("memory", 0), **request.get("resources", {})}
        each = {name: amount for name, amount in named.items() if amount}
        self._group = ray.util.placement_group([each] * n_nodes, strategy="SPREAD")

    def group(self, seconds: float) -> Any:
        """The group when it has its room; None when it waits for longer than that."""
        self.called()
        return self._group if self._group.wait(seconds) else None

    def end(self) -> None:
        """As that of a worker: what it holds goes with it."""


class Companions:
    """The other workers of a team, as one of them hears of them.

    names: of all actors, the first has the result. path: where their outcomes are kept for the pass, see `work.Team`.
    """

    def __init__(self, team: Team, names: list[str], holder: str, path: "Path", namespace: str) -> None:
        self._others = {node: name for node, name in enumerate(names) if node != team.node}
        self._node, self._holder, self._path, self._namespace = team.node, holder, path, namespace
        self._outcomes: dict[str, Any] = {}
        self._is_over, self._writing = threading.Event(), threading.Lock()
        self._gone: set[int] = set()
        threading.Thread(target=self._watch, daemon=True, name="companions").start()

    def hear(self, node: int, outcome: Mapping[str, Any]) -> None:
        """Another one has ended."""
        with self._writing:
            if not self._is_over.is_set():
                self._outcomes[str(node)] = outcome
                write_outcomes(self._path, self._outcomes)

    def tell(self, outcome: Mapping[str, Any]) -> None:
        """Say to the others how this one has ended; who is gone hears nothing."""
        for name in self._others.values():
            self._is_there(name, "companion_ended", self._node, dict(outcome))

    def end(self) -> list[str]:
        """Watch no longer; gives what is to be said of those that went away after they had done their part."""
        until = time.monotonic() + _NEWS_SECONDS
        while not self._look() and time.monotonic() < until:
            time.sleep(_PAUSE_SECONDS)
        with self._writing:
            self._is_over.set()
            self._path.unlink(missing_ok=True)
        late = [node for node in sorted(self._gone) if not self._outcomes.get(str(node), _GONE).get("is_gone")]
        return [f"node {node + 1} of {len(self._others) + 1} is gone; its part was done" for node in late]

    def _watch(self) -> None:
        """Look whether all are there, and let the group's holder know that it is needed."""
        while not self._is_over.wait(_LOOK_SECONDS):
            self._look()
            self._is_there(self._holder, "called")

    def _look(self) -> bool:
        """Hear of those that are gone, as the cluster says; gives whether it is known of all whether they are."""
        known = True
        for node, name in self._others.items():
            if node in self._gone:
                continue
            is_there = self._is_there(name, "called")
            known &= is_there is not None
            if is_there is False:
                if str(node) not in self._outcomes:
                    self.hear(node, _GONE)
                self._gone.add(node)
        return known

    def _is_there(self, name: str, method: str, *arguments: Any) -> bool | None:
        """Whether an actor answers; None where the cluster does not know yet what has become of it."""
        try:
            actor = ray.get_actor(name, namespace=self._namespace)
            ray.get(getattr(actor, method).remote(*arguments), timeout=_CALL_SECONDS)
        except (ray.exceptions.ActorDiedError, ValueError):  # no actor has that name any more
            return False
        except ray.exceptions.RayError:
            return None
        return True
