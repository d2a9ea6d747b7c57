"""Let the n-th write, sync or rename of a run fail, for every n: nothing is lost, the cause is named, the next run is right.

    python tests/torture/failing_writes.py                     every n of the real workflow, in one of two ways in turn
    python tests/torture/failing_writes.py --other             each in the other way
    python tests/torture/failing_writes.py --workflow fake     the same of two passes that only write
    python tests/torture/failing_writes.py --every 20 --record failing_writes_real.json

Each time a model of an earlier run lies in the output folder. Of the run that fails: it ends with 1 and one sentence, or
with 0 when what failed was no part of the result; the model there is the old one or the new one, whole. The next run
gives the bytes of an undisturbed one and leaves what that leaves. See failing.c for what an operation is.

So that every n can be tried: the processes are forked from ones that have the imports already (warm.py). An operation of
a step fails in a run that finds the results of all other steps in its cache, later ones too, which it finds only when
the step gives the same bytes again; what the runs from there do not do fails in a run from nothing. Two runs that left
the same behind go on in the same way, once.
"""

# ruff: noqa: T201 - a program that says how far it is

import argparse
import errno
import hashlib
import json
import os
import re
import shutil
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from difflib import SequenceMatcher
from pathlib import Path

from whole import Record, Warm, Workflow

WAYS = ((errno.ENOSPC, 1), (errno.EIO, 0))  # a disk that is full from then on; one fault of a disk that goes on
COMPILER = shutil.which("cc") or ""
# of one fault torch's own writer says no more than that
ERRORS = {errno.ENOSPC: ("the disk is full",), errno.EIO: ("input/output error", "torch could not write")}
NOTHING, ALL = (
    "nothing",
    "all",
)  # what lies in the cache when the run begins; else the key of the one step that does not
PARTS_OF_NAMES = re.compile(r"-\d+-[0-9a-f]{8,}|-[0-9a-f]{32}(?=\.partial)|\.tmp\w{6}")  # that differ from run to run
GROWING = ("journal.jsonl", "hashes.jsonl", "durations.jsonl", ".log", "report.html")  # hold times, decide nothing


def main() -> None:
    """Parse and go."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--workflow", choices=("real", "fake"), default="real")
    parser.add_argument("--every", type=int, default=1, help="only every so manieth operation")
    parser.add_argument("--first", type=int, default=1, help="the first of them")
    parser.add_argument("--other", action="store_true", help="each in the other way: full for good, or one fault")
    parser.add_argument("--folder", type=Path, help="else a temporary one, which is removed")
    parser.add_argument("--record", type=Path, help="a JSON file that says what was done, and with which versions")
    arguments = parser.parse_args()
    kind, every, first, other = arguments.workflow, arguments.every, arguments.first, arguments.other
    record = Record(arguments.record, workflow=kind, every=every, first=first, other=other, n_failed_operations=0)
    with tempfile.TemporaryDirectory() as temporary, record.watch():
        folder = arguments.folder or Path(temporary)
        fail_everywhere(folder, kind, every=every, first=first, other=other, record=record)


def fail_everywhere(
    folder: Path,
    kind: str,
    *,
    every: int,
    first: int = 1,
    other: bool = False,
    model: Path | None = None,
    record: Record | None = None,
) -> None:
    """AssertionError with all that did not hold. other: what fails in one way else fails in the other."""
    undisturbed, failing = (
        Workflow(folder / name, kind, model, n_files=2, pause_seconds=0) for name in ("undisturbed", "failing")
    )
    library = compiled(folder / "failing.so")
    with Warm(failing.environment, library) as warm:
        undisturbed.python = failing.python = warm.python
        loop = _Loop(undisturbed, failing, Failures(folder / "failures", library), record or Record(None))
        loop.begin(warm)
        loop.fail_all(first, every, other=other)


@dataclass(frozen=True)
class Operation:
    """The n-th of a process, in a run that begins with what `start` names."""

    start: str
    process: str
    n: int
    what: str


class _Loop:
    """Runs that fail at each operation in turn."""

    def __init__(self, undisturbed: Workflow, failing: Workflow, failures: "Failures", record: Record) -> None:
        self._undisturbed, self._failing, self._failures, self._record = undisturbed, failing, failures, record
        self._old: dict[str, bytes] = {}
        self._gone_on: set[str] = set()  # what failed runs have left, from which a next one was right

    def begin(self, warm: Warm) -> None:
        """Run undisturbed, and keep what runs begin with."""
        self._old = _deliver_something_else(self._undisturbed)
        _check_run(self._undisturbed)
        warm.restart()
        assert _deliver_something_else(self._failing) == self._old
        self._failing.keep(NOTHING)
        _check_run(self._failing)
        self._failing.check_done(self._undisturbed)
        self._keep_starts()

    def fail_all(self, first: int, every: int, *, other: bool) -> None:
        """See fail_everywhere."""
        operations, wrong = list(self._operations()), list[str]()
        counts = Counter(operation.process for operation in operations)
        for n_failed, index in enumerate(range(first - 1, len(operations), every)):
            try:
                self._fail(operations[index], *WAYS[(index // every + other) % 2])
            except AssertionError as error:
                wrong.append(str(error))
            facts = {"n_operations": counts, "n_failed_operations": n_failed + 1, "n_gone_on": len(self._gone_on)}
            self._record.note(**facts, last=index + 1, wrong=[one.splitlines()[0] for one in wrong])
            told = f"gone on from {len(self._gone_on)} states, {len(wrong)} wrong"
            print(f"{index + 1} of {len(operations)}; {told}", flush=True)
        assert not wrong, "\n\n".join(wrong)

    def _keep_starts(self) -> None:
        """All results in the cache and the old model delivered; the same without each single one."""
        kept = self._failing.kept
        shutil.copytree(self._failing.cache, kept / ALL / "cache")
        shutil.copytree(kept / NOTHING / "out", kept / ALL / "out")
        old = {path.name for path in (kept / NOTHING / "cache" / "steps").iterdir()}
        self._keys = sorted({path.name for path in (kept / ALL / "cache" / "steps").iterdir()} - old)
        for key in self._keys:
            shutil.copytree(kept / ALL, kept / key, ignore=shutil.ignore_patterns(key))

    def _operations(self) -> Iterator[Operation]:
        """All that a run from nothing does, each in a run that does little beside it."""
        done = self._counted(ALL)
        yield from done
        covered = Counter(operation.what for operation in done)
        for key in self._keys:
            counted = self._counted(key)
            if not (self._failing.cache / "steps" / key).is_dir():
                continue  # nobody asks for it while all others are there
            for operation in _more(counted, done):
                covered[operation.what] += 1
                yield operation
        for operation in self._counted(NOTHING):
            if covered[operation.what]:
                covered[operation.what] -= 1
            else:
                yield operation

    def _counted(self, start: str) -> list[Operation]:
        self._failing.restore(start)
        _check_run(self._failing, **self._failures.environment(self._failing))
        lines = [line.split(" ", 2) for line in self._failures.operations()]
        steps = {process: [] for process in ("program", "worker")}
        for process, n, what in lines:
            steps[process].append(Operation(start, process, int(n), f"{process} {PARTS_OF_NAMES.sub('-*', what)}"))
        return [operation for process in steps for operation in sorted(steps[process], key=lambda one: one.n)]

    def _fail(self, operation: Operation, code: int, sticky: int) -> None:
        failing, failures = self._failing, self._failures
        failing.restore(operation.start)
        settings = {"TORTURE_PROCESS": operation.process, "TORTURE_N": operation.n}
        ended, errors = failing.run(
            **failures.environment(failing, **settings, TORTURE_ERRNO=code, TORTURE_STICKY=sticky)
        )
        case = f"{operation} {(code, sticky)}: {failures.operations()[:1]}: exit {ended}\n{errors}"
        try:
            _check_said(ended, errors, code)
            failing.check_whole(self._old, self._undisturbed.delivered())
            if (left := _left(failing)) not in self._gone_on:
                _check_run(failing)
                failing.check_done(self._undisturbed)
                self._gone_on.add(left)
        except AssertionError as error:
            raise AssertionError(f"{case}\n{error}") from error


def _check_run(workflow: Workflow, **environment: str) -> None:
    code, errors = workflow.run(**environment)
    assert code == 0, errors


def _check_said(ended: int, errors: str, code: int) -> None:
    """One sentence with the cause, or a run that is done."""
    assert "Traceback" not in errors
    assert ended in (0, 1, 2)
    if ended:
        said = [line.lower() for line in errors.splitlines() if line.startswith("olivine: ")]
        assert any(word in line for line in said for word in (*ERRORS[code], os.strerror(code).lower()))


def _more(operations: list[Operation], done: list[Operation]) -> Iterator[Operation]:
    """What the one run does and the other does not."""
    before, after = ([operation.what for operation in each] for each in (done, operations))
    for what, _, _, begin, end in SequenceMatcher(None, before, after, autojunk=False).get_opcodes():
        if what in ("insert", "replace"):
            yield from operations[begin:end]


def _left(workflow: Workflow) -> str:
    """All that decides how the next run goes on: names and bytes, without what differs between two equal runs."""
    digest = hashlib.sha256()
    for folder in (workflow.cache, workflow.out):
        for path in sorted(folder.rglob("*"), key=lambda path: PARTS_OF_NAMES.sub("-*", str(path))):
            digest.update(PARTS_OF_NAMES.sub("-*", str(path)).encode())
            if path.is_file() and not path.name.endswith(GROWING):
                digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def _deliver_something_else(workflow: Workflow) -> dict[str, bytes]:
    """A model of another config in the output folder; gives its bytes."""
    config = json.loads(workflow.config.read_text())
    other = config | {"passes": {"old": {"type": "write", "text": "old", "n_files": 3}}, "quality": {"enabled": False}}
    workflow.config.write_text(json.dumps(other))
    _check_run(workflow)
    workflow.config.write_text(json.dumps(config))
    return workflow.delivered()


def compiled(library: Path) -> Path:
    """`failing.c` as a library."""
    library.parent.mkdir(parents=True, exist_ok=True)
    source = Path(__file__).with_name("failing.c")
    subprocess.run([COMPILER, "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True)
    return library


class Failures:
    """What lets operations of a run fail, and tells of them; `folder` is its own."""

    def __init__(self, folder: Path, library: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._counts, self._library = folder / "counts", library

    def environment(self, workflow: Workflow, **settings: object) -> dict[str, str]:
        """What lets an operation of the next run fail, or counts them all."""
        for file in self._counts.parent.glob("counts.*"):
            file.unlink()
        places = {"LD_PRELOAD": self._library, "TORTURE_ROOT": workflow.out.parent, "TORTURE_COUNTS": self._counts}
        return {name: str(value) for name, value in (places | settings).items()}

    def operations(self) -> list[str]:
        """Those that failed in the last run; all of one in which none was to."""
        return self._counts.with_suffix(".operations").read_text().splitlines()


if __name__ == "__main__":
    main()
