import os

import psutil
import pytest

from olivine import allowance

GIB = 2**30


def _machine(root, groups):
    """A file system whose kernel says that this process is in these groups."""
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(groups)
    return root


def _write(root, files):
    for name, text in files.items():
        path = root / "sys/fs/cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


V2 = "0::/job/step\n"
V1 = "12:memory:/job\n4:cpu,cpuacct:/job\n1:name=systemd:/job\n0::/job\n"


@pytest.mark.parametrize(
    ("groups", "files", "expected"),
    [
        (V2, {"job/step/memory.max": "max\n", "job/memory.max": f"{GIB}\n"}, GIB),
        (V2, {"job/step/memory.max": f"{GIB // 2}\n", "job/memory.max": f"{GIB}\n"}, GIB // 2),
        ("0::/of/the/host\n", {"memory.max": f"{GIB}\n"}, GIB),
        ("0::/../escaped\n", {"memory.max": f"{GIB}\n"}, GIB),
        (V1, {"memory/job/memory.limit_in_bytes": f"{GIB}\n"}, GIB),
    ],
)
def test_memory_is_the_least_that_any_group_allows(tmp_path, groups, files, expected):
    _write(_machine(tmp_path, groups), files)
    assert allowance.memory_bytes(tmp_path) == expected


@pytest.mark.parametrize(
    ("groups", "files"),
    [
        (V2, {"job/memory.max": "max\n", "job/cpu.max": "max 100000\n"}),
        (V1, {"memory/memory.limit_in_bytes": "9223372036854771712\n", "cpu/job/cpu.cfs_quota_us": "-1\n"}),
        ("", {}),
    ],
)
def test_no_limit_is_the_whole_machine(tmp_path, groups, files):
    _write(_machine(tmp_path, groups), files)
    assert allowance.memory_bytes(tmp_path) == psutil.virtual_memory().total
    assert allowance.n_cores(tmp_path) == allowance.n_bound_cores()


@pytest.mark.parametrize(
    ("groups", "files"),
    [
        (V2, {"job/cpu.max": "50000 100000\n"}),
        (V1, {"cpu,cpuacct/job/cpu.cfs_quota_us": "100000\n", "cpu,cpuacct/job/cpu.cfs_period_us": "100000\n"}),
        (V1, {"cpu/job/cpu.cfs_quota_us": "20000\n", "cpu/job/cpu.cfs_period_us": "100000\n"}),
    ],
)
def test_cores_are_those_whose_time_the_groups_get(tmp_path, groups, files):
    _write(_machine(tmp_path, groups), files)
    assert allowance.n_cores(tmp_path) == 1


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="binds a process to cores")
def test_cores_are_those_the_process_is_bound_to():
    bound = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(bound)})
        assert allowance.n_cores() == 1
    finally:
        os.sched_setaffinity(0, bound)


def test_copies_of_files_are_still_available_memory(tmp_path):
    files = {
        "job/memory.max": f"{GIB}\n",
        "job/memory.current": f"{GIB // 2}\n",
        "job/memory.stat": f"anon 1\ninactive_file {GIB // 4}\nactive_file 0\n",
    }
    _write(_machine(tmp_path, V2), files)
    assert allowance.available_bytes(tmp_path) == GIB * 3 // 4
