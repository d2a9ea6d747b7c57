"""Kill a workflow at random moments, again and again; the run after the last kill gives the bytes of an undisturbed one.

    python tests/torture/kills.py --kills 1000
    python tests/torture/kills.py --kills 1000 --workflow fake --seed 1 --record kills_fake.json

The processes of a run are forked from ones that have the imports already (see warm.py), so that a kill meets work.
SIGKILL goes to the program, to its worker, or to both; the next run starts at once, or when all of it is gone. A run
that is done before its kill is compared and removed, and the next one begins from nothing. The time within which a kill
comes follows the machine: longer after a kill, shorter after a run that was done, so that one run in five or so is.
"""

# ruff: noqa: T201 - a program that says how far it is

import argparse
import contextlib
import os
import random
import signal
import tempfile
import time
from collections import Counter
from pathlib import Path

import psutil
from whole import Record, Warm, Workflow

MARK = "OLIVINE_TORTURE"
GONE_SECONDS = 600  # on a machine that others keep busy, a process at the lowest priority may sleep for minutes
WHO = ("program", "worker", "both")


def main() -> None:
    """Parse and go."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--kills", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workflow", choices=("real", "fake"), default="real")
    parser.add_argument("--folder", type=Path, help="else a temporary one, which is removed")
    parser.add_argument("--record", type=Path, help="a JSON file that says what was done, and with which versions")
    arguments = parser.parse_args()
    kind, seed = arguments.workflow, arguments.seed
    record = Record(arguments.record, workflow=kind, seed=seed, n_kills=0, n_runs_done=0)
    with tempfile.TemporaryDirectory() as temporary, record.watch():
        kill_often(arguments.folder or Path(temporary), kind, arguments.kills, seed, record=record)


def kill_often(
    folder: Path, kind: str, n_kills: int, seed: int = 0, model: Path | None = None, record: Record | None = None
) -> None:
    """AssertionError as soon as anything does not hold."""
    record = record or Record(None)
    undisturbed, killed = (Workflow(folder / name, kind, model) for name in ("undisturbed", "killed"))
    with Warm(undisturbed.environment) as warm:
        undisturbed.python = killed.python = warm.python
        _check_run(undisturbed)
        whole = undisturbed.delivered()
        warm.restart()
        undisturbed.forget()
        started = time.monotonic()
        _check_run(undisturbed)
        seconds = time.monotonic() - started
        assert undisturbed.delivered() == whole
        _kill_at_moments(killed, undisturbed, warm, n_kills, seconds, random.Random(seed), record)
        _check_run(killed)
        killed.check_done(undisturbed)
        killed.verify()
        _wait_until_gone(str(killed.out), warm)


def _check_run(workflow: Workflow) -> None:
    code, errors = workflow.run()
    assert code == 0, errors


def _kill_at_moments(
    killed: Workflow,
    undisturbed: Workflow,
    warm: Warm,
    n_kills: int,
    seconds: float,
    moments: random.Random,
    record: Record,
) -> None:
    """seconds: within which the first kill comes."""
    n_killed, n_done, killed_whom, whole = 0, 0, Counter[str](), undisturbed.delivered()
    while n_killed < n_kills:
        who = moments.choice(WHO)
        code, errors = _run_killed(killed, warm, who, moments.random() * seconds, wait=moments.random() < 0.5)
        assert "Traceback" not in errors, errors
        killed.check_whole(whole)
        if code == 0:
            killed.check_done(undisturbed)
            killed.forget()
            n_done += 1
            seconds *= 0.9
            continue
        assert code == -signal.SIGKILL or (code == 1 and "was killed" in errors), (code, errors)
        seconds *= 1.03
        n_killed += 1
        killed_whom[who] += 1
        record.note(n_kills=n_killed, n_runs_done=n_done, killed=dict(killed_whom))
        print(f"{n_killed} of {n_kills} kills ({who}), {n_done} runs were done before theirs", flush=True)


def _run_killed(workflow: Workflow, warm: Warm, who: str, seconds: float, *, wait: bool) -> tuple[int, str]:
    """Exit code and standard error of a run that is killed after some time, unless it is done by then."""
    mark = str(workflow.out)
    process = workflow.start(**{MARK: mark})
    with contextlib.suppress(psutil.NoSuchProcess):
        program = psutil.Process(process.pid)
        gone, _ = psutil.wait_procs([program], timeout=seconds)
        if not gone:
            workers = program.children(recursive=True)
            victims = {"program": [program], "worker": workers, "both": [program, *workers]}[who]
            for victim in victims or [program]:
                with contextlib.suppress(psutil.NoSuchProcess):
                    os.kill(victim.pid, signal.SIGKILL)
    _, errors = process.communicate(timeout=600)
    if wait:
        _wait_until_gone(mark, warm)
    return process.returncode, errors


def _wait_until_gone(mark: str, warm: Warm) -> None:
    """Until no process of a run is left: a worker sees by itself that its program is gone."""
    give_up = time.monotonic() + GONE_SECONDS
    while left := [process for process in psutil.process_iter() if _is_of(process, mark)] + warm.running():
        assert time.monotonic() < give_up, f"still there after {GONE_SECONDS} seconds: {left}"
        time.sleep(0.05)


def _is_of(process: psutil.Process, mark: str) -> bool:
    try:
        return process.environ().get(MARK) == mark and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


if __name__ == "__main__":
    main()
