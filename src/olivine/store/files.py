"""Folders and files made, synced and removed, on any system."""

import errno
import os
import shutil
import stat
import uuid
from contextlib import suppress
from pathlib import Path

from olivine.errors import RequestError

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def is_full_disk(error: OSError) -> bool:
    """Whether an error says that there is no room."""
    return error.errno in _FULL


def usable_folder(folder: Path, what: str) -> Path:
    """Make the folder; RequestError with one sentence when it cannot be made or written to."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".probe-{os.getpid()}-{uuid.uuid4().hex}"
        probe.touch()
        probe.unlink()
    except (FileExistsError, NotADirectoryError):
        raise RequestError(f"{what} is no folder: a file is in the way; move it, or name another folder") from None
    except (OSError, ValueError) as error:  # a NUL in a name is a ValueError
        why = getattr(error, "strerror", error)
        raise RequestError(f"{what} cannot be written to ({why}); name another folder") from None
    return folder


def remove_tree(folder: Path) -> None:
    """Remove a folder (or file) as far as that can be done; Windows keeps files that are read-only."""
    if not folder.is_dir() or folder.is_symlink():
        with suppress(OSError):
            folder.unlink()
        return
    if os.name == "nt":
        for path in folder.rglob("*"):
            with suppress(OSError):
                path.chmod(stat.S_IWRITE)
    shutil.rmtree(folder, ignore_errors=True)


def sync_folder(folder: Path) -> None:
    """Wait until the names in a folder are on the disk."""
    if os.name != "posix":  # Windows has no handle of a folder to sync
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_file(path: Path) -> None:
    """Wait until a file is on the disk; Windows wants one that is open for writing."""
    with path.open("rb" if os.name == "posix" else "rb+") as handle:
        os.fsync(handle.fileno())


def protect(path: Path) -> None:
    """Let nobody write to a file by mistake: what is delivered may be a link to it."""
    path.chmod(stat.S_IMODE(path.stat().st_mode) & ~0o222)


def write_synced(path: Path, text: str) -> None:
    """Write a file and wait until it is on the disk."""
    with path.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
