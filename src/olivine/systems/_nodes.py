"""Nodes that were started together for one worker: node 0 does its jobs, and the others help where a job spreads.

They meet at the address where files go:

jobs/NAME/nodes/job-000001          where node 0 hears the others, in which attempt; written anew for another one
jobs/NAME/nodes/ATTEMPT/joined-1    that node has begun
jobs/NAME/nodes/ATTEMPT/ended-1     how it has ended, see `work.Team`

A node that goes away may come back, on another machine: the job then goes on from the last checkpoint of node 0.
"""

import json
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from olivine.errors import OlivineError
from olivine.messages import Events, sentence
from olivine.passes import passes
from olivine.store.remote import RemoteFiles
from olivine.systems._protocol import Job
from olivine.work import NodeLost, Team

_N_ATTEMPTS = 3
_COME_SECONDS = 1800.0  # another machine may have to be found for a node that went away
_UNTOLD_SECONDS = 15.0  # that node 0 waits for others before that is told
_N_LOOKS = 5  # of a node that helps, until it looks whether node 0 has begun anew

Run = Callable[[Job, Events], dict[str, Any]]
Help = Callable[[Job, Team], dict[str, Any]]  # gives how it ended, see `outcome`


def spreads(job: Job) -> bool:
    """Whether all nodes do it together."""
    plugin = passes.find(job.name) if job.kind == "pass" else None
    return plugin is not None and plugin.spreads and job.machine.get("n_nodes", 1) > 1


def helping(job: Job, team: Team) -> Job:
    """The job as a node does it that has no part in the result."""
    return replace(job, team=asdict(team), scratch=Path(f"{job.scratch}-node{team.node}"), log="")


def outcome(event: str, fields: Mapping[str, Any]) -> dict[str, Any] | None:
    """How a node ended, as others are told, by an event of its worker that says so."""
    if event == "done":
        return {"devices": fields["result"]["facts"].get("devices", [])}
    if event == "failed":
        error = fields["error"]
        is_lost = error["type"] == NodeLost.__name__
        return {"message": error["message"], "exit_code": error["exit_code"], "is_lost": is_lost}
    return None


class Ending:
    """Where a node's events go of which only the last is heard: how it ended."""

    def __init__(self) -> None:
        self.outcome: dict[str, Any] = {}

    def write(self, line: str) -> int:
        """Take one event."""
        fields = json.loads(line)
        self.outcome = outcome(fields["event"], fields) or self.outcome
        return len(line)

    def flush(self) -> None:
        """Do nothing more: what was written is heard."""


@dataclass(frozen=True)
class Nodes:
    """Those of a worker.

    node: which of them this is. address: of node 0, where it is known; port: that it may use. look_seconds: between two
    looks at what the others have written.
    """

    far: RemoteFiles
    name: str
    node: int
    n_nodes: int
    address: str = ""
    port: int = 0
    look_seconds: float = 1.0

    def led(
        self, number: int, run: Run, come_seconds: float = _COME_SECONDS, untold_seconds: float = _UNTOLD_SECONDS
    ) -> Run:
        """How node 0 does the worker's job of that number: again, from its checkpoint, when a node was lost."""

        def attempts(job: Job, events: Events) -> dict[str, Any]:
            for n in range(1, _N_ATTEMPTS + 1):
                try:
                    meeting = self._called(number, come_seconds, untold_seconds, events)
                    with self._attempt(meeting, number, job.scratch) as (team, _):
                        return run(replace(job, team=asdict(team)), events)
                except NodeLost as lost:
                    if n == _N_ATTEMPTS:
                        raise
                    events.note(f"{lost}; the step goes on from its last checkpoint when all nodes are there")
            raise AssertionError  # the last turn returns or raises

        return attempts

    def help(self, run: Help, number: int, folder: Path) -> None:
        """Help with the jobs from that number on, until the worker is told to end. folder: for what this node hears."""
        seen: set[str] = set()
        while True:
            meeting = self._meeting(number)
            if meeting is not None and meeting["attempt"] not in seen:
                seen.add(meeting["attempt"])
                if f"joined-{self.node}" not in self.far.names(self._folder(meeting)):  # it was that of an earlier life
                    self._joined(meeting, number, run, folder)
            elif self.far.read(f"jobs/{self.name}/job-{number + 1:06}") is not None:
                number += 1
            elif self.far.read(f"jobs/{self.name}/end") is not None:
                return
            else:
                time.sleep(self.look_seconds)

    def _joined(self, meeting: Mapping[str, Any], number: int, run: Help, folder: Path) -> None:
        """Do this node's part of a job; how it ended is told to the others."""
        content = self.far.read(f"jobs/{self.name}/job-{number:06}")
        self.far.write(f"{self._folder(meeting)}/joined-{self.node}", b"")
        with self._attempt(meeting, number, folder) as (team, told):
            told.update(run(Job.from_json(json.loads(content or b"{}")), team))

    def _called(self, number: int, come_seconds: float, untold_seconds: float, events: Events) -> Mapping[str, Any]:
        """The other nodes, called together; OlivineError when one does not come."""
        address = self.address or socket.gethostbyname(socket.gethostname())
        meeting = {"attempt": uuid.uuid4().hex[:12], "address": address, "port": free_port(self.port)}
        self.far.write(self._place(number), json.dumps(meeting).encode())
        begun, is_told = time.monotonic(), False
        while True:
            there = self.far.names(self._folder(meeting))
            missing = [node for node in range(1, self.n_nodes) if f"joined-{node}" not in there]
            if not missing:
                return meeting
            who, waited_seconds = f"node {missing[0] + 1} of {self.n_nodes}", time.monotonic() - begun
            if waited_seconds > come_seconds:
                raise OlivineError(f"{who} did not come within {come_seconds / 60:g} minutes")
            if not is_told and waited_seconds > untold_seconds:
                events.note(f"{who} is waited for: all begin together")
                is_told = True
            time.sleep(self.look_seconds)

    @contextmanager
    def _attempt(self, meeting: Mapping[str, Any], number: int, folder: Path) -> Iterator[tuple[Team, dict[str, Any]]]:
        """The team of a meeting, which hears how others end while it is at work, and the word on how this one did."""
        folder.mkdir(parents=True, exist_ok=True)
        path, is_over = folder / f"{meeting['attempt']}.json", threading.Event()
        team = Team(self.node, self.n_nodes, meeting["address"], meeting["port"], str(path))
        about = (meeting, number, path, is_over)
        listener = threading.Thread(target=self._listen, args=about, daemon=True, name="nodes")
        listener.start()
        told: dict[str, Any] = {}
        try:
            yield team, told
        except BaseException as error:
            exit_code = error.exit_code if isinstance(error, OlivineError) else 1
            told |= {"message": sentence(error), "exit_code": exit_code, "is_lost": isinstance(error, NodeLost)}
            raise
        finally:
            is_over.set()
            listener.join()
            path.unlink(missing_ok=True)
            with suppress(OlivineError):  # how the job ended is no less so when the others do not hear it
                self.far.write(f"{self._folder(meeting)}/ended-{self.node}", json.dumps(told).encode())

    def _listen(self, meeting: Mapping[str, Any], number: int, path: Path, is_over: threading.Event) -> None:
        """Keep in a file how others have ended; a node 0 that calls anew has, though it could not say so."""
        ended: dict[str, Any] = {}
        looks = 0
        while not is_over.wait(self.look_seconds):
            looks += 1
            with suppress(OlivineError):  # it is asked again
                if self.node > 0 and looks % _N_LOOKS == 0 and "0" not in ended and self._is_over(meeting, number):
                    ended["0"] = {"message": "it has begun anew", "exit_code": 1, "is_lost": True, "is_gone": True}
                    write_outcomes(path, ended)
                for name in self.far.names(self._folder(meeting)):
                    word, _, node = name.partition("-")
                    if word == "ended" and node not in ended and int(node) != self.node:
                        ended[node] = json.loads(self.far.read(f"{self._folder(meeting)}/{name}") or b"{}")
                        write_outcomes(path, ended)

    def _is_over(self, meeting: Mapping[str, Any], number: int) -> bool:
        """Whether node 0 has called the others together again."""
        latest = self._meeting(number)
        return latest is not None and latest["attempt"] != meeting["attempt"]

    def _meeting(self, number: int) -> dict[str, Any] | None:
        content = self.far.read(self._place(number))
        return json.loads(content) if content is not None else None

    def _place(self, number: int) -> str:
        return f"jobs/{self.name}/nodes/job-{number:06}"

    def _folder(self, meeting: Mapping[str, Any]) -> str:
        return f"jobs/{self.name}/nodes/{meeting['attempt']}"


def write_outcomes(path: Path, outcomes: Mapping[str, Any]) -> None:
    """Let a pass at work know how other nodes have ended."""
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(outcomes), encoding="utf-8")
    partial.replace(path)


def free_port(wish: int = 0) -> int:
    """A port of this machine that nobody uses: the one that is wished for, if it is free."""
    for port in (wish, 0):
        with suppress(OSError), socket.create_server(("", port)) as server:
            return int(server.getsockname()[1])
    raise OlivineError("this machine has no free port")
