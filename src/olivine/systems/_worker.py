"""The worker: `python -m olivine.systems._worker` is given jobs and says events, one JSON object a line.

    (nothing)                      jobs by standard input, events by standard output; ends when the input does
    --connect HOST:PORT            jobs and events over a connection to who started it, see `_line`; when that breaks it
                                   calls again, for `--patience SECONDS`
    --job FILE [--events FILE]     the one job of a file; events to standard output, or to the end of another file
    --batch NAME                   the jobs at `jobs/NAME` of the address `--files`, as they come; events go there in
                                   pieces; ends when none came for `--patience SECONDS`
    ... --node I --nodes N         one of several that were started for it: node 0 does the jobs, the others help; it is
                                   heard at `--address HOST --port PORT`, else wherever it finds itself

The exit code is 0, or that of the error of a single job. `--store FOLDER` is where jobs without places find what they
read by content, and leave what they make; `--files URL` is where files come from that are not in that folder, and go:
without it the folder is one that both sides see.

What libraries print goes to the job's log, never between the events: those leave by a private copy of standard output,
while descriptors 1 and 2 point at the log. Standard input is private in the same way, so that no library waits for an
answer on it. A worker whose log nobody can read sends what is printed as events.
"""

import faulthandler
import json
import os
import queue
import sys
import threading
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from olivine import lazy
from olivine.errors import OlivineError
from olivine.messages import Events, sentence
from olivine.notes import Notes
from olivine.store.remote import Mirror, RemoteFiles
from olivine.store.transfer import Files
from olivine.systems._environment import prepare
from olivine.systems._job import begin, run, serve
from olivine.systems._line import Caller, address_of, token_of_environment
from olivine.systems._log import EventLog, Printed, print_to
from olivine.systems._nodes import Ending, Nodes, helping, spreads
from olivine.systems._pieces import jobs, next_number, publish, write_end
from olivine.systems._protocol import Job
from olivine.work import Team

if TYPE_CHECKING:
    import psutil
else:
    psutil = lazy.module("psutil")

_PATIENCE_SECONDS = 600.0


def main(arguments: list[str] | None = None) -> int:
    """Do the jobs that come, in the way that the arguments say."""
    arguments = sys.argv[1:] if arguments is None else arguments
    prepare(os.environ)
    given = dict(zip(arguments[::2], arguments[1::2], strict=True))
    faulthandler.enable()  # a crash in native code leaves the Python stack in the log
    store = _store(given)
    if "--connect" in given:
        return _connected(given, _needed(store))
    if "--batch" in given:
        return _batch(given, _needed(store))
    events = Events(_events_stream(given))
    Notes(events).listen()
    os.dup2(2, 1)
    if "--job" in given:
        record = _job(Path(given["--job"]))
        events.send("started", pid=os.getpid())
        return serve(record, events, store)
    records = _jobs(_private_input())
    events.send("started", pid=os.getpid())
    for record in records:
        if "ahead" in record:
            begin(record["ahead"])
        else:
            serve(record, events, store)
    return 0


def _job(file: Path) -> dict[str, Any]:
    """The job of a file; ends the process with a sentence where it holds none."""
    try:
        record: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        Job.from_json(record)
    except OSError as error:
        raise SystemExit(f"{file} cannot be read: {error.strerror}") from None
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise SystemExit(f"{file} holds no job: {sentence(error)}") from None
    return record


def _store(given: Mapping[str, str]) -> Files | None:
    """Where files by content lie on this side; None where jobs name places of this machine."""
    if "--store" not in given:
        return None
    folder = Path(given["--store"]).absolute()
    return Mirror(folder, RemoteFiles(given["--files"])) if "--files" in given else Files(folder)


def _needed(store: Files | None) -> Files:
    if store is None:
        raise SystemExit("a worker elsewhere needs --store FOLDER")
    return store


def _events_stream(given: Mapping[str, str]) -> TextIO:
    if "--events" in given:
        return Path(given["--events"]).open("a", encoding="utf-8")
    return os.fdopen(os.dup(1), "w", encoding="utf-8")


def _connected(given: Mapping[str, str], store: Files) -> int:
    """Serve the jobs that come over the line until it is ended."""
    caller_log, events, printed = _kept(store, f"connected-{os.getpid()}")
    patience_seconds = float(given.get("--patience", _PATIENCE_SECONDS))
    caller = Caller(address_of(given["--connect"]), token_of_environment(), caller_log, patience_seconds)

    def work() -> None:
        while True:
            serve(caller.jobs.get(), events, store, printed.send)

    threading.Thread(target=_keep_line, args=(caller,), daemon=True, name="line").start()
    events.send("started", pid=os.getpid())
    work()
    return 0


def _keep_line(caller: Caller) -> None:
    """When the line has ended for good, in the middle of a job too, nobody waits for a result."""
    try:
        caller.keep()
    except OSError as error:
        _leave(f"the parent cannot be reached: {sentence(error)}")
    except OlivineError as error:
        _leave(str(error))
    _leave()


def _batch(given: Mapping[str, str], store: Files) -> int:
    """Do the jobs that are left for the worker of that name, and say its events where they came from."""
    far = store.far if isinstance(store, Mirror) else RemoteFiles(str(store.folder))
    name, patience_seconds = given["--batch"], float(given.get("--patience", _PATIENCE_SECONDS))
    far.read(
        f"jobs/{name}/end"
    )  # where files cannot be reached, that is said to who started this: nobody else hears it
    nodes = _nodes(given, far)
    if nodes is not None and nodes.node > 0:
        nodes.help(partial(_help, store), next_number(far, name), store.folder / "nodes")
        return 0
    log, events, printed = _kept(store, name)
    publisher = threading.Thread(target=publish, args=(log, far, name), name="pieces")
    publisher.start()
    try:
        events.send("started", pid=os.getpid())
        for number, record in jobs(far, name, patience_seconds):
            do = nodes.led(number, run) if nodes is not None and spreads(Job.from_json(record)) else run
            serve(record, events, store, printed.send, do)
        write_end(far, name)  # those that help wait for it
    finally:
        log.close()
        publisher.join()
    return 0


def _nodes(given: Mapping[str, str], far: RemoteFiles) -> Nodes | None:
    """The nodes that this one was started with."""
    if int(given.get("--nodes", 1)) == 1:
        return None
    address, port = given.get("--address", ""), int(given.get("--port", 0))
    return Nodes(far, given["--batch"], int(given["--node"]), int(given["--nodes"]), address, port)


def _help(store: Files, job: Job, team: Team) -> dict[str, Any]:
    """Do what a node does that has no part in the result; gives how it ended. What it prints stays where it is."""
    ending = Ending()
    serve(helping(job, team).to_json(), Events(ending), store)
    return ending.outcome


def _kept(store: Files, name: str) -> tuple[EventLog, Events, Printed]:
    """Events that are kept until they are read, what is printed among them."""
    log = EventLog(store.folder / "events" / f"{name}.jsonl")
    events = Events(log)
    Notes(events).listen()
    printed = store.folder / "logs" / f"{name}.log"
    printed.parent.mkdir(parents=True, exist_ok=True)
    printed.write_bytes(b"")
    print_to(printed)
    return log, events, Printed(printed, events)


def _private_input() -> TextIO:
    """Standard input, for us alone; others find it empty."""
    stream = os.fdopen(os.dup(0), "r", encoding="utf-8")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    return stream


def _jobs(stream: TextIO) -> Iterator[dict[str, Any]]:
    """Jobs as they come, read by a thread of its own that sees the end of the input while a job is at work."""
    lines: queue.SimpleQueue[str] = queue.SimpleQueue()

    def read() -> None:
        for line in stream:
            lines.put(line)
        _leave()

    threading.Thread(target=read, daemon=True, name="jobs").start()

    def jobs() -> Iterator[dict[str, Any]]:
        while True:
            yield json.loads(lines.get())

    return jobs()


def _leave(why: str = "") -> None:
    """End this process and all that it started; the teardown of native libraries is nothing to wait for."""
    if why:
        print(why, file=sys.stderr, flush=True)  # noqa: T201 - standard error is the log here
    for child in psutil.Process().children(recursive=True):
        try:
            child.kill()
        except psutil.NoSuchProcess:
            continue
    os._exit(3 if why else 0)


if __name__ == "__main__":
    sys.exit(main())
