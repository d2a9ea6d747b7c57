"""The other nodes of a pass that several run together: what became of them, as far as this node is told."""

import json
import re
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from olivine.errors import OlivineError, RequestError
from olivine.work import NodeLost, Team

_BESIDE_THE_CAUSE = re.compile(r"^\w+: \[\S+:\d+\] |\. This is typically caused by .*")  # in gloo's sentences
_LOOK_SECONDS = 0.5
_GRACE_SECONDS = 5.0  # until the processes here are ended that may say by themselves what is wrong
_NEWS_SECONDS = 20.0


class Others:
    """How the other nodes of a team have ended; of a pass on one node, nothing.

    news_seconds: how long the word of another node may take to come.
    """

    def __init__(self, team: Team | None, news_seconds: float = _NEWS_SECONDS) -> None:
        self._team, self._news_seconds = team, news_seconds
        self._looked, self._failed_since = 0.0, 0.0
        self._outcomes: Mapping[int, Mapping[str, Any]] = {}

    @property
    def have_failed(self) -> bool:
        """Whether one has ended so that nothing comes of the work here, for long enough to be told so by the work."""
        if self._team is not None and time.monotonic() - self._looked > _LOOK_SECONDS:
            self._look()
        if not any("message" in outcome for outcome in self._outcomes.values()):
            return False
        self._failed_since = self._failed_since or time.monotonic()
        return time.monotonic() - self._failed_since > _GRACE_SECONDS

    def devices(self, note: Callable[[str], None]) -> list[Mapping[str, Any]]:
        """What the devices of the other nodes took, in their order; node 0 alone waits for it.

        note: is told of nodes that went away after their part was done.
        """
        self._wait()
        for node in self._silent() if self._is_first else ():
            how = "is gone" if node in self._outcomes else "did not say how it ended"
            note(f"node {node + 1} of {self._n_nodes} {how}; its part was done, and nothing of the result is lost")
        return [facts for _, outcome in sorted(self._outcomes.items()) for facts in outcome.get("devices", [])]

    def cause(self, own: OlivineError) -> OlivineError:
        """What ended the pass. own: how this node's processes ended, a NodeLost when only by the end of others."""
        team = self._team
        if team is None or not isinstance(own, NodeLost):
            return own
        self._wait()
        for node, outcome in sorted(self._outcomes.items()):
            if "message" in outcome and not outcome["is_lost"]:
                kind = RequestError if outcome["exit_code"] == RequestError.exit_code else OlivineError
                return kind(f"{outcome['message']} (node {node + 1} of {team.n_nodes})")
        gone = self._silent()
        who = f"node {gone[0] + 1} of {team.n_nodes} is gone" if gone else f"the {team.n_nodes} nodes lost each other"
        return NodeLost(f"{who}: {_BESIDE_THE_CAUSE.sub('', str(own))}")

    def _wait(self) -> None:
        """Give the others the time to say how they ended; node 0 does not hear it from those that wait for it."""
        if not self._is_first:
            return
        until = time.monotonic() + self._news_seconds
        self._look()
        while len(self._outcomes) < self._n_nodes - 1 and time.monotonic() < until:
            time.sleep(_LOOK_SECONDS)
            self._look()

    @property
    def _is_first(self) -> bool:
        return self._team is not None and self._team.node == 0

    @property
    def _n_nodes(self) -> int:
        return self._team.n_nodes if self._team is not None else 1

    def _silent(self) -> list[int]:
        """The other nodes that have not said how they ended."""
        own = self._team.node if self._team is not None else 0
        said = {node for node, outcome in self._outcomes.items() if not outcome.get("is_gone")}
        return [node for node in range(self._n_nodes) if node != own and node not in said]

    def _look(self) -> None:
        self._looked = time.monotonic()
        if self._team is not None:
            with suppress(FileNotFoundError):
                told = json.loads(Path(self._team.outcomes).read_text(encoding="utf-8"))
                self._outcomes = {int(node): outcome for node, outcome in told.items()}
