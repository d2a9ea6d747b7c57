"""Let the n-th write, sync or rename of a run fail, for every n: nothing is lost, the cause is named, the next run is right.

    python tests/torture/failing_writes.py                     every n, in the program and in the worker, both ways
    python tests/torture/failing_writes.py --workflow real     the same of a real workflow: hours
    python tests/torture/failing_writes.py --every 20 --record failing_writes_fake.json

Each time a model of an earlier run lies in the output folder. Of the run that fails: it ends with 1 and one sentence, or
with 0 when what failed was no part of the result; the model there is the old one or the new one, whole. The next run
gives the bytes of an undisturbed one and leaves what that leaves. See failing.c for what an operation is.
"""

# ruff: noqa: T201 - a program that says how far it is

import argparse
import errno
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from whole import Record, Workflow

WAYS = ((errno.ENOSPC, 1), (errno.EIO, 0))  # a disk that is full from then on; one fault of a disk that goes on
PROCESSES = ("program", "worker")
COMPILER = shutil.which("cc") or ""
# of one fault torch's own writer says no more than that
ERRORS = {errno.ENOSPC: ("the disk is full",), errno.EIO: ("input/output error", "torch could not write")}


def main() -> None:
    """Parse and go."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--workflow", choices=("real", "fake"), default="fake")
    parser.add_argument("--every", type=int, default=1, help="only every so manieth operation")
    parser.add_argument("--process", choices=PROCESSES, help="only those of one process")
    parser.add_argument("--first", type=int, default=1, help="the first of them")
    parser.add_argument("--folder", type=Path, help="else a temporary one, which is removed")
    parser.add_argument("--record", type=Path, help="a JSON file that says what was done, and with which versions")
    arguments = parser.parse_args()
    kind, every, first = arguments.workflow, arguments.every, arguments.first
    record = Record(arguments.record, workflow=kind, every=every, first=first, n_failed_operations=0)
    only = (arguments.process,) if arguments.process else PROCESSES
    with tempfile.TemporaryDirectory() as temporary, record.watch():
        folder = arguments.folder or Path(temporary)
        fail_everywhere(folder, kind, every=every, first=first, processes=only, record=record)


def fail_everywhere(
    folder: Path,
    kind: str,
    *,
    every: int,
    first: int = 1,
    processes: Iterable[str] = PROCESSES,
    model: Path | None = None,
    record: Record | None = None,
) -> None:
    """AssertionError as soon as anything does not hold. With every operation in both ways, else in turn."""
    record = record or Record(None)
    undisturbed, failing = (
        Workflow(folder / name, kind, model, n_files=2, pause_seconds=0) for name in ("undisturbed", "failing")
    )
    _deliver_something_else(failing)
    failing.keep()
    old = _deliver_something_else(undisturbed)
    failures, n_failed = Failures(folder / "failures"), 0
    counts = _counted(undisturbed, failures)
    for index, (process, n) in enumerate(
        _operations({process: counts[process] for process in processes}, first, every)
    ):
        for code, sticky in WAYS if every == 1 else [WAYS[index % 2]]:
            failing.restore()
            settings = {"TORTURE_PROCESS": process, "TORTURE_N": n, "TORTURE_ERRNO": code, "TORTURE_STICKY": sticky}
            _fail_once(failing, undisturbed, old, failures, **settings)
            n_failed += 1
        record.note(n_operations=counts, n_failed_operations=n_failed, last=[process, n])
        print(f"{process}: {n} of {counts[process]}", flush=True)


def _operations(counts: dict[str, int], first: int, every: int) -> Iterator[tuple[str, int]]:
    for process, n_operations in counts.items():
        yield from ((process, n) for n in range(first, n_operations + 1, every))


def _deliver_something_else(workflow: Workflow) -> dict[str, bytes]:
    """A model of another config in the output folder; gives its bytes."""
    config = json.loads(workflow.config.read_text())
    other = config | {"passes": {"old": {"type": "write", "text": "old", "n_files": 3}}, "quality": {"enabled": False}}
    workflow.config.write_text(json.dumps(other))
    code, errors = workflow.run()
    assert code == 0, errors
    workflow.config.write_text(json.dumps(config))
    return workflow.delivered()


def _counted(workflow: Workflow, failures: "Failures") -> dict[str, int]:
    """How many operations each process of an undisturbed run does."""
    code, errors = workflow.run(**failures.environment(workflow))
    assert code == 0, errors
    return {process: failures.n_operations(process) for process in PROCESSES}


class Failures:
    """`failing.c`, compiled into `folder`."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._library, self._counts = folder / "failing.so", folder / "counts"
        source = Path(__file__).with_name("failing.c")
        subprocess.run([COMPILER, "-shared", "-fPIC", "-o", self._library, source, "-ldl"], check=True)

    def environment(self, workflow: Workflow, **settings: object) -> dict[str, str]:
        """What lets an operation of the next run fail, or counts them all."""
        for file in self._counts.parent.glob("counts.*"):
            file.unlink()
        places = {"LD_PRELOAD": self._library, "TORTURE_ROOT": workflow.out.parent, "TORTURE_COUNTS": self._counts}
        return {name: str(value) for name, value in (places | settings).items()}

    def n_operations(self, process: str) -> int:
        """How many there were in the last run."""
        return int.from_bytes(self._counts.with_suffix(f".{process}").read_bytes(), sys.byteorder)

    def failed(self) -> str:
        """The first operation that failed in the last run."""
        return (self._counts.with_suffix(".failed").read_text().splitlines() or ["nothing"])[0]


def _fail_once(
    workflow: Workflow, undisturbed: Workflow, old: dict[str, bytes], failures: Failures, **settings: object
) -> None:
    ended, errors = workflow.run(**failures.environment(workflow, **settings))
    code = settings["TORTURE_ERRNO"]
    case = f"{settings}: {failures.failed()}: exit {ended}\n{errors}"
    assert "Traceback" not in errors, case
    assert ended in (0, 1, 2), case
    if ended:
        said = [line for line in errors.splitlines() if line.startswith("olivine: ")]
        assert said, case
        words = (*ERRORS[code], os.strerror(code).lower())
        assert any(word in line.lower() for word in words for line in said), case
    workflow.check_whole(old, undisturbed.delivered())
    ended, errors = workflow.run()
    assert ended == 0, case + errors
    try:
        workflow.check_done(undisturbed)
    except AssertionError as error:
        raise AssertionError(case) from error


if __name__ == "__main__":
    main()
