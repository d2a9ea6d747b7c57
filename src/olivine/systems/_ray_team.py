"""Workers of several nodes of a Ray cluster that do one job together.

They are actors of one placement group, so that either all of them get their room or none: two teams cannot each hold a
half and wait for the other. The group belongs to an actor, its holder, and goes with it when nobody calls any more.
"""

import threading
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
_LOOK_SECONDS = 2.0
_CALL_SECONDS = 20.0  # an actor that is at work answers in a moment

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
        self._is_over = threading.Event()
        self.gone: set[int] = set()
        threading.Thread(target=self._watch, daemon=True, name="companions").start()

    def hear(self, node: int, outcome: Mapping[str, Any]) -> None:
        """Another one has ended."""
        self._outcomes[str(node)] = outcome
        write_outcomes(self._path, self._outcomes)

    def tell(self, outcome: Mapping[str, Any]) -> None:
        """Say to the others how this one has ended; who is gone hears nothing."""
        for name in self._others.values():
            self._asked(name, "companion_ended", self._node, dict(outcome))

    def end(self) -> None:
        """Watch no longer."""
        self._is_over.set()
        self._path.unlink(missing_ok=True)

    def look(self) -> bool:
        """Whether all others are there; who is not once is gone."""
        for node, name in self._others.items():
            if not self._asked(name, "called"):
                self.gone.add(node)
        return not self.gone

    def _watch(self) -> None:
        """Look whether all are there, and let the group's holder know that it is needed."""
        while not self._is_over.wait(_LOOK_SECONDS):
            self.look()
            self._asked(self._holder, "called")

    def _asked(self, name: str, method: str, *arguments: Any) -> bool:
        try:
            actor = ray.get_actor(name, namespace=self._namespace)
            ray.get(getattr(actor, method).remote(*arguments), timeout=_CALL_SECONDS)
        except (ray.exceptions.RayError, ValueError):
            return False
        return True
