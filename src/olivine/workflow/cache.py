"""The store of results: content-addressed, written atomically, checked when used.

    cache_dir/
      steps/KEY/content/...      what a step made
      steps/KEY/manifest.json    written last: the result, and size, stamp and hash of every file
      building/KEY-...           entries that are being made
      scratch/KEY/               checkpoints of a step that did not finish
      locks/KEY.lock             one run at a time makes an entry
      hashes.jsonl               remembered hashes

An entry is made in a folder of its own, and renamed into place when all of it is on the disk: a killed run leaves no
half of one. An entry whose files were changed, cut or removed since is set aside and made again. Who makes an entry
holds the lock of its key all the while, so what lies in `building` under a key that nobody holds was left by a run that
died.
"""

import errno
import json
import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from olivine import lazy
from olivine.errors import OlivineError, RequestError
from olivine.models import Model
from olivine.workflow._steps import Plan
from olivine.workflow.keys import Hashes, Stamp, fetch_key, hash_file, plan_keys, seams

if TYPE_CHECKING:
    import filelock
else:
    filelock = lazy.module("filelock")

OUTPUT, INPUT = "${output}", "${input}"
MANIFEST = "manifest.json"
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_JUST_USED_SECONDS = 60.0


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
        return (self.folder / MANIFEST).stat().st_mtime


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

    def prepare(self) -> None:
        """Make the folders and remove what dead runs left; RequestError when `cache_dir` cannot hold anything."""
        for name in ("steps", "building", "scratch", "locks"):
            usable_folder(self.folder / name, f"cache_dir '{self.folder}'")
        for left in (self.folder / "building").iterdir():
            with self._if_free(left.name.partition("-")[0]) as is_free:
                if is_free:
                    shutil.rmtree(left, ignore_errors=True)

    def lookup(self, key: str) -> Entry | None:
        """The entry of that key, if it is there and every file is what it was; notes that it was used."""
        entry = self.peek(key)
        if entry is None or self.damage(entry) is not None:
            return None
        try:
            os.utime(entry.folder / MANIFEST)
        except PermissionError:  # a cache that is shared read-only serves as well; it is not ours to clean
            return entry
        return entry

    def has(self, key: str) -> bool:
        """Whether `lookup` would find the entry; touches nothing."""
        entry = self.peek(key)
        return entry is not None and self.damage(entry) is None

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
        lock = filelock.FileLock(self.folder / "locks" / f"{key}.lock")
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout:
            self._warn(f"another run is at work on '{name}'; waiting for its result")
            lock.acquire()
        try:
            yield
        finally:
            lock.release()

    def scratch(self, key: str) -> Path:
        """The folder for checkpoints of the step with that key; it stays until the step has succeeded."""
        folder = self.folder / "scratch" / key
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def drop_scratch(self, key: str) -> None:
        """The step is done: its checkpoints have served."""
        shutil.rmtree(self.folder / "scratch" / key, ignore_errors=True)
        (self.folder / "scratch" / f"{key}.lock").unlink(missing_ok=True)

    def entries(self) -> list[Entry]:
        """Every entry, the least recently used first."""
        folders = [folder for folder in (self.folder / "steps").glob("*") if folder.is_dir()]
        found = [entry for folder in folders if (entry := self.peek(folder.name)) is not None]
        return sorted(found, key=lambda entry: entry.last_used)

    def damage(self, entry: Entry, *, every_byte: bool = False) -> str | None:
        """What is wrong with an entry, or None.

        A file whose size, modification time and inode are as they were is taken as it was; where only the latter differ
        (the cache was copied or restored), or with `every_byte`, it is hashed.
        """
        for name, was in entry.files.items():
            path = entry.content / name
            try:
                stamp = Stamp.of(path)
            except OSError:
                return f"'{name}' is missing"
            if stamp.size != was["size"]:
                return f"'{name}' has {stamp.size} bytes, not {was['size']}"
            as_it_was = stamp == Stamp(was["size"], was["mtime_ns"], was["inode"])
            if (every_byte or not as_it_was) and hash_file(path) != was["blake3"]:
                return f"'{name}' was altered"
        return None

    def verify(self) -> Iterator[tuple[Entry, str | None]]:
        """Every entry with what is wrong with it, every byte read again."""
        for entry in self.entries():
            yield entry, self.damage(entry, every_byte=True)

    def collect_garbage(self, older_than_days: float, *, dry_run: bool = False) -> list[Entry]:
        """Remove what no run took for that long, with checkpoints as old; gives the entries that went (or would go).

        What a run is at work on, or has just used, stays: an entry that is taken now may be read for a while.
        """
        before = time.time() - max(older_than_days * 86_400, 0.0)
        if (oldest := self._oldest_run()) is not None:
            before = min(before, oldest - _JUST_USED_SECONDS)
        gone = [entry for entry in self.entries() if entry.last_used < before]
        if not dry_run:
            gone = [entry for entry in gone if self.remove(entry.key)]
            self._remove_scratch(before)
            Hashes(self.folder).compact()
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
            self._held.release()
            Path(self._held.lock_file).unlink(missing_ok=True)
            self._held = None

    def peek(self, key: str) -> Entry | None:
        """The entry of that key as its manifest describes it; its files are not looked at."""
        folder = self.folder / "steps" / key
        try:
            manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
            complete = {"name", "files", "result", "created", "seconds"} <= manifest.keys()
        except (
            OSError,
            ValueError,
            AttributeError,
        ):  # none, or one that was cut: `_set_aside_damaged` tells them apart
            return None
        return Entry(key, folder, manifest) if complete else None

    def _set_aside_damaged(self, key: str, name: str) -> None:
        """Move what is left of the entry out of the way and say why. The lock of the key is held."""
        folder = self.folder / "steps" / key
        if not folder.exists():
            return
        entry = self.peek(key)
        why = self.damage(entry) if entry else "its manifest is damaged"
        self._warn(f"the cached result of '{name}' is damaged ({why}) and is made again")
        aside = self._building(key)
        folder.rename(aside)
        shutil.rmtree(aside, ignore_errors=True)

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
            _write_synced(building / MANIFEST, json.dumps(manifest, indent=1))
            sync_folder(building)
            folder = self.folder / "steps" / key
            building.rename(folder)
            sync_folder(folder.parent)
        finally:
            shutil.rmtree(building, ignore_errors=True)
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
                shutil.rmtree(aside, ignore_errors=True)
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
        try:
            yield True
        finally:
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
    except OSError as error:
        raise RequestError(f"{what} cannot be written to ({error.strerror}); name another folder") from None
    return folder


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
    """Wait until a file is on the disk."""
    with path.open("rb+") as handle:
        os.fsync(handle.fileno())


def _describe(content: Path) -> dict[str, dict[str, Any]]:
    """Size, stamp and hash of every file, after they are on the disk."""
    described = {}
    paths = sorted(content.rglob("*"))
    for path in paths:
        if path.is_dir():
            continue
        sync_file(path)
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
