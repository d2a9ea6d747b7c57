"""Scratch folders of a worker whose disk may go away with it: what settles in one is sent to where files go.

    URL/scratch/NAME.json    hashes of the files in it, by their names; the files lie there by content

A worker that is started again, elsewhere, begins with what the one before had sent: a training goes on from its last
checkpoint that is whole.
"""

import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath

from olivine.errors import OlivineError
from olivine.store.hashes import hash_file
from olivine.store.remote import Mirror, RemoteFiles
from olivine.store.transfer import Files

_LOOK_SECONDS = 2.0
_Stamps = Mapping[Path, tuple[int, int]]


@contextmanager
def resumable(scratch: Path, store: Files, pause_seconds: float = _LOOK_SECONDS) -> Iterator[None]:
    """Begin with what a worker before has sent, and send what settles meanwhile; of a job that was done, keep nothing.

    A store that comes from nowhere else is one that stays.
    """
    if not isinstance(store, Mirror):
        yield
        return
    _bring(scratch, store.far)
    sender = _Sender(scratch, store.far, pause_seconds)
    try:
        yield
    finally:
        is_used = sender.end()
    if is_used:
        with suppress(OlivineError):  # what stays there does no harm
            store.far.write(_index(scratch), b"{}")


class _Sender:
    """Sends the files of a folder that are as they were at the last look."""

    def __init__(self, scratch: Path, far: RemoteFiles, pause_seconds: float) -> None:
        self._scratch, self._far, self._pause_seconds = scratch, far, pause_seconds
        self._hashes: dict[tuple[Path, tuple[int, int]], str] = {}
        self._sent: dict[str, str] = {}
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True, name="scratch")
        self._thread.start()

    def end(self) -> bool:
        """Send nothing more; gives whether something was."""
        self._is_over.set()
        self._thread.join()
        return bool(self._sent)

    def _follow(self) -> None:
        before: _Stamps = {}
        while not self._is_over.wait(self._pause_seconds):
            with suppress(OSError, OlivineError):  # removed meanwhile, or not to be reached: at the next look
                now = _stamps(self._scratch)
                self._send({path: stamp for path, stamp in now.items() if before.get(path) == stamp})
                before = now

    def _send(self, settled: _Stamps) -> None:
        for key in settled.items():
            if key not in self._hashes:
                self._hashes[key] = hash_file(key[0])
        files = {
            path.relative_to(self._scratch).as_posix(): self._hashes[path, stamp] for path, stamp in settled.items()
        }
        if files == self._sent:
            return
        lacking = self._far.missing(files.values())
        for name, hashed in files.items():
            if hashed in lacking:
                self._far.put(self._scratch / name, hashed)
                lacking.discard(hashed)
        self._far.write(_index(self._scratch), json.dumps(files).encode())
        self._sent = files


def _bring(scratch: Path, far: RemoteFiles) -> None:
    """Fetch what a worker before has sent, where the folder is empty."""
    content = far.read(_index(scratch))
    if content is None or any(scratch.iterdir()):
        return
    for name, hashed in json.loads(content).items():
        if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
            raise OlivineError(f"'{name}' is no name of a file in a scratch folder")
        far.get(hashed, scratch / name)
        (scratch / name).chmod(0o644)  # it is written to as if it had been made here


def _stamps(folder: Path) -> _Stamps:
    """Size and time of every file; of those with a dot in front, which are not whole yet or locks, of none."""
    files = [path for path in folder.rglob("[!.]*") if path.is_file()]
    return {path: (path.stat().st_size, path.stat().st_mtime_ns) for path in files}


def _index(scratch: Path) -> str:
    return f"scratch/{scratch.name}.json"
