"""A Ray cluster: its workers are actors on the nodes that have room, and what they read lies near them."""

import json
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar
from uuid import uuid4

from pydantic import ByteSize, Field, field_validator

from olivine import lazy
from olivine.errors import OlivineError, RequestError, StepFailed, Unsupported
from olivine.systems._base import System, SystemParams, Worker
from olivine.systems._nodes import spreads
from olivine.systems._probe import Probe
from olivine.systems._protocol import Job, Listener
from olivine.systems._ray_bridge import Bridge
from olivine.systems._ray_crew import Crew, Member, Request, told
from olivine.systems._ray_line import Lost, of_team
from olivine.systems._secrets import refuse_secrets
from olivine.work import Estimate, NodeLost

_N_NODES_LOST = 3  # by one job; then it may be the job that ends them
_PROBE_SECONDS, _AUTOSCALER_SECONDS = 60.0, 1800.0


class Ray(System):
    """A Ray cluster: a job runs on any node that has the cores, memory and GPUs that it asks for."""

    aliases = ("Ray", "RaySystem")
    modules: ClassVar[Mapping[str, str]] = {"ray": "ray"}

    class Params(SystemParams):
        """Which cluster, what a worker asks of a node, and where files lie."""

        address: str = Field(
            "auto",
            description="ray://HOST:10001 from anywhere; auto, or HOST:6379, on a machine that is one of its nodes",
        )
        cpus: float | None = Field(
            None, gt=0, description="cores that a worker asks for; else those of the largest node, shared by its GPUs"
        )
        gpus: int | None = Field(None, ge=0, description="of a worker; else as many as the accelerators say")
        workers: int | None = Field(
            None, gt=0, description="at once, at most; else as many as there is room for on the nodes of now"
        )
        nodes: int = Field(
            1, gt=0, description="of a worker, on all of which fine-tuning runs; other passes run on one"
        )
        memory: ByteSize | None = Field(None, description="of a worker, such as 16GB; else what the plan needs")
        resources: dict[str, float] = Field(
            default_factory=dict, description="others that a worker asks for, as nodes were started with"
        )
        store: str = Field(
            "~/.cache/olivine/ray", description="folder on the disks of the nodes, where files lie by content"
        )
        files: str = Field(
            "",
            description="an address where files go that nodes and this machine reach, such as s3://bucket/olivine; "
            "else they go to the head node's store",
        )
        runtime_env: dict[str, Any] = Field(
            default_factory=dict, description="environment of the workers, as Ray has it: pip, uv, image_uri, env_vars"
        )
        send_olivine: bool = Field(
            True, description="let workers run this olivine; false: the one that is installed on the nodes"
        )
        hf_token: bool = Field(False, description="let workers see HF_TOKEN of this environment")
        autoscales: bool = Field(False, description="nodes come when they are needed: none need be there yet")

        @field_validator("runtime_env")
        @classmethod
        def _holds_no_secret(cls, runtime_env: dict[str, Any]) -> dict[str, Any]:
            refuse_secrets(runtime_env.get("env_vars", {}), "set it where the nodes are started")
            return runtime_env

    params: Params

    def __init__(self, params: Params) -> None:
        super().__init__(params)
        # as Ray itself has it, but known before Ray tries for minutes to reach a cluster that is not there
        self._address = (os.environ.get("RAY_ADDRESS") if params.address == "auto" else None) or params.address
        if self._address.startswith("ray://") and not lazy.installed("grpc"):
            raise RequestError(f"'{self._address}' needs grpcio; run: pip install 'olivine[ray]'")
        if params.hf_token and not os.environ.get("HF_TOKEN"):
            raise RequestError("'hf_token' is set, but this environment has no HF_TOKEN")
        self._need = Estimate()

    @cached_property
    def bridge(self) -> Bridge:
        """What asks the cluster."""
        params = self.params
        return Bridge(
            {
                "address": self._address,
                "runtime_env": params.runtime_env,
                "sends_olivine": params.send_olivine,
                "folder": params.store,
                "files": params.files,
                "secrets": ["HF_TOKEN"] if params.hf_token else [],
            }
        )

    @cached_property
    def crew(self) -> Crew:
        """The workers of this system."""
        return Crew(self.bridge, self._request, waits=self.params.autoscales)

    @property
    def _n_gpus(self) -> int:
        return self.params.gpus if self.params.gpus is not None else self.n_gpus

    @property
    def n_nodes(self) -> int:
        """See System."""
        return self.params.nodes

    def probe(self) -> Probe:
        """What a worker has, on a node that could have one."""
        nodes = self.bridge.ask("nodes")
        request = self._request(nodes)
        if (room := self._room(nodes, request)) < self.n_nodes and not self.params.autoscales:
            raise Unsupported(
                f"a worker has {self.n_nodes} nodes with {told(request)} each, but the {len(nodes)} nodes of the "
                f"cluster have room for {room}; ask for fewer or less, or say 'autoscales: true' where nodes come when "
                "they are needed"
            )
        name = f"probe-{uuid4().hex[:12]}"
        # its cores may be at work, which is no reason not to plan
        asked = {**request, "num_cpus": request["num_cpus"] if self.params.autoscales else 0}
        asked.pop("memory", None)
        node = None if self.params.autoscales or self._n_gpus else self._fitting(nodes, request)[0]["id"]
        self.bridge.ask("start", name=name, owner=self.crew.owner, request=asked, node=node)
        try:
            self._wait(name, asked)
            probe = Probe.from_json(self.bridge.ask("probe", name=name))
        except Lost as lost:
            raise OlivineError(f"a worker on the cluster {lost}") from None
        finally:
            self.bridge.ask("kill", name=name)
        memory = self.params.memory or _most(nodes, "memory") or probe.memory_bytes
        return replace(
            probe,
            n_cores=max(1, min(probe.n_cores, int(request["num_cpus"]))),
            memory_bytes=min(probe.memory_bytes, int(memory)),
        )

    def _wait(self, name: str, request: Request) -> None:
        seconds = _AUTOSCALER_SECONDS if self.params.autoscales else _PROBE_SECONDS
        until = time.monotonic() + seconds
        while self.bridge.ask("where", name=name, seconds=5.0) is None:
            if time.monotonic() > until:
                raise OlivineError(f"no node has room for {told(request)}: other work holds it")

    def reserve(self, need: Estimate) -> None:
        """See System: workers ask for it where the config does not say more."""
        self._need = need

    def n_jobs(self, need: Estimate) -> int:
        """See System: as many as the nodes have cores, memory and GPUs for, or will have."""
        nodes = self.bridge.ask("nodes")
        room = self._room(nodes, self._request(nodes, need)) // self.n_nodes
        most = self.params.workers
        if self.params.autoscales and most is not None:
            return most
        return max(1, min(room, most or room))

    def _room(self, nodes: list[dict[str, Any]], request: Request) -> int:
        """How many that ask for so much have room at once."""
        asked = _amounts(request)
        room = [min(int(node["resources"].get(name, 0) // amount) for name, amount in asked.items()) for node in nodes]
        return sum(room)

    def end_job(self, title: str) -> str | None:
        """See System: the worker goes with it, and those that do the job with it."""
        name: str | None = self.bridge.ask("end_job", title=title)
        return name

    def missing(self, hashes: Iterable[str]) -> set[str]:
        """See System."""
        return set(self.bridge.ask("missing", hashes=sorted(hashes)))

    def put(self, source: Path, hashed: str) -> None:
        """See System."""
        self.bridge.ask("put", source=str(source), hashed=hashed)

    def get(self, hashed: str, target: Path) -> None:
        """See System."""
        self.bridge.ask("get", hashed=hashed, target=str(target))

    def worker(self) -> "RayWorker":
        """One that takes any worker of the crew for each job."""
        return RayWorker(self.bridge, self.crew, self.n_nodes)

    def _request(self, nodes: list[dict[str, Any]], need: Estimate | None = None) -> Request:
        """What a worker asks of a node, in Ray's words; Unsupported where no node has it."""
        request: dict[str, Any] = {"num_cpus": self.params.cpus or 1, "num_gpus": self._n_gpus}
        memory = int(self.params.memory or min((need or self._need).memory_bytes, _most(nodes, "memory")))
        request |= {"memory": memory} if memory else {}
        request |= {"resources": self.params.resources} if self.params.resources else {}
        fitting = self._fitting(nodes, request)
        if self.params.cpus is None and fitting:
            request["num_cpus"] = max(self._share(node) for node in fitting)
        return request

    def _share(self, node: Mapping[str, Any]) -> float:
        """Cores of a node for one worker: all of them, or its share by GPUs."""
        cpus, gpus = (node["resources"].get(name, 0) for name in ("CPU", "GPU"))
        return max(1.0, cpus * self._n_gpus // gpus) if self._n_gpus and gpus else float(cpus)

    def _fitting(self, nodes: list[dict[str, Any]], request: Request) -> list[dict[str, Any]]:
        """The nodes that have in all what a worker asks for."""
        asked = _amounts(request)
        fitting = [node for node in nodes if all(node["resources"].get(name, 0) >= asked[name] for name in asked)]
        if not fitting and not self.params.autoscales:
            lacking = [name for name, amount in asked.items() if _most(nodes, name) < amount]
            most = ", ".join(f"{_most(nodes, name):g} {name}" for name in lacking) or "not all of it at once"
            raise Unsupported(
                f"a worker asks for {told(request)}, but of the {len(nodes)} nodes of the cluster the largest has "
                f"{most}; ask for less, or say 'autoscales: true' where nodes come when they are needed"
            )
        return fitting


class RayWorker(Worker):
    """Gives each job to a worker of the crew, and follows its events; a node that is lost is replaced by another."""

    def __init__(self, bridge: Bridge, crew: Crew, n_nodes: int) -> None:
        self._bridge, self._crew, self._n_nodes = bridge, crew, n_nodes
        self._member: Member | None = None
        self._node, self._is_ended = "", False

    def run(self, job: Job, listen: Listener) -> dict[str, Any]:
        """See Worker."""
        self._is_ended = False
        with self._gone_unless_fit(job):
            for n_lost in range(1, _N_NODES_LOST + 1):
                try:
                    return self._done(job, listen)
                except Lost as lost:
                    if self._is_ended or not lost.with_node or n_lost == _N_NODES_LOST:
                        how = f"its worker {lost}" if not spreads(job) else str(lost)
                        how = "its worker was ended" if self._is_ended else how
                        raise StepFailed(job.step, how, job.log_path) from None
                    listen("note", {"message": f"{self._gone(lost, job)} on with the step"})
                except StepFailed:
                    raise
                except OlivineError as error:
                    raise StepFailed(job.step, str(error), job.log_path) from None
        raise AssertionError  # the last turn returns or raises

    def _gone(self, lost: Lost, job: Job) -> str:
        """What is gone, and who does what it did, in words that "on with the step" follow."""
        if self._node:
            return f"the node '{self._node}' is gone; another one goes"
        return f"{lost}; others go" if spreads(job) else f"a worker {lost}; another one goes"

    def close(self) -> None:
        """See Worker."""
        if not self._crew.close():
            self._bridge.close()

    def kill(self) -> None:
        """See Worker."""
        self._is_ended = True
        if (member := self._member) is not None:
            self._crew.leaves(member)

    @property
    def has_line(self) -> bool:
        """See Worker."""
        return True

    def hang_up(self) -> None:
        """See Worker."""
        self._bridge.close()

    def _done(self, job: Job, listen: Listener) -> dict[str, Any]:
        """The result of the job, from a worker that is at it already, or from another one."""
        self._node = ""
        attached = self._bridge.ask("attached", title=job.title, owner=self._crew.owner) or {}
        if "result" in attached:
            result: dict[str, Any] = attached["result"]
            return result
        if attached:
            member = Member(attached["worker"], attached["id"], attached["name"], is_own=attached["is_own"])
            holder = Member(attached["holder"], "", "") if "holder" in attached else None
            self._crew.joins(holder or member)
            with self._at_work(holder or member, stays=holder is None):
                follow = self._followed if holder is None else self._first_followed
                return follow(member, attached["turn"], job, listen)
        if spreads(job):
            return self._done_together(job, listen)
        needed = {hashed for tree in job.trees.values() for hashed in tree.values()}
        member = self._crew.take(needed, lambda text: listen("note", {"message": text}), lambda: self._is_ended)
        with self._at_work(member):
            turn, owner = uuid4().hex, self._crew.owner
            text = json.dumps(job.to_json())
            who = {"name": member.name, "node": member.node, "owner": owner}
            self._bridge.ask("run", **who, turn=turn, title=job.title, job=text)
            return self._followed(member, turn, job, listen)

    def _done_together(self, job: Job, listen: Listener) -> dict[str, Any]:
        """The result of a job that several workers do together, of whom the first is heard."""
        note, turn, owner = lambda text: listen("note", {"message": text}), uuid4().hex, self._crew.owner
        holder, members = self._crew.gather(self._n_nodes, note, lambda: self._is_ended)
        with self._at_work(holder, stays=False):
            who = {"holder": holder.name, "names": [member.name for member in members], "owner": owner}
            self._bridge.ask("run_together", **who, turn=turn, title=job.title, job=json.dumps(job.to_json()))
            return self._first_followed(members[0], turn, job, listen)

    def _first_followed(self, member: Member, turn: str, job: Job, listen: Listener) -> dict[str, Any]:
        """As `_followed`, for the first worker of several, which says so itself when another one is lost."""
        try:
            with of_team(0, self._n_nodes):
                return self._followed(member, turn, job, listen)
        except NodeLost as lost:
            raise Lost(str(lost), with_node=True) from None

    @contextmanager
    def _at_work(self, member: Member, *, stays: bool = True) -> Iterator[None]:
        """A worker that has done its job, or failed in it, takes another one; one that is lost or unfit does not.

        stays: whether it may; those of a team do one job.
        """
        self._member, self._node = member, member.node_name
        try:
            yield
        except StepFailed as failure:
            is_fit = stays and not self._is_ended and not failure.cause.startswith("out of memory")
            (self._crew.rests if is_fit else self._crew.leaves)(member)
            raise
        except BaseException:
            self._crew.leaves(member)
            raise
        else:
            (self._crew.rests if stays else self._crew.leaves)(member)
        finally:
            self._member = None

    def _followed(self, member: Member, turn: str, job: Job, listen: Listener) -> dict[str, Any]:
        n_events, n_printed = 0, 0
        who = {"name": member.name, "node": member.node, "owner": self._crew.owner, "turn": turn}
        while True:
            heard = self._bridge.ask("heard", **who, n_events=n_events, n_printed=n_printed)
            if "is_other" in heard:
                raise StepFailed(job.step, "its worker was given another job", job.log_path)
            n_events, n_printed = n_events + len(heard["events"]), heard["n_printed"]
            if heard["printed"] and job.log:
                with Path(job.log).open("a", encoding="utf-8") as log:
                    log.write(heard["printed"])
            for fields in heard["events"]:
                if (result := _result(fields, job, listen)) is not None:
                    return result


def _result(fields: dict[str, Any], job: Job, listen: Listener) -> dict[str, Any] | None:
    """The result when this event has it, StepFailed when it says why not; others go to the listener."""
    match fields.pop("event"):
        case "done":
            result: dict[str, Any] = fields["result"]
            return result
        case "failed":
            tail, is_refused = fields["tail"], fields["is_refused"]
            if fields["is_lost"]:
                raise NodeLost(fields["cause"])
            raise StepFailed(job.step, fields["cause"], job.log_path, tail=tail, is_refused=is_refused)
        case event:
            listen(event, fields)
    return None


def _amounts(request: Request) -> dict[str, float]:
    """What a worker asks for, by the names that nodes give to what they have; of what is not asked for, nothing."""
    names = {"CPU": "num_cpus", "GPU": "num_gpus", "memory": "memory"}
    asked = {name: float(request.get(key, 0)) for name, key in names.items()} | dict(request.get("resources", {}))
    return {name: amount for name, amount in asked.items() if amount}


def _most(nodes: Iterable[Mapping[str, Any]], name: str) -> float:
    """The most that one node has of something."""
    return max((float(node["resources"].get(name, 0)) for node in nodes), default=0.0)
