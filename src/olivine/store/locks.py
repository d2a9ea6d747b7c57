"""Locks between processes, as files."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from olivine import lazy

if TYPE_CHECKING:
    import filelock
else:
    filelock = lazy.module("filelock")


@contextmanager
def locked(path: Path, timeout: float = -1) -> Iterator[None]:
    """Hold a lock file, which is gone afterwards; filelock.Timeout when another process holds it for longer."""
    lock = filelock.FileLock(path)
    lock.acquire(timeout=timeout)
    with held(lock):
        yield


@contextmanager
def held(lock: "filelock.BaseFileLock") -> Iterator[None]:
    """Release a lock and remove its file; removed while it is held, so that who waits for it begins with a new one."""
    try:
        yield
    finally:
        with suppress(OSError):  # Windows keeps a file that is open
            Path(lock.lock_file).unlink()
        lock.release()
