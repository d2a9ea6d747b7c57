"""A pass on several devices: a process for each, started by accelerate's launcher, watched and heard by the worker.

    worker ─> _launcher (accelerate, torch elastic) ─> _rank 0, _rank 1, ...      each runs the pass with its rank

The worker writes the job as JSON; each rank writes its events, one JSON object a line, to a file of its own. When one
rank fails, the launcher ends the others; when the worker is gone, however it ended, all of them end.

On several nodes each has a worker that does so, and the launchers find each other, see `work.Team`.
"""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from olivine import lazy
from olivine.errors import OlivineError, RequestError
from olivine.messages import EventFile, ending
from olivine.models import Model
from olivine.passes import Pass
from olivine.passes.finetune._others import Others
from olivine.work import Context, Machine, NodeLost, Reporter, Team

if TYPE_CHECKING:
    import psutil
else:
    psutil = lazy.module("psutil")

_LOOK_SECONDS = 0.05  # how often the ranks are listened to
_ENDED_BY_LAUNCHER = -15  # SIGTERM: how the launcher ends the others when one has failed


def run_on_all(step: Pass, model: Model, context: Context) -> Model:
    """Run the pass once on every device together, here and on the other nodes of its team; gives the result.

    What the first reports is reported, and warnings of the others that it does not have. Facts get `devices`: of each
    its `peak_memory_bytes`, and `device_peak_bytes` on a GPU. Raises RequestError or OlivineError with the cause that
    came first when a rank fails, and NodeLost when that is only known as the end of another node; no process is left
    here then.
    """
    folder = context.scratch / "ranks"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    job = folder / "job.json"
    job.write_text(json.dumps(_job(step, model, context)), encoding="utf-8")
    ranks, others = _Ranks(folder, context.machine, context.team, context.report), Others(context.team)
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "olivine.passes.finetune._launcher", str(job)], stdin=subprocess.DEVNULL
    )
    try:
        while process.poll() is None and not others.have_failed:
            ranks.listen()
            time.sleep(_LOOK_SECONDS)
    finally:
        _end(process)
    ranks.listen()
    if process.returncode != 0 or len(ranks.done) < context.machine.n_devices:
        raise others.cause(ranks.failure(process.returncode))
    facts = [fact for _, fact in sorted(ranks.done.items())]
    devices = [{key: fact[key] for key in ("peak_memory_bytes", "device_peak_bytes") if key in fact} for fact in facts]
    context.report.record(**facts[0], devices=[*devices, *others.devices(context.report.note)])
    return Model.from_json(ranks.model)


def _job(step: Pass, model: Model, context: Context) -> dict[str, Any]:
    """All that a rank needs to know, as JSON."""
    return {
        "name": step.name,
        "params": step.params.model_dump(mode="json"),
        "model": model.to_json(),
        "output": str(context.output),
        "scratch": str(context.scratch),
        "machine": asdict(context.machine),
        "data": {name: config.model_dump(mode="json") for name, config in context.data.items()},
        "models": {name: other.to_json() for name, other in context.models.items()},
        "team": asdict(context.team) if context.team is not None else None,
        "worker": os.getpid(),
        "worker_started": psutil.Process().create_time(),
    }


def _end(process: "subprocess.Popen[bytes]") -> None:
    """End the launcher and every rank that it started, if they are still there."""
    with suppress(psutil.NoSuchProcess):
        for child in psutil.Process(process.pid).children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                child.kill()
    process.kill()
    process.wait()


class _Ranks:
    """What the ranks have said so far."""

    def __init__(self, folder: Path, machine: Machine, team: Team | None, report: Reporter) -> None:
        self._folder, self._report, self._n_ranks = folder, report, machine.n_processes
        self._first = (team.node if team is not None else 0) * machine.n_devices
        here = range(self._first, self._first + machine.n_devices)
        self._files = {rank: EventFile(folder / f"rank-{rank}.jsonl") for rank in here}
        self._warned: set[str] = set()
        self._failed: dict[int, Mapping[str, Any]] = {}
        self.done: dict[int, dict[str, Any]] = {}
        self.model: Mapping[str, Any] = {}

    def listen(self) -> None:
        """Pass on what is new."""
        for rank, file in self._files.items():
            for event in file.new():
                self._take(rank, event)

    def _take(self, rank: int, event: Mapping[str, Any]) -> None:
        match event["event"]:
            case "progress" if rank == self._first:
                self._report.progress(event["done"], event["total"], **event["metrics"])
            case "note" if rank == self._first:
                self._report.note(event["message"])
            case "warning" if event["message"] not in self._warned:
                self._warned.add(event["message"])
                self._report.warn(event["message"])
            case "failed":
                self._failed[rank] = event["error"]
            case "done":
                self.done[rank] = event["facts"]
                self.model = event["model"]

    def failure(self, code: int) -> OlivineError:
        """The cause that came first: others lose the connection after it, and are ended.

        A NodeLost when all that is known here is that lost connection.
        """
        n_ranks, ended = self._n_ranks, self._ended()
        killed = {rank: end for rank, end in ended.items() if rank not in self._failed and end != _ENDED_BY_LAUNCHER}
        if killed:
            rank, end = min(killed.items())
            return OlivineError(f"the process of device {rank + 1} of {n_ranks} {ending(end)}")
        if not self._failed:
            how = f"the launcher of the {n_ranks} processes {ending(code)}"
            return NodeLost(how) if len(self._files) < n_ranks else OlivineError(how)
        rank, error = min(self._failed.items(), key=lambda item: (item[1]["is_lost"], item[1]["time"]))
        if error["is_lost"] and len(self._files) < n_ranks:
            return NodeLost(error["message"])
        alike = all(other["message"] == error["message"] for other in self._failed.values())
        text = error["message"] if alike else f"{error['message']} (device {rank + 1} of {n_ranks})"
        return RequestError(text) if error["exit_code"] == RequestError.exit_code else OlivineError(text)

    def _ended(self) -> dict[int, int]:
        """Exit codes of the ranks that failed, as the launcher saw them."""
        path = self._folder / "ended.json"
        if not path.is_file():
            return {}
        return {int(rank): code for rank, code in json.loads(path.read_text(encoding="utf-8")).items()}
