"""Runs that nobody watches: each has a folder with what it was asked, what it said, and how it ended.

    FOLDER/ID/run.json      the command, where it was given, when, and the process that does it
    FOLDER/ID/screen        what it says
    FOLDER/ID/answer        its result as JSON, when there is one
    FOLDER/ID/ended.json    the exit code; without it the process is at work, or was lost with its machine

FOLDER is $OLIVINE_STATE, else olivine/runs below $XDG_STATE_HOME or ~/.local/state.
"""

import json
import os
import secrets
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from olivine import lazy
from olivine.errors import Interrupted, RequestError
from olivine.paths import of_user
from olivine.store.files import write_synced

if TYPE_CHECKING:
    import psutil
else:
    psutil = lazy.module("psutil")

_MOST = 2**31  # of a process id, and of seconds since the epoch
ENDINGS: Mapping[int, str] = {0: "done", 1: "failed", 2: "refused"}


def state_folder(environment: Mapping[str, str] = os.environ) -> Path:
    """Where detached runs are kept."""
    default = f"{environment.get('XDG_STATE_HOME', '~/.local/state')}/olivine/runs"
    return of_user(environment.get("OLIVINE_STATE", default)).absolute()


@dataclass(frozen=True)
class Detached:
    """A run that was left to itself.

    command: arguments of `olivine`. folder: where it was given. host: the system that it names. output_dir: where its
    result goes. pid, born: of its process, and when that began, in seconds since the epoch: numbers are used again.
    """

    identity: str
    command: tuple[str, ...]
    folder: str
    host: str | None
    output_dir: str
    started: float
    pid: int = 0
    born: float = 0.0

    @property
    def place(self) -> Path:
        """Its folder."""
        return state_folder() / self.identity

    @property
    def screen(self) -> Path:
        """The file of what it says."""
        return self.place / "screen"

    @property
    def answer(self) -> Path:
        """The file of its result as JSON."""
        return self.place / "answer"

    @property
    def exit_code(self) -> int | None:
        """That of its end; None while it has not ended in order."""
        code = (_read(self.place / "ended.json") or {}).get("exit_code")
        return code if isinstance(code, int) else None

    @property
    def is_at_work(self) -> bool:
        """Whether its process is there."""
        if self.exit_code is not None:
            return False
        with suppress(psutil.NoSuchProcess):
            process = psutil.Process(self.pid)
            is_zombie = process.status() == psutil.STATUS_ZOMBIE
            return not is_zombie and abs(process.create_time() - self.born) < 1.0
        return False

    @property
    def state(self) -> str:
        """In a word: running, done, failed, refused, interrupted, or lost with its process."""
        if (code := self.exit_code) is not None:
            return ENDINGS.get(code, "interrupted")
        return "running" if self.is_at_work else "lost"

    def to_json(self) -> dict[str, Any]:
        """What `olivine jobs ls --json` prints."""
        return {**asdict(self), "state": self.state, "exit_code": self.exit_code}


def detach(command: Sequence[str], host: str | None, output_dir: Path, program: Sequence[str]) -> Detached:
    """Start the command in a process that outlives this one and its terminal.

    program: what this Python is given to do it, before the file for its exit code.
    """
    identity = f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}"
    run = Detached(identity, tuple(command), str(Path.cwd()), host, str(output_dir), round(time.time(), 3))
    run.place.mkdir(parents=True)
    return start(run, program)


def start(run: Detached, program: Sequence[str]) -> Detached:
    """Begin a run, or one that was lost anew; what was finished is not done again."""
    (run.place / "ended.json").unlink(missing_ok=True)
    with run.screen.open("ab") as screen, run.answer.open("wb") as answer:
        process = subprocess.Popen(
            [sys.executable, *program, str(run.place / "ended.json"), *run.command],
            stdin=subprocess.DEVNULL,
            stdout=answer,
            stderr=screen,
            cwd=run.folder,
            env={name: value for name, value in os.environ.items() if name != "COLUMNS"},  # it has no terminal
            start_new_session=os.name == "posix",
            creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0)
            | getattr(subprocess, "DETACHED_PROCESS", 0),
        )
    born = psutil.Process(process.pid).create_time()
    threading.Thread(target=process.wait, daemon=True, name="detached").start()  # no zombie, should we live longer
    begun = Detached(**{**asdict(run), "command": run.command, "pid": process.pid, "born": born})
    write_synced(run.place / "run.json", json.dumps(asdict(begun), indent=1))
    return begun


def write_end(path: Path, exit_code: int) -> None:
    """Say how a run has ended, in the file for it."""
    partial = path.with_name(f"{path.name}.partial")
    write_synced(partial, json.dumps({"exit_code": exit_code, "time": time.time()}))
    partial.replace(path)


def end_lost(run: Detached) -> None:
    """Let a run whose process is gone count as interrupted: nothing of it is at work any more."""
    write_end(run.place / "ended.json", Interrupted.exit_code)


def all_runs() -> list[Detached]:
    """Every detached run, the oldest first."""
    records = ((_read(path), path.parent) for path in sorted(state_folder().glob("*/run.json")))
    return [run for record, place in records if record is not None and (run := _run_of(record, place)) is not None]


def find(name: str | None) -> Detached:
    """The run of that id, or of its beginning; the last one without a name. RequestError when there is none."""
    runs = all_runs()
    if not runs:
        raise RequestError(f"there is no detached run in '{state_folder()}'; 'olivine run --detach' starts one")
    if name is None:
        return runs[-1]
    known = [run for run in runs if run.identity.startswith(name)]
    exact = [run for run in known if run.identity == name]
    if len(exact or known) == 1:
        return (exact or known)[0]
    if known:
        raise RequestError(f"'{name}' is the beginning of {', '.join(run.identity for run in known)}; write more of it")
    raise RequestError(f"there is no detached run '{name}'; there are: {', '.join(run.identity for run in runs)}")


def _run_of(record: Mapping[str, Any], place: Path) -> Detached | None:
    """The run of a record; None for one of another version, or a damaged one, which is no run of that folder."""
    try:
        run = Detached(**{**record, "command": tuple(record["command"])})
    except (TypeError, KeyError):
        return None
    texts = (run.identity, run.folder, run.output_dir, run.host or "", *run.command)
    numbers = (run.started, run.pid, run.born)
    is_whole = all(isinstance(one, str) for one in texts) and all(
        isinstance(one, (int, float)) and 0 <= one < _MOST for one in numbers
    )
    return run if is_whole and run.identity == place.name else None


def _read(path: Path) -> dict[str, Any] | None:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) else None
