"""One of the processes of a pass that runs on several devices, see `_launch`; started by its launcher."""

import faulthandler
import json
import os
import re
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from olivine import lazy, memory
from olivine.config.schema import DataConfig
from olivine.errors import OlivineError
from olivine.messages import Events, sentence
from olivine.models import Model
from olivine.notes import Notes
from olivine.passes import passes
from olivine.work import Context, Machine, Team

if TYPE_CHECKING:
    import filelock
    import psutil
    from torch import distributed
else:
    filelock = lazy.module("filelock")
    psutil = lazy.module("psutil")
    distributed = lazy.module("torch.distributed")

_LOOK_SECONDS = 0.3
_LOST = re.compile(r"by peer|Broken pipe|Connection refused|connectFullMesh|remote process exited|gloo.*Timed out")


def main(path: Path) -> None:
    """Do this rank's share of the job, and say how it ended."""
    job, rank = json.loads(path.read_text(encoding="utf-8")), int(os.environ["RANK"])
    faulthandler.enable()  # a crash in native code leaves the Python stack in the log
    _end_with([(job["worker"], job["worker_started"]), (os.getppid(), None)])
    with (path.parent / f"rank-{rank}.jsonl").open("w", encoding="utf-8") as stream:
        events = Events(stream)
        Notes(events).listen()
        try:
            with _alone(Path(job["scratch"]), rank):
                result = _run(job, rank, events)
            facts = events.facts | {"peak_memory_bytes": memory.peak_bytes()}
            events.send("done", model=result.to_json(), facts=facts)
        except BaseException as error:  # noqa: BLE001 - the border of the process: whatever it was, the worker decides
            print(traceback.format_exc(), file=sys.stderr, flush=True)  # noqa: T201 - standard error is the log here
            exit_code = error.exit_code if isinstance(error, OlivineError) else 1
            described = {"message": sentence(error), "exit_code": exit_code, "time": time.time()}
            described["is_lost"] = _is_lost(error)
            events.send("failed", error=described)
            os._exit(1)  # the teardown of a communication that others still wait in would wait for them
    if distributed.is_initialized():
        distributed.destroy_process_group()


def _run(job: Mapping[str, Any], rank: int, events: Events) -> Model:
    plugin = passes[job["name"]]
    context = Context(
        Path(job["output"]),
        Path(job["scratch"]),
        Machine(**job["machine"]),
        events,
        {name: DataConfig.model_validate(value) for name, value in job["data"].items()},
        {name: Model.from_json(value) for name, value in job["models"].items()},
        rank,
        team=Team(**job["team"]) if job["team"] else None,
    )
    return plugin(plugin.Params.model_validate(job["params"])).run(Model.from_json(job["model"]), context)


def _is_lost(error: BaseException | None) -> bool:
    """Whether another process went away, which tells its own cause if it can; of gloo that stands in the text alone."""
    while error is not None:
        if isinstance(error, distributed.DistError) or (isinstance(error, RuntimeError) and _LOST.search(str(error))):
            return True
        error = error.__cause__ or error.__context__
    return False


@contextmanager
def _alone(scratch: Path, rank: int) -> Iterator[None]:
    """The first rank holds the scratch folder: ranks whose worker was killed live a moment longer and write there."""
    if rank:
        yield
        return
    with filelock.FileLock(scratch / "ranks.lock", timeout=60):
        yield


def _end_with(others: list[tuple[int, float | None]]) -> None:
    """End this process when one of those is gone. Each is its process id and, where known, when it was started.

    Process groups do not reach here: the launcher gives every rank a session of its own.
    """

    def watch() -> None:
        while all(_is_there(process, started) for process, started in others):
            time.sleep(_LOOK_SECONDS)
        os._exit(1)

    threading.Thread(target=watch, daemon=True, name="watch").start()


def _is_there(process: int, started: float | None) -> bool:
    try:
        other = psutil.Process(process)
        if started is not None and other.create_time() != started:  # the number was given to another one
            return False
        return bool(other.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


if __name__ == "__main__":
    main(Path(sys.argv[1]))
