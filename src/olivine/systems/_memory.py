"""How much memory a process has used, and whether the kernel ended one for it."""

from pathlib import Path

from olivine.memory import peak_bytes, restart_peak

__all__ = ["kernel_kills", "peak_bytes", "restart_peak"]


def kernel_kills() -> int:
    """How many processes the kernel has ended because memory ran out, since it started; 0 where it does not say."""
    try:
        lines = Path("/proc/vmstat").read_text(encoding="ascii").splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("oom_kill ")), 0)
