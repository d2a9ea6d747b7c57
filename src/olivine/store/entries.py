"""The store of results: content-addressed, written atomically, checked when used.

    cache_dir/
      steps/KEY/content/...      what a step made
      steps/KEY/manifest.json    written last: the result, size, stamp and hash of every file, and a digest of it all
      building/KEY-...           entries that are being made
      scratch/KEY/               checkpoints of a step that did not finish
      locks/KEY.lock             one run at a time makes an entry
      hashes.jsonl               remembered hashes

An entry is made in a folder of its own, and renamed into place when all of it is on the disk: a killed run leaves no
half of one. Its files are read-only from then on. An entry whose files or manifest were changed, cut or removed since,
or that got further files, is set aside and made again. Who makes an entry holds the lock of its key all the while, so
what lies in `building` under a key that nobody holds was left by a run that died, as were a lock that nobody holds and
the checkpoints of a step whose result is there; the next run removes them.
"""

import json
import os
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from olivine import lazy
from olivine.store.files import protect, remove_tree, sync_folder, usable_folder, write_synced
from olivine.store.hashes import Hashes, Stamp, digest, hash_file
from olivine.store.locks import held, locked
from olivine.store.manifest import MANIFEST, describe, holds

if TYPE_CHECKING:
    import filelock
else:
    filelock = lazy.module("filelock")

FOLDERS = ("steps", "building", "scratch", "locks")
WRITTEN = "written"
DAMAGED_MANIFEST = "its manifest is damaged"
_JUST_USED_SECONDS = 60.0
_BRIEFLY_SECONDS = 0.5  # who only looks whether a lock is free holds it no longer


@dataclass(frozen=True)
class Entry:
    """A result in the cache. manifest: what stands in its manifest.json."""

    key: str
    folder: Path
    manifest: Mapping[str, Any]

    @property
    def content(self) -> Path:
        """The folder of its files."""
        return self.folder / "content"

    @property
    def name(self) -> str:
        """The step that made it first, in the words of that workflow."""
        return str(self.manifest["name"])

    @property
    def result(self) -> Mapping[str, Any]:
        """JSON values as the worker gave them, with the placeholders of `pack`."""
        result: Mapping[str, Any] = self.manifest["result"]
        return result

    @property
    def files(self) -> Mapping[str, Mapping[str, Any]]:
        """Size, stamp and hash of every file, by its name below `content`."""
        files: Mapping[str, Mapping[str, Any]] = self.manifest["files"]
        return files

    @property
    def size_bytes(self) -> int:
        """Bytes that its files take, without the manifest."""
        return sum(file["size"] for file in self.files.values())

    @property
    def last_used(self) -> float:
        """When a run last took it, in seconds since the epoch."""
        manifest = self.folder / MANIFEST
        return (manifest if manifest.is_file() else self.folder).stat().st_mtime


class Cache:
    """The entries in `cache_dir`.

    warn: told one sentence when a damaged entry is set aside or another run is waited for. read: hashes a file's bytes.
    """

    def __init__(
        self,
        cache_dir: Path,
        warn: Callable[[str], None] | None = None,
        read: Callable[[Path], str] = hash_file,
    ) -> None:
        self.folder, self._warn, self._read = cache_dir, warn or (lambda _: None), read
        self._held: filelock.BaseFileLock | None = None
        self._holding = threading.Lock()  # threads may ask for entries at once

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @cached_property
    def hashes(self) -> Hashes:
        """The memory of hashes that lies in this cache."""
        return Hashes(self.folder, read=self._read)

    def prepare(self) -> None:
        """Make the folders and remove what dead runs left; RequestError when `cache_dir` cannot hold anything."""
        for name in FOLDERS:
            usable_folder(self.folder / name, f"cache_dir '{self.folder}'")
        for left in (self.folder / "building").iterdir():
            with self._if_free(left.name.partition("-")[0]) as is_free:
                if is_free:
                    remove_tree(left)
        for left in (self.folder / "scratch").iterdir():
            key = left.name.removesuffix(".lock")
            if (self.folder / "steps" / key).is_dir() or left.name != key:
                self._drop_scratch_of_the_dead(key)
        for left in (self.folder / "locks").glob("*.lock"):
            with suppress(filelock.Timeout), locked(left, timeout=0):
                continue  # nobody holds it: it goes

    def lookup(self, key: str) -> Entry | None:
        """The entry of that key, if it is there and every file is what it was; notes that it was used."""
        entry = self.peek(key)
        if entry is None or self.damage(entry, self.hashes.current) is not None:
            return None
        try:
            os.utime(entry.folder / MANIFEST)
        except PermissionError:  # a cache that is shared read-only serves as well; it is not ours to clean
            return entry
        return entry

    def has(self, key: str) -> bool:
        """Whether `lookup` would find the entry; touches nothing.

        Files of a cache that was copied are told by their sizes: the run that uses them reads them once.
        """
        entry = self.peek(key)
        return entry is not None and self.damage(entry, None) is None

    def obtain(self, key: str, name: str, make: Callable[[Path], Mapping[str, Any]]) -> tuple[Entry, bool]:
        """The entry and whether it was there; `make(folder)` fills a folder and gives the result when it was not.

        Of several runs that want the same entry one makes it and the others wait. When `make` fails nothing is kept.
        What its result has under WRITTEN, by the names of files, are hashes as `Hashed.to_json` gives them.
        """
        if (entry := self.lookup(key)) is not None:
            return entry, True
        self.hold()
        with self.lock(key, name):
            if (entry := self.lookup(key)) is not None:
                return entry, True
            self._set_aside_damaged(key, name)
            return self._produce(key, name, make), False

    @contextmanager
    def lock(self, key: str, name: str) -> Iterator[None]:
        """Hold the key; while another run holds it, say so and wait."""
        path = self.folder / "locks" / f"{key}.lock"
        lock = filelock.FileLock(path)
        try:
            lock.acquire(timeout=_BRIEFLY_SECONDS)
        except filelock.Timeout:
            self._warn(f"another run is at work on '{name}'; waiting for its result")
            lock.acquire()
        with held(lock):
            yield

    def scratch(self, key: str) -> Path:
        """The folder for checkpoints of the step with that key; it stays until the step has succeeded."""
        folder = self.folder / "scratch" / key
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def drop_scratch(self, key: str) -> None:
        """The step is done: its checkpoints have served."""
        remove_tree(self.folder / "scratch" / key)
        (self.folder / "scratch" / f"{key}.lock").unlink(missing_ok=True)

    def _drop_scratch_of_the_dead(self, key: str) -> None:
        """Remove checkpoints of a finished step, or the lock of a worker, unless a run or worker is at them."""
        with self._if_free(key) as is_free, suppress(filelock.Timeout):
            if is_free:
                with locked(self.folder / "scratch" / f"{key}.lock", timeout=0):
                    if (self.folder / "steps" / key).is_dir():
                        remove_tree(self.folder / "scratch" / key)

    def entries(self) -> list[Entry]:
        """Every entry, the least recently used first."""
        folders = [folder for folder in (self.folder / "steps").glob("*") if folder.is_dir()]
        entries = [entry for folder in folders if (entry := self.peek(folder.name)) is not None]
        return sorted(entries, key=lambda entry: entry.last_used)

    def damaged(self) -> list[Entry]:
        """What is left of entries whose manifest does not hold; they have no name, result or files."""
        folders = [folder for folder in (self.folder / "steps").glob("*") if folder.is_dir()]
        nothing = {"name": "?", "files": {}, "result": {}}
        return [Entry(folder.name, folder, nothing) for folder in folders if self.peek(folder.name) is None]

    def damage(self, entry: Entry, hash_of: Callable[[Path], str] | None, *, every_byte: bool = False) -> str | None:
        """What is wrong with an entry, or None.

        A file whose size, modification time and inode are as they were is taken as it was, or whose present ones are
        remembered with its hash. Else `hash_of` reads it; without that, a file that was edited in place is read, and
        one with another inode (the cache was copied) is not. every_byte: read everything, remember nothing.
        """
        for name, was in entry.files.items():
            path = entry.content / name
            try:
                stamp = Stamp.of(path)
            except OSError:
                return f"'{name}' is missing"
            if stamp.size != was["size"]:
                return f"'{name}' has {stamp.size} bytes, not {was['size']}"
            if every_byte:
                is_same = self._read(path) == was["blake3"]
            elif stamp == Stamp(was["size"], was["mtime_ns"], was["inode"]):
                is_same = True
            elif hash_of is None:
                is_same = stamp.inode != was["inode"] or self._read(path) == was["blake3"]
            else:
                is_same = hash_of(path) == was["blake3"]
            if not is_same:
                return f"'{name}' was altered"
        added = _names_below(entry.content) - entry.files.keys()
        return f"'{min(added)}' was added" if added else None

    def verify(self) -> Iterator[tuple[Entry, str | None]]:
        """Every entry with what is wrong with it, every byte read again."""
        for entry in self.damaged():
            yield entry, DAMAGED_MANIFEST
        for entry in self.entries():
            yield entry, self.damage(entry, None, every_byte=True)

    def collect_garbage(self, older_than_days: float, *, dry_run: bool = False) -> list[Entry]:
        """Remove what no run took for that long, with checkpoints as old; gives the entries that went (or would go).

        What a run is at work on, or has just used, stays: an entry that is taken now may be read for a while.
        """
        before = time.time() - max(older_than_days * 86_400, 0.0)
        if (oldest := self._oldest_run()) is not None:
            before = min(before, oldest - _JUST_USED_SECONDS)
        gone = [entry for entry in [*self.damaged(), *self.entries()] if entry.last_used < before]
        if not dry_run:
            gone = [entry for entry in gone if self.remove(entry.key)]
            self._remove_scratch(before)
            with self._if_free("hashes") as is_free:
                if is_free:
                    self.hashes.compact()
        return gone

    def hold(self) -> None:
        """From now until this cache is closed, no `collect_garbage` takes what has been used since."""
        with self._holding:
            if self._held is None:
                name = f"run-{os.getpid()}-{uuid.uuid4().hex}.lock"
                self._held = filelock.FileLock(self.folder / "locks" / name, thread_local=False)
                self._held.acquire()
                os.utime(self._held.lock_file)

    def close(self) -> None:
        """Let `collect_garbage` take again what `hold` kept from it."""
        if self._held is not None:
            lock, self._held = self._held, None
            with held(lock):
                return

    def peek(self, key: str) -> Entry | None:
        """The entry of that key as its manifest describes it; its files are not looked at."""
        folder = self.folder / "steps" / key
        try:
            manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):  # none, or a damaged one: `_set_aside_damaged` tells them apart
            return None
        return Entry(key, folder, manifest) if holds(manifest, key) else None

    def _set_aside_damaged(self, key: str, name: str) -> None:
        """Move what is left of the entry out of the way and say why. The lock of the key is held."""
        folder = self.folder / "steps" / key
        if not folder.exists():
            return
        entry = self.peek(key)
        why = self.damage(entry, self.hashes.current) if entry else DAMAGED_MANIFEST
        self._warn(f"the cached result of '{name}' is damaged ({why}) and is made again")
        aside = self._building(key)
        folder.rename(aside)
        remove_tree(aside)

    def _produce(self, key: str, name: str, make: Callable[[Path], Mapping[str, Any]]) -> Entry:
        building = self._building(key)
        content = building / "content"
        content.mkdir(parents=True)
        started = time.time()
        try:
            result = dict(make(content))
            written = result.pop(WRITTEN, {})
            manifest = {
                "name": name,
                "key": key,
                "created": started,
                "seconds": time.time() - started,
                "result": result,
                "files": describe(content, written),
            }
            manifest = json.loads(json.dumps(manifest))  # as it will be read
            write_synced(building / MANIFEST, json.dumps(manifest | {"digest": digest(manifest)}, indent=1))
            protect(building / MANIFEST)
            sync_folder(building)
            folder = self.folder / "steps" / key
            building.rename(folder)
            sync_folder(folder.parent)
        finally:
            remove_tree(building)
        return Entry(key, folder, manifest)

    def _building(self, key: str) -> Path:
        return self.folder / "building" / f"{key}-{os.getpid()}-{uuid.uuid4().hex}"

    def remove(self, key: str) -> bool:
        """Remove an entry unless a run holds its key; gives whether it did."""
        with self._if_free(key) as is_free:
            if is_free:
                aside = self._building(key)
                with suppress(FileNotFoundError):  # another process was quicker
                    (self.folder / "steps" / key).rename(aside)  # gone at once for those who look it up
                remove_tree(aside)
                self.drop_scratch(key)
            return is_free

    def _remove_scratch(self, before: float) -> None:
        for folder in (self.folder / "scratch").iterdir():
            if folder.is_dir() and folder.stat().st_mtime < before:
                with self._if_free(folder.name) as is_free:
                    if is_free:
                        self.drop_scratch(folder.name)

    def _oldest_run(self) -> float | None:
        """When the oldest run that is alive began."""
        starts = []
        for path in (self.folder / "locks").glob("run-*.lock"):
            try:
                start = path.stat().st_mtime
                with filelock.FileLock(path).acquire(timeout=0):
                    path.unlink(missing_ok=True)  # its run died
            except FileNotFoundError:  # its run ended just now
                continue
            except filelock.Timeout:
                starts.append(start)
        return min(starts, default=None)

    @contextmanager
    def _if_free(self, key: str) -> Iterator[bool]:
        """Hold the key if nobody does; gives whether it is held now."""
        lock = filelock.FileLock(self.folder / "locks" / f"{key}.lock")
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout:
            yield False
            return
        with held(lock):
            yield True


def _names_below(content: Path) -> set[str]:
    """The files of an entry that are there, by their names below `content`."""
    return {path.relative_to(content).as_posix() for path in content.rglob("*") if not path.is_dir()}
