"""Hashes of files and JSON values. Those of files are remembered by path, size, modification time and inode.

A second run does one `stat` a file, however large the checkpoint is.
"""

import json
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Any

from blake3 import blake3

from olivine.errors import RequestError

_RACY_NS = 2_000_000_000  # coarsest step of a file system's clock: a file changed so recently may change again unseen
_LARGE_BYTES = 16 * 2**20


def digest(value: Any) -> str:
    """Hash of a JSON value; the order of keys does not matter."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), default=str)
    return str(blake3(text.encode("utf-8", errors="surrogatepass")).hexdigest())


def hash_file(path: Path, large_bytes: int = _LARGE_BYTES) -> str:
    """blake3 of a file's bytes; one of `large_bytes` and more in pieces of that size, on all cores.

    It is read, not mapped: the pages of a mapping count as this process's memory. The next piece is read while one is
    hashed.
    """
    from concurrent.futures import ThreadPoolExecutor

    if path.stat().st_size < large_bytes:
        return str(blake3(path.read_bytes()).hexdigest())
    hasher = blake3(max_threads=blake3.AUTO)
    with path.open("rb", buffering=0) as stream, ThreadPoolExecutor(1) as reader:
        piece, other = (memoryview(bytearray(large_bytes)) for _ in range(2))
        coming = reader.submit(_fill, stream, piece)
        while n_bytes := coming.result():
            coming = reader.submit(_fill, stream, other)
            hasher.update(piece[:n_bytes])
            piece, other = other, piece
    return str(hasher.hexdigest())


def _fill(stream: FileIO, piece: memoryview) -> int:
    """Read until the piece is full, or the file ends; gives how many bytes it has."""
    filled = 0
    while filled < len(piece) and (n_bytes := stream.readinto(piece[filled:])):
        filled += n_bytes
    return filled


@dataclass(frozen=True)
class Stamp:
    """What tells without reading that a file is the one that was hashed."""

    size: int
    mtime_ns: int
    inode: int

    @classmethod
    def of(cls, path: Path) -> "Stamp":
        """The stamp of a file now; OSError when there is none."""
        status = path.stat()
        return cls(status.st_size, status.st_mtime_ns, status.st_ino)


@dataclass(frozen=True)
class Hashed:
    """A file's hash, with the stamp that it had then."""

    stamp: Stamp
    blake3: str

    def to_json(self) -> dict[str, Any]:
        """As it stands in a manifest."""
        return {**vars(self.stamp), "blake3": self.blake3}

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> "Hashed":
        """The inverse of `to_json`."""
        return cls(Stamp(record["size"], record["mtime_ns"], record["inode"]), record["blake3"])


class Hashes:
    """Hashes of files, remembered across runs in `cache_dir/hashes.jsonl`: one line a file, the last one counts.

    A line is one append, so two runs may share the file; a line that a crash cut short only means hashing again.
    remember_only: a large file that is not remembered raises Unremembered instead of being hashed, and nothing is
      written: `plan` is quick and touches nothing, and what depends on a file that no run has hashed is hardly cached.
    read: hashes the bytes of a file that is not remembered.
    """

    def __init__(
        self, cache_dir: Path, *, remember_only: bool = False, read: Callable[[Path], str] = hash_file
    ) -> None:
        self._path, self._remember_only, self._read_file = cache_dir / "hashes.jsonl", remember_only, read
        self._known: dict[str, tuple[Stamp, str]] = {}
        self._first: dict[str, str] = {}
        self.edited: dict[Path, None] = {}  # files that had other bytes when they were first asked for
        if self._path.is_file():
            for line in self._path.read_text(encoding="utf-8", errors="replace").splitlines():
                self._take(line)

    def file(self, path: Path) -> str:
        """The hash of a file's bytes as they are now."""
        hashed = self.current(path)
        if self._first.setdefault(str(path.absolute()), hashed) != hashed:
            self.edited[path] = None
        return hashed

    def current(self, path: Path) -> str:
        """The same, of a file that no key depends on."""
        stamp = Stamp.of(path)
        if (known := self.remembered(path, stamp)) is not None:
            return known
        if self._remember_only and stamp.size > 256 * 2**20:
            raise Unremembered(str(path))
        hashed = self._read_file(path)
        if not self._remember_only and time.time_ns() - stamp.mtime_ns > _RACY_NS and Stamp.of(path) == stamp:
            self.remember(path, hashed, stamp)
        else:
            self._known[str(path.absolute())] = (stamp, hashed)  # for this run only
        return hashed

    def remembered(self, path: Path, stamp: Stamp | None = None) -> str | None:
        """The hash of a file when it is known without reading it."""
        known = self._known.get(str(path.absolute()))
        return known[1] if known is not None and known[0] == (stamp or Stamp.of(path)) else None

    def remember(self, path: Path, hashed: str, stamp: Stamp | None = None) -> None:
        """Keep a file's hash.

        A cache_dir that does not exist is not made for that, and one that is full or read-only takes none: then the
        file is hashed again.
        """
        stamp = stamp or Stamp.of(path)
        self._known[str(path.absolute())] = (stamp, hashed)
        if self._path.parent.is_dir():
            record = {"path": str(path.absolute()), **vars(stamp), "blake3": hashed}
            with suppress(OSError), self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(record) + "\n")

    def compact(self) -> None:
        """Forget files that are gone or changed, and write the rest anew."""
        kept = {path: known for path, known in self._known.items() if _is_current(Path(path), known[0])}
        self._known = kept
        if self._path.is_file():
            lines = [
                json.dumps({"path": path, **vars(stamp), "blake3": value}) for path, (stamp, value) in kept.items()
            ]
            fresh = self._path.parent / "building" / "hashes"  # removed there if this process dies
            fresh.parent.mkdir(exist_ok=True)
            fresh.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
            fresh.replace(self._path)

    def _take(self, line: str) -> None:
        try:
            record = json.loads(line)
            stamp = Stamp(record["size"], record["mtime_ns"], record["inode"])
            self._known[record["path"]] = (stamp, record["blake3"])
        except (ValueError, KeyError, TypeError, RecursionError):
            return


class Unremembered(RequestError):  # noqa: N818 - names what is so, like the others of the tree
    """A large file was not hashed before, and now is not the time."""


def _is_current(path: Path, stamp: Stamp) -> bool:
    try:
        return Stamp.of(path) == stamp
    except OSError:
        return False
