"""An actor on a node of a Ray cluster: it holds cores, memory and GPUs, and a worker process that does job after job.

What a job reads comes from the files of the cluster into a store on the node's disk, and what it makes goes there
before it is said that it is done: a node may go at any time. Who gave the job may go, too, and ask for it again later.
"""

import json
import os
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import nullcontext, suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from olivine import __version__, lazy
from olivine.errors import OlivineError, RequestError, StepFailed
from olivine.messages import sentence
from olivine.store.remote import Mirror
from olivine.systems._job import is_helper
from olivine.systems._nodes import free_port, helping
from olivine.systems._probe import PROBE, ask
from olivine.systems._process import WORKER, WorkerProcess
from olivine.systems._protocol import Job
from olivine.systems._ray_files import NAMESPACE, Patient, open_files
from olivine.systems._ray_team import Companions
from olivine.systems._scratch import resumable
from olivine.work import Team

if TYPE_CHECKING:
    import ray
else:
    ray = lazy.module("ray")

_IDLE_SECONDS = 60.0  # without a job and without a call
_ABSENT_SECONDS = 15.0  # an owner that has not called for so long is gone
_LOOK_SECONDS = 1.0
_SCRATCH_SECONDS = 0.5  # between looks for checkpoints to be sent: the disk goes with the node


class NodeWorker(Patient):
    """Does the jobs of its owner on the node where it is.

    owner: who gives it jobs. folder: on the disk of each node; address: see `open_files`.
    """

    def __init__(self, owner: str, folder: str, address: str, idle_seconds: float = _IDLE_SECONDS) -> None:
        self._changed = threading.Condition()
        self._turn, self._is_at_work, self._events = "", False, list[dict[str, Any]]()
        self._companions: Companions | None = None
        super().__init__(idle_seconds)
        self._owner, self._owner_called = owner, time.monotonic()
        self._node = node_name()
        self._folder = Path(folder).expanduser().absolute() / self._node
        self._store = Mirror(self._folder, open_files(address, folder))
        self._log = self._folder / "logs" / f"{os.getpid()}.log"
        self._log.parent.mkdir(parents=True, exist_ok=True)
        self._command = [sys.executable, *WORKER, "--store", str(self._folder)]
        self._process = WorkerProcess(self._command)

    def where(self, secrets: Mapping[str, str]) -> dict[str, str]:
        """The node that it is on, and the olivine there.

        secrets: variables for its worker process; what an actor is made of, Ray keeps.
        """
        self.called()
        if secrets:
            self._process = WorkerProcess(self._command, environment={**os.environ, **secrets})
        return {"id": ray.get_runtime_context().get_node_id(), "name": self._node, "olivine": __version__}

    def wait(self) -> None:
        """A job is about to come."""
        self.called()

    def probe(self) -> dict[str, Any]:
        """What a worker here has."""
        self.called()
        return ask([sys.executable, *PROBE, "--store", str(self._folder)]).to_json()

    def is_busy(self) -> bool:
        """See Patient."""
        return self._is_at_work

    def meeting(self) -> tuple[str, int]:
        """Where this node could be heard by others."""
        self.called()
        return ray.util.get_node_ip_address(), free_port()

    def companion_ended(self, node: int, outcome: dict[str, Any]) -> None:
        """Another worker of the team has ended, as `work.Team` has it."""
        self.called()
        if self._companions is not None:
            self._companions.hear(node, outcome)

    def run(self, owner: str, turn: str, title: str, job: str, team: Mapping[str, Any] | None = None) -> None:
        """Begin a job. turn: a name for this time; what was begun is not begun again. title: see `attached`.

        team: the names of all actors that do it together and of their "holder", which "node" of them this is, and the
        "address" and "port" of the first.
        """
        self._heard_of(owner)
        with self._changed:
            if self._turn == turn:
                return
            self._turn, self._is_at_work, self._events = turn, True, []
            self._log.write_bytes(b"")
        begun = self._joined(Job.from_json(json.loads(job)), turn, team)
        if not is_helper(begun):
            record = {"worker": ray.get_runtime_context().get_actor_name(), "turn": turn}
            record |= {"holder": team["holder"]} if team is not None else {}
            self._store.far.write(f"jobs/{title}.json", json.dumps(record).encode())
        threading.Thread(target=self._work, args=(title, begun), daemon=True).start()

    def heard(self, owner: str, turn: str, n_events: int, n_printed: int) -> dict[str, Any]:
        """The events of a turn after so many, and what was printed after so many bytes; waits a moment for them."""
        self._heard_of(owner)
        until = time.monotonic() + _LOOK_SECONDS
        with self._changed:
            while self._turn == turn and len(self._events) <= n_events and (left := until - time.monotonic()) > 0:
                self._changed.wait(left)
            is_other, events = self._turn != turn, self._events[n_events:]
        if is_other:
            return {"is_other": True}
        printed = self._printed(n_printed)
        return {
            "events": events,
            "printed": printed.decode("utf-8", errors="replace"),
            "n_printed": n_printed + len(printed),
        }

    def adopt(self, owner: str, turn: str) -> dict[str, bool]:
        """Whether it is at that turn, and now the owner's: whose it was has not called for a while."""
        with self._changed:
            is_here = self._turn == turn and self._is_at_work
            is_left = time.monotonic() - self._owner_called > _ABSENT_SECONDS
            if is_here and is_left:
                self._owner = owner
        self._heard_of(owner)
        return {"is_here": is_here, "is_own": is_here and self._owner == owner}

    def is_at(self, turn: str) -> bool:
        """Whether it is at work on that turn."""
        self.called()
        return self._turn == turn and self._is_at_work

    def end(self) -> None:
        """End the worker process and all that it started."""
        self._process.kill()

    def _heard_of(self, owner: str) -> None:
        self.called()
        if owner == self._owner:
            self._owner_called = time.monotonic()

    def _joined(self, job: Job, turn: str, team: Mapping[str, Any] | None) -> Job:
        """The job as this worker of a team does it; as it is, where it does it alone."""
        self._companions = None
        if team is None:
            return job
        path = self._folder / "teams" / f"{turn}-{team['node']}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        among = Team(team["node"], len(team["names"]), team["address"], team["port"], str(path))
        self._companions = Companions(among, team["names"], team["holder"], path, NAMESPACE)
        return helping(job, among) if among.node else replace(job, team=asdict(among))

    def _work(self, title: str, job: Job) -> None:
        try:
            result = self._done(job)
            if not is_helper(job):
                self._send(result, title)
            for note in self._ended({"devices": result.get("facts", {}).get("devices", [])}):
                self._tell("note", {"message": note})
            self._tell("done", {"result": result})
        except StepFailed as failure:
            exit_code = RequestError.exit_code if failure.is_refused else 1
            self._ended({"message": failure.cause, "exit_code": exit_code, "is_lost": failure.is_lost})
            told = {"cause": failure.cause, "tail": failure.tail, "is_refused": failure.is_refused}
            self._tell("failed", told | {"is_lost": failure.is_lost})
        except BaseException as error:  # noqa: BLE001 - the border of the node: whatever it was, the parent decides
            self._ended({"message": sentence(error), "exit_code": 1, "is_lost": False})
            self._tell("failed", {"cause": sentence(error), "tail": "", "is_refused": False, "is_lost": False})
        finally:
            self._is_at_work = False
            self.called()

    def _done(self, job: Job) -> dict[str, Any]:
        scratch = self._folder / "scratch" / job.scratch.name
        scratch.mkdir(parents=True, exist_ok=True)
        self._bring(job)
        with nullcontext() if is_helper(job) else resumable(scratch, self._store, _SCRATCH_SECONDS):
            return self._process.run(replace(job, log=str(self._log)), self._tell)

    def _ended(self, outcome: Mapping[str, Any]) -> list[str]:
        """Tell the other workers of a team how this one has ended; gives what is to be said of them."""
        if self._companions is None:
            return []
        self._companions.tell(outcome)
        return self._companions.end()

    def _bring(self, job: Job) -> None:
        """Fetch what the job reads and is not here yet."""
        needed = {hashed for tree in job.trees.values() for hashed in tree.values()}
        for hashed in sorted(self._store.missing(needed)):
            self._store.far.get(hashed, self._store.path(hashed))

    def _send(self, result: Mapping[str, Any], title: str) -> None:
        """Send what was made, and say what came of the job and what lies here now, for whoever asks later."""
        far = self._store.far
        for hashed in sorted(far.missing(set(result["files"].values()))):
            far.put(self._store.path(hashed), hashed)
        far.write(f"jobs/{title}.json", json.dumps({"result": result}).encode())
        with suppress(OSError, OlivineError):  # it only says where the next job had best go
            files = (self._folder / "files").iterdir()
            sizes = {path.name: path.stat().st_size for path in files if not path.name.startswith(".")}
            far.write(f"nodes/{self._node}.json", json.dumps(sizes).encode())

    def _tell(self, event: str, fields: Mapping[str, Any]) -> None:
        with self._changed:
            self._events.append({"event": event, **fields})
            self._changed.notify_all()

    def _printed(self, n_before: int) -> bytes:
        if not self._log.is_file():  # the store was cleared: a log is not what a job fails by
            return b""
        with self._log.open("rb") as log:
            log.seek(n_before)
            return log.read()


def node_name() -> str:
    """What the node where this runs is called: by its folder there, what it has is found again when it comes back."""
    here = ray.get_runtime_context().get_node_id()
    name = next(str(node.get("NodeName") or here) for node in ray.nodes() if node["NodeID"] == here)
    return "".join(letter if letter.isalnum() or letter in "-." else "-" for letter in name).lstrip(".") or here
