"""Let the n-th write, sync or rename of a run fail, for every n: nothing is lost, the cause is named, the next run is right.

    python tests/torture/failing_writes.py                     every n, in the program and in the worker, both ways
    python tests/torture/failing_writes.py --workflow real     the same of a real workflow: hours
    python tests/torture/failing_writes.py --every 20 --record failing_writes_fake.json

Each time a model of an earlier run lies in the output folder. Of the run that fails: it ends with 1 and one sentence, or
with 0 when what failed was no part of the result; the model there is the old one or the new one, whole. The next run
gives the bytes of an undisturbed one and leaves what that leaves.
"""

# ruff: noqa: T201 - a program that says how far it is

import argparse
import errno
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from whole import Record, Workflow

WAYS = ((errno.ENOSPC, "1"), (errno.EIO, "0"))  # a disk that is full from then on; one fault of a disk that goes on
HOOK = Path(__file__).parent / "hook"
ERRORS = {errno.ENOSPC: "the disk is full", errno.EIO: "input/output error"}


def main() -> None:
    """Parse and go."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--workflow", choices=("real", "fake"), default="fake")
    parser.add_argument("--every", type=int, default=1, help="only every so manieth operation")
    parser.add_argument("--first", type=int, default=1, help="the first of them")
    parser.add_argument("--folder", type=Path, help="else a temporary one, which is removed")
    parser.add_argument("--record", type=Path, help="a JSON file that says what was done, and with which versions")
    arguments = parser.parse_args()
    kind, every, first = arguments.workflow, arguments.every, arguments.first
    record = Record(arguments.record, workflow=kind, every=every, first=first, n_failed_operations=0)
    with tempfile.TemporaryDirectory() as temporary, record.watch():
        fail_everywhere(arguments.folder or Path(temporary), kind, every=every, first=first, record=record)


def fail_everywhere(
    folder: Path, kind: str, *, every: int, first: int = 1, model: Path | None = None, record: Record | None = None
) -> None:
    """AssertionError as soon as anything does not hold. With every operation in both ways, else in turn."""
    record = record or Record(None)
    undisturbed, failing = (
        Workflow(folder / name, kind, model, pause_seconds=0) for name in ("undisturbed", "failing")
    )
    _deliver_something_else(failing)
    failing.keep()
    old = _deliver_something_else(undisturbed)
    counts = _counted(undisturbed, folder / "count")
    n_failed = 0
    for index, (process, n) in enumerate(_operations(counts, first, every)):
        for code, sticky in WAYS if every == 1 else [WAYS[index % 2]]:
            failing.restore()
            _fail_once(failing, undisturbed, old, process, n, code, sticky)
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


def _counted(workflow: Workflow, file: Path) -> dict[str, int]:
    """How many operations each process of an undisturbed run does."""
    code, errors = workflow.run(**_hook(workflow, TORTURE_COUNT=str(file)))
    assert code == 0, errors
    counts: dict[str, int] = {}
    for line in file.read_text().splitlines():
        process, number = line.split()
        counts[process] = max(counts.get(process, 0), int(number))
    assert counts.keys() == {"program", "worker"}
    return counts


def _hook(workflow: Workflow, **settings: str) -> dict[str, str]:
    places = os.pathsep.join([str(HOOK), workflow.environment["PYTHONPATH"]])
    return {"PYTHONPATH": places, "TORTURE_ROOT": str(workflow.out.parent), **settings}


def _fail_once(
    workflow: Workflow, undisturbed: Workflow, old: dict[str, bytes], process: str, n: int, code: int, sticky: str
) -> None:
    settings = {"TORTURE_PROCESS": process, "TORTURE_N": str(n), "TORTURE_ERRNO": str(code), "TORTURE_STICKY": sticky}
    ended, errors = workflow.run(**_hook(workflow, **settings))
    case = f"operation {n} of the {process}, {errno.errorcode[code]}, sticky {sticky}: exit {ended}\n{errors}"
    assert "Traceback" not in errors, case
    assert ended in (0, 1, 2), case
    if ended:
        said = [line for line in errors.splitlines() if line.startswith("olivine: ")]
        assert said, case
        words = (ERRORS[code], os.strerror(code).lower())
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
