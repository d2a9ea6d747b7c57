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

import errno
import json
import os
import shutil
import stat
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Self

from olivine import lazy
from olivine.errors import OlivineError, RequestError
from olivine.models import Model
from olivine.workflow.keys import Hashes, Stamp, digest, fetch_key, hash_file, plan_keys, seams
from olivine.workflow.steps import Plan

if TYPE_CHECKING:
    import filelock
else:
    filelock = lazy.module("filelock")

OUTPUT, INPUT = "${output}", "${input}"
FOLDERS = ("steps", "building", "scratch", "locks")
MANIFEST = "manifest.json"
DAMAGED_MANIFEST = "its manifest is damaged"
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
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
        """Bytes of its files."""
        return sum(file["size"] for file in self.files.values())

    @property
    def last_used(self) -> float:
        """When a run last took it, in seconds since the epoch."""
        manifest = self.folder / MANIFEST
        return (manifest if manifest.is_file() else self.folder).stat().st_mtime


class Cache:
    """The entries in `cache_dir`.

    warn: told one sentence when a damaged entry is set aside or another run is waited for.
    """

    def __init__(self, cache_dir: Path, warn: Callable[[str], None] | None = None) -> None:
        self.folder, self._warn = cache_dir, warn or (lambda _: None)
        self._held: filelock.BaseFileLock | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @cached_property
    def hashes(self) -> Hashes:
        """The memory of hashes that lies in this cache."""
        return Hashes(self.folder)

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
        with _held(lock):
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
        found = [entry for folder in folders if (entry := self.peek(folder.name)) is not None]
        return sorted(found, key=lambda entry: entry.last_used)

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
                is_same = hash_file(path) == was["blake3"]
            elif stamp == Stamp(was["size"], was["mtime_ns"], was["inode"]):
                is_same = True
            elif hash_of is None:
                is_same = stamp.inode != was["inode"] or hash_file(path) == was["blake3"]
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
        if self._held is None:
            self._held = filelock.FileLock(self.folder / "locks" / f"run-{os.getpid()}-{uuid.uuid4().hex}.lock")
            self._held.acquire()
            os.utime(self._held.lock_file)

    def close(self) -> None:
        """End what `hold` began."""
        if self._held is not None:
            held, self._held = self._held, None
            with _held(held):
                return

    def peek(self, key: str) -> Entry | None:
        """The entry of that key as its manifest describes it; its files are not looked at."""
        folder = self.folder / "steps" / key
        try:
            manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):  # none, or a damaged one: `_set_aside_damaged` tells them apart
            return None
        return Entry(key, folder, manifest) if _holds(manifest, key) else None

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
            result = make(content)
            manifest = {
                "name": name,
                "key": key,
                "created": started,
                "seconds": time.time() - started,
                "result": result,
                "files": _describe(content),
            }
            manifest = json.loads(json.dumps(manifest))  # as it will be read
            _write_synced(building / MANIFEST, json.dumps(manifest | {"digest": digest(manifest)}, indent=1))
            _protect(building / MANIFEST)
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
        with _held(lock):
            yield True


@contextmanager
def locked(path: Path, timeout: float = -1) -> Iterator[None]:
    """Hold a lock file, which is gone afterwards; filelock.Timeout when another process holds it for longer."""
    lock = filelock.FileLock(path)
    lock.acquire(timeout=timeout)
    with _held(lock):
        yield


@contextmanager
def _held(lock: "filelock.BaseFileLock") -> Iterator[None]:
    """Release a lock and remove its file; removed while it is held, so that who waits for it begins with a new one."""
    try:
        yield
    finally:
        with suppress(OSError):  # Windows keeps a file that is open
            Path(lock.lock_file).unlink()
        lock.release()


def cached(plan: Plan) -> frozenset[str]:
    """What of a plan is in its cache: "NAME" for the result of a step, "score:NAME" for the scores of a seam.

    Touches nothing and stays quick: a large input file that was never hashed here means that nothing is cached.
    """
    cache = Cache(plan.cache_dir)
    model = plan.input_model or fetched_model(cache, plan)
    if model is None or not (plan.cache_dir / "steps").is_dir():
        return frozenset()
    try:
        keys = plan_keys(plan, model, Hashes(plan.cache_dir, remember_only=True))
    except (OlivineError, OSError, LookupError):  # a missing file or unknown pass is a problem of the plan, told there
        return frozenset()
    names = {name: key for name, key in keys.models.items() if name is not None}
    names |= {f"score:{seam.name}": keys.scores[seam.step] for seam in seams(plan)}
    return frozenset(name for name, key in names.items() if cache.has(key))


def fetched_model(cache: Cache, plan: Plan) -> Model | None:
    """Where the input model from the hub lies, if a run has fetched it and it is still there."""
    entry = cache.peek(fetch_key(plan)) if plan.hub_name else None
    if entry is None:
        return None
    model = Model.from_json(unpack(entry.result["model"], entry.content, None))
    return model if (model.path / "config.json").is_file() else None


def pack(value: Any, output: Path, model: Model | None) -> Any:
    """A result without the places of this run: `${output}` for the folder, `${input}` for the input model's record.

    `${input.base}` is the record of what the input model was made from, and so on.
    """
    places = {}
    name, record = "input", model
    while record is not None:
        places["${" + name + "}"] = record.to_json()
        name, record = f"{name}.base", record.base
    return _pack(value, str(output), places)


def _pack(value: Any, output: str, places: Mapping[str, Any]) -> Any:
    for placeholder, record in places.items():
        if value == record:
            return placeholder
    if isinstance(value, Mapping):
        return {key: _pack(item, output, places) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_pack(item, output, places) for item in value]
    if isinstance(value, str) and (value == output or value.startswith((f"{output}/", f"{output}{os.sep}"))):
        return OUTPUT + value[len(output) :].replace(os.sep, "/")
    return value


def unpack(value: Any, content: Path, model: Model | None) -> Any:
    """The inverse of `pack`, for the entry's folder and the input model of this run."""
    if isinstance(value, Mapping):
        return {key: unpack(item, content, model) for key, item in value.items()}
    if isinstance(value, list):
        return [unpack(item, content, model) for item in value]
    if isinstance(value, str) and value.startswith(OUTPUT):
        return str(content / value.removeprefix(OUTPUT).lstrip("/"))
    if isinstance(value, str) and value.startswith("${input") and value.endswith("}"):
        for _ in range(value.count(".base")):
            model = model.base if model else None
        return model.to_json() if model else None
    return value


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


def _names_below(content: Path) -> set[str]:
    """The files of an entry that are there, by their names below `content`."""
    return {path.relative_to(content).as_posix() for path in content.rglob("*") if not path.is_dir()}


def _holds(manifest: Any, key: str) -> bool:
    """Whether a manifest is whole, that of the key, and as it was written; its files lie in the entry's folder."""
    if not isinstance(manifest, dict):
        return False
    written = manifest.pop("digest", None)
    try:
        if written != digest(manifest) or manifest["key"] != key:
            return False
        names = [PurePosixPath(name) for name in manifest["files"]]
    except (KeyError, TypeError, RecursionError):
        return False
    complete = {"name", "files", "result", "created", "seconds"} <= manifest.keys()
    return complete and not any(name.is_absolute() or ".." in name.parts for name in names)


def _protect(path: Path) -> None:
    """Let nobody write to a file by mistake: what is delivered may be a link to it."""
    path.chmod(stat.S_IMODE(path.stat().st_mode) & ~0o222)


def _describe(content: Path) -> dict[str, dict[str, Any]]:
    """Size, stamp and hash of every file, after they are on the disk and read-only."""
    described = {}
    paths = sorted(content.rglob("*"))
    for path in paths:
        if path.is_dir():
            continue
        sync_file(path)
        _protect(path)
        stamp = Stamp.of(path)
        described[path.relative_to(content).as_posix()] = {**vars(stamp), "blake3": hash_file(path)}
    for folder in (content, *(path for path in paths if path.is_dir())):
        sync_folder(folder)
    return described


def _write_synced(path: Path, text: str) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
