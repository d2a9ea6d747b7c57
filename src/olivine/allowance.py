"""What this process may use of the machine: memory and cores, as a container or a batch system limits them.

Linux tells limits by control groups: version 2 has one tree below /sys/fs/cgroup, version 1 a tree for each kind. A
limit holds for all groups below it, so every group from ours up to the root is asked. `root` is the file system's.
"""

import math
import os
from collections.abc import Iterator
from pathlib import Path

ROOT = Path("/")


def memory_bytes(root: Path = ROOT) -> int:
    """Memory that this process may use: the machine's, or less where a group is limited."""
    limits = [limit for group in _groups("memory", root) if (limit := _limit(group)) is not None]
    return min([_machine_bytes(), *limits])


def _machine_bytes() -> int:
    """All memory of the machine; told by the system itself where it can, as every plan asks."""
    if "SC_PHYS_PAGES" in getattr(os, "sysconf_names", ()):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    import psutil

    return int(psutil.virtual_memory().total)


def available_bytes(root: Path = ROOT) -> int:
    """Memory that could be used now without anybody being swapped out or killed."""
    import psutil

    left = [max(0, limit - _used(group)) for group in _groups("memory", root) if (limit := _limit(group)) is not None]
    return min([int(psutil.virtual_memory().available), *left])


def n_cores(root: Path = ROOT) -> int:
    """Cores that this process may keep busy: those it is bound to, or fewer where its groups get less time of them."""
    shares = [share for group in _groups("cpu", root) if (share := _cores(group)) is not None]
    return max(1, min([n_bound_cores(), *(math.ceil(share) for share in shares)]))


def n_bound_cores() -> int:
    """Cores that this process may run on, whatever its share of their time: what a cpuset or `taskset` leaves."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _groups(kind: str, root: Path) -> Iterator[Path]:
    """Folders of the groups that this process is in, of "memory" or "cpu", from its own up."""
    try:
        lines = (root / "proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:  # another system
        return
    for line in lines:
        _, kinds, name = line.split(":", 2)
        if kinds and kind not in kinds.split(","):
            continue
        trees = (kinds, kind) if kinds else ("", "unified")  # a tree is mounted under all of its kinds, or linked
        tree = next((tree for tree in trees if (root / "sys/fs/cgroup" / tree).is_dir()), None)
        if tree is None:
            continue
        mounted = root / "sys/fs/cgroup" / tree
        own = mounted / name.lstrip("/")
        # a container may see its own group as the root of the tree, while its name is that of the host
        yield from (group for group in (own, *own.parents) if group.is_relative_to(mounted) and group.is_dir())


def _limit(group: Path) -> int | None:
    """The most memory a group may use; version 1 writes a number beyond any machine where there is no limit."""
    return next(
        (number for name in ("memory.max", "memory.limit_in_bytes") if (number := _number(group / name)) is not None),
        None,
    )


def _used(group: Path) -> int:
    """Memory a group uses, without copies of files, which go when memory is asked for."""
    used = _number(group / "memory.current") or _number(group / "memory.usage_in_bytes") or 0
    try:
        lines = (group / "memory.stat").read_text(encoding="ascii").splitlines()
    except OSError:
        return used
    told = {name: int(value) for name, _, value in (line.partition(" ") for line in lines) if value.isdigit()}
    files = [told.get(f"total_{name}", told.get(name, 0)) for name in ("inactive_file", "active_file")]
    return max(0, used - sum(files))


def _cores(group: Path) -> float | None:
    """The cores whose whole time a group may use."""
    try:
        quota, period = (group / "cpu.max").read_text(encoding="ascii").split()
    except (OSError, ValueError):
        known = _number(group / "cpu.cfs_quota_us"), _number(group / "cpu.cfs_period_us")
        return known[0] / known[1] if known[0] and known[1] else None
    return int(quota) / int(period) if quota.isdigit() and int(period) else None


def _number(path: Path) -> int | None:
    """The number that stands in a file; None when there is no such file, or it says "max" or -1."""
    try:
        text = path.read_text(encoding="ascii").strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None
