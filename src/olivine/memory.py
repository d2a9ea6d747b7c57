"""How much memory this process has used, and whether the kernel ended one for it."""

import sys
from pathlib import Path

_STATUS, _RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def restart_peak() -> None:
    """Let `peak_bytes` count from now on, where the system can do that (Linux); elsewhere it counts from the start."""
    try:
        _RESET.write_text("5")
    except OSError:  # another system, or a kernel without it
        return


def peak_bytes() -> int:
    """The largest resident set of this process since `restart_peak`."""
    if _STATUS.is_file():
        for line in _STATUS.read_text(encoding="ascii", errors="replace").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    if sys.platform == "win32":
        import psutil

        return int(psutil.Process().memory_info().peak_wset)
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def give_back() -> None:
    """Return what lies free in the heap to the system, where the C library can do that (glibc).

    It keeps the holes between blocks that are in use: a walk through the layers of a model of half a gigabyte ended
    with 400 MB of them.
    """
    if sys.platform != "linux":
        return
    import ctypes

    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def kernel_kills() -> int:
    """How many processes the kernel has ended because memory ran out, since it started; 0 where it does not say."""
    try:
        lines = Path("/proc/vmstat").read_text(encoding="ascii").splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("oom_kill ")), 0)
