"""Lets the n-th operation on a file fail, in one of the processes of a run; on its PYTHONPATH for a test only.

TORTURE_ROOT: only files below it count. TORTURE_PROCESS: "program" or "worker". TORTURE_N: which operation fails, from
1 on; none when it is 0. TORTURE_ERRNO: how. TORTURE_STICKY: "1" lets every later one fail too, as a full disk does.
TORTURE_COUNT: a file that gets the number of operations, one line a process, each when it ends.

An operation is a write, a sync, a rename, a link, a new folder or a file opened for writing.
"""

# ruff: noqa: PTH100, PTH115, PLW0603

import atexit
import builtins
import io
import os
import sys
import threading

ROOT = os.environ.get("TORTURE_ROOT", "")
PROCESS = "worker" if "olivine.systems._worker" in sys.orig_argv else "program"
N = int(os.environ.get("TORTURE_N", "0"))
ERRNO = int(os.environ.get("TORTURE_ERRNO", "28"))
STICKY = os.environ.get("TORTURE_STICKY") == "1"
COUNT = os.environ.get("TORTURE_COUNT", "")

n_done = 0
lock = threading.Lock()


def count(path):
    """One more operation; OSError when it is the one that fails."""
    global n_done
    if not str(path).startswith(ROOT):
        return
    with lock:
        n_done += 1
        fails = N and (n_done >= N if STICKY else n_done == N)
    if fails:
        raise OSError(ERRNO, os.strerror(ERRNO), str(path))


def name_of(descriptor):
    """What a descriptor has open."""
    try:
        return os.readlink(f"/proc/self/fd/{descriptor}")
    except OSError:
        return ""


def with_path(function, index=0):
    """The function, whose argument at `index` is a path (or descriptor) that it writes to."""

    def counted(*arguments, **named):
        path = arguments[index]
        count(name_of(path) if isinstance(path, int) else os.fsdecode(path))
        return function(*arguments, **named)

    return counted


class CountedFile(io.FileIO):
    """A file whose writes are operations."""

    def write(self, data):
        count(self.name if isinstance(self.name, str) else name_of(self.fileno()))
        return super().write(data)


def opened(file, mode="r", buffering=-1, encoding=None, errors=None, newline=None, closefd=True, opener=None):
    """`open`, with counted writes below ROOT."""
    path = name_of(file) if isinstance(file, int) else os.path.abspath(os.fsdecode(file))
    if not path.startswith(ROOT) or not set(mode) & set("wax+"):
        return original(file, mode, buffering, encoding, errors, newline, closefd, opener)
    count(path)
    plain = mode.replace("b", "").replace("t", "")
    raw = CountedFile(file if isinstance(file, int) else path, plain, closefd, opener)
    if buffering == 0:
        return raw
    buffered = io.BufferedRandom(raw) if "+" in mode else io.BufferedWriter(raw)
    return buffered if "b" in mode else io.TextIOWrapper(buffered, encoding, errors, newline)


def told():
    """Say how many operations there were."""
    with original(COUNT, "a") as file:
        file.write(f"{PROCESS} {n_done}\n")


original = io.open
if ROOT and os.environ.get("TORTURE_PROCESS", PROCESS) == PROCESS:
    builtins.open = io.open = opened
    os.write, os.fsync, os.sendfile = with_path(os.write), with_path(os.fsync), with_path(os.sendfile)
    os.rename, os.replace = with_path(os.rename, 1), with_path(os.replace, 1)
    os.link, os.mkdir = with_path(os.link, 1), with_path(os.mkdir)
    if COUNT:
        atexit.register(told)
        left = os._exit

        def leave(code):
            told()
            left(code)

        os._exit = leave
