import os
import subprocess
import sys
import time

import pytest
from blake3 import blake3

from olivine.store.hashes import Hashes, Unremembered, digest, hash_file


def _age(*paths):
    """Let files look as if they were written a while ago: younger ones are not remembered."""
    for path in paths:
        os.utime(path, (time.time() - 100, time.time() - 100))


class Reader:
    """Hashes files and counts how often it did."""

    def __init__(self):
        self.n_read = 0

    def __call__(self, path):
        self.n_read += 1
        return hash_file(path)


def test_order_of_keys_in_json_does_not_matter():
    assert digest({"a": 1, "b": [1.0, None]}) == digest({"b": [1.0, None], "a": 1}) != digest({"a": 1, "b": [1, None]})


def test_large_file_hashes_like_a_small_one(tmp_path):
    file = tmp_path / "file"
    file.write_bytes(os.urandom(100_000))
    assert hash_file(file, large_bytes=10) == hash_file(file)


def test_hash_of_a_file_is_remembered_across_runs(tmp_path):
    read = Reader()
    file = tmp_path / "weights"
    file.write_bytes(b"1")
    _age(file)
    for _ in range(3):
        Hashes(tmp_path, read=read).file(file)
    assert read.n_read == 1


@pytest.mark.parametrize("change", ["content", "replaced"])
def test_changed_file_is_hashed_again(tmp_path, change):
    file = tmp_path / "weights"
    file.write_bytes(b"1")
    _age(file)
    before = Hashes(tmp_path).file(file)
    if change == "replaced":  # another file of the same size and time
        status = file.stat()
        other = tmp_path / "other"
        other.write_bytes(b"2")
        os.utime(other, ns=(status.st_atime_ns, status.st_mtime_ns))
        other.rename(file)
    else:
        file.write_bytes(b"2")
    assert Hashes(tmp_path).file(file) != before


def test_file_written_just_now_is_not_remembered(tmp_path):
    """It could be changed once more within one tick of the file system's clock."""
    read = Reader()
    file = tmp_path / "rows"
    file.write_bytes(b"1")
    Hashes(tmp_path, read=read).file(file)
    Hashes(tmp_path, read=read).file(file)
    assert read.n_read == 2


def test_memory_that_was_cut_short_means_hashing_again(tmp_path):
    file = tmp_path / "weights"
    file.write_bytes(b"1")
    _age(file)
    first = Hashes(tmp_path).file(file)
    memory = tmp_path / "hashes.jsonl"
    memory.write_bytes(memory.read_bytes()[:-20] + b"\n\xff\xfe[]\n")
    assert Hashes(tmp_path).file(file) == first


def test_plan_hashes_no_large_file_and_writes_nothing(tmp_path):
    file = tmp_path / "weights"
    with file.open("wb") as handle:
        handle.truncate(300 * 2**20)
    with pytest.raises(Unremembered):
        Hashes(tmp_path, remember_only=True).file(file)
    small = tmp_path / "small"
    small.write_bytes(b"1")
    _age(small)
    Hashes(tmp_path, remember_only=True).file(small)
    assert not (tmp_path / "hashes.jsonl").exists()


def test_compact_memory_forgets_files_that_are_gone(tmp_path):
    files = [tmp_path / name for name in "abc"]
    for file in files:
        file.write_bytes(b"1")
    _age(*files)
    hashes = Hashes(tmp_path)
    for file in files:
        hashes.file(file)
    files[0].unlink()
    Hashes(tmp_path).compact()
    assert len((tmp_path / "hashes.jsonl").read_text().splitlines()) == 2


@pytest.mark.parametrize("n_bytes", [0, 1, 9, 10, 11, 20, 21, 1000])
def test_hash_in_pieces_is_that_of_the_whole(n_bytes, tmp_path):
    file = tmp_path / "file"
    file.write_bytes(bytes(range(256)) * 4)
    os.truncate(file, n_bytes)
    assert hash_file(file, large_bytes=10) == blake3(file.read_bytes()).hexdigest()


@pytest.mark.skipif(sys.platform != "linux", reason="the limit is Linux's")
def test_a_large_file_takes_no_memory(tmp_path):
    """A file of 800 MB, all of it a hole, hashed by a process that may have 300 MB more than it starts with."""
    file = tmp_path / "large"
    with file.open("wb") as stream:
        stream.truncate(800 * 2**20)
    program = f"""
import resource, sys
from pathlib import Path
from olivine.store.hashes import hash_file
hash_file(Path(sys.executable))  # threads and libraries are there
pages = int(Path("/proc/self/statm").read_text().split()[0])
limit = pages * resource.getpagesize() + 300 * 2**20
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
hash_file(Path({str(file)!r}))
"""
    subprocess.run([sys.executable, "-c", program], check=True)
