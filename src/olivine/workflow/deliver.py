"""Put a result into the output folder: whole or not at all, holding what the result holds and nothing else.

`.delivered.json` there says which files are ours. What the user has put into such a folder, or changed in it, is moved
to `kept/` before the folder is replaced: nothing of a user's is removed.
"""

import json
import os
import shutil
import uuid
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from olivine.store.entries import Entry
from olivine.store.files import remove_tree, sync_file, sync_folder
from olivine.store.hashes import Hashes
from olivine.store.locks import locked
from olivine.workflow.folders import DELIVERED

LINKED_BYTES = 64 * 2**20  # files of the cache that are at least this large are delivered as hard links
RECORD = ".delivered.json"
KEPT = "kept"

Record = dict[str, dict[str, list[str]]]  # folder -> file -> hashes of what was delivered there


@dataclass(frozen=True)
class Delivery:
    """Fills an output folder.

    hashes: the memory that tells whether a file is still the delivered one. warn: told what was moved out of the way.
    """

    output_dir: Path
    hashes: Hashes
    warn: Callable[[str], None]

    def deliver(self, results: Mapping[str, Entry]) -> None:
        """Make `output_dir/NAME` a copy of each entry; one that was delivered earlier and is no result now goes.

        What was there stays until its copy is complete.
        """
        with alone_in(self.output_dir):
            record = self._read()
            for name, entry in results.items():
                self._place(name, entry, record)
            for name in set(DELIVERED) & record.keys() - results.keys():
                self._withdraw(name, record)

    def is_done(self, results: Mapping[str, Entry]) -> bool:
        """Whether the folder holds all of it and nothing else, by what is remembered; takes no lock."""
        record = self._read()
        return record.keys() == results.keys() and all(
            self._is_placed(self.output_dir / name, {file: known["blake3"] for file, known in entry.files.items()})
            for name, entry in results.items()
        )

    def _place(self, name: str, entry: Entry, record: Record) -> None:
        target = self.output_dir / name
        ours = record.get(name, {})
        fresh_names = {file: known["blake3"] for file, known in entry.files.items()}
        # before anything moves: a run that is killed meanwhile must not take its own files for the user's
        record[name] = {
            file: sorted({*ours.get(file, ()), *([fresh_names[file]] if file in fresh_names else [])})
            for file in {*ours, *fresh_names}
        }
        self._keep_foreign(name, record[name])
        if not self._is_placed(target, fresh_names):
            self._write(record)
            self._replace(target, entry)
        exact = {file: [hashed] for file, hashed in fresh_names.items()}
        if self._read().get(name) != exact:
            self._write(record | {name: exact})
        record[name] = exact

    def _is_placed(self, target: Path, files: Mapping[str, str]) -> bool:
        """Whether the folder holds exactly these files already, by what is remembered of them."""
        if target.is_symlink() or not target.is_dir() or _files(target) != files.keys():
            return False
        try:
            return all(self.hashes.remembered(target / name) == hashed for name, hashed in files.items())
        except OSError:
            return False

    def _replace(self, target: Path, entry: Entry) -> None:
        fresh, old = (self.output_dir / f".{target.name}-{uuid.uuid4().hex}.partial" for _ in range(2))
        try:
            fresh.mkdir()
            for name in entry.files:
                _copy(entry.content / name, fresh / name)
            sync_folder(fresh)
            if target.exists() or target.is_symlink():
                target.rename(old)
            fresh.rename(target)
            sync_folder(self.output_dir)
        finally:
            remove_tree(fresh)
            remove_tree(old)
        for name, file in entry.files.items():
            self.hashes.remember(target / name, file["blake3"])

    def _withdraw(self, name: str, record: Record) -> None:
        """Remove a folder that an earlier run delivered."""
        target = self.output_dir / name
        if target.is_dir() and not target.is_symlink():
            self._keep_foreign(name, record[name])
            old = self.output_dir / f".{name}-{uuid.uuid4().hex}.partial"
            target.rename(old)
            remove_tree(old)
        del record[name]
        self._write(record)

    def _keep_foreign(self, name: str, ours: Mapping[str, Collection[str]]) -> None:
        """Move what is not ours out of the folder: the user's own files, and delivered ones that were edited."""
        target = self.output_dir / name
        if not target.is_dir() or target.is_symlink():
            return
        foreign = sorted(file for file in _files(target) if not self._is_ours(target / file, ours.get(file, ())))
        if not foreign:
            return
        kept = _free(self.output_dir / KEPT / name)
        for file in foreign:
            (kept / file).parent.mkdir(parents=True, exist_ok=True)
            (target / file).rename(kept / file)
        more = f" and {len(foreign) - 1} more" if len(foreign) > 1 else ""
        self.warn(f"'{foreign[0]}'{more} in '{target}' is not of its result; it lies in '{kept}' now")

    def _is_ours(self, path: Path, hashes: Collection[str]) -> bool:
        try:
            return bool(hashes) and not path.is_symlink() and self.hashes.current(path) in hashes
        except OSError:
            return False

    def _read(self) -> Record:
        try:
            record = json.loads((self.output_dir / RECORD).read_text(encoding="utf-8"))
            return {
                str(folder): {str(file): [str(hashed) for hashed in hashes] for file, hashes in files.items()}
                for folder, files in record.items()
            }
        except (OSError, ValueError, AttributeError, TypeError, RecursionError):
            return {}  # nothing is known to be ours, so nothing will be removed

    def _write(self, record: Record) -> None:
        write_whole(self.output_dir / RECORD, record)


@contextmanager
def alone_in(output_dir: Path) -> Iterator[None]:
    """Hold an output folder against other runs; what one that died there has half written is removed."""
    with locked(output_dir / ".delivery.lock"):
        for left in half_written(output_dir):
            remove_tree(left)
        yield


def half_written(output_dir: Path) -> list[Path]:
    """What a run that died, or one that is at it, has begun to write into an output folder."""
    return [*output_dir.glob(".*.partial")]


def write_whole(path: Path, value: Any) -> None:
    """Write a JSON file so that a reader sees the old one or the new one, never a part."""
    write_text(path, text_of(value))


def text_of(value: Any) -> str:
    """JSON as it is written into an output folder."""
    return json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def holds_text(path: Path, text: str) -> bool:
    """Whether a file is there and holds that text, as `write_text` writes it."""
    try:
        return path.read_bytes() == text.encode("utf-8", errors="backslashreplace")
    except OSError:
        return False


def write_text(path: Path, text: str) -> None:
    """Write a text file so that a reader sees the old one or the new one, never a part."""
    fresh = path.with_name(f".{path.name}-{uuid.uuid4().hex}.partial")
    try:
        # a lone surrogate has no bytes in UTF-8: it is written as JSON's escape
        fresh.write_text(text, encoding="utf-8", errors="backslashreplace", newline="\n")
        sync_file(fresh)
        fresh.replace(path)
    finally:
        fresh.unlink(missing_ok=True)


def _files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_symlink() or not path.is_dir()}


def _free(path: Path) -> Path:
    """The path, or the first numbered one like it that is not there."""
    n_tried = 1
    place = path
    while place.exists() or place.is_symlink():
        n_tried += 1
        place = path.with_name(f"{path.name}-{n_tried}")
    return place


def _copy(source: Path, target: Path) -> None:
    """A copy; of a large file a hard link where that is possible, which costs no time and no room."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.stat().st_size >= LINKED_BYTES:
        with suppress(OSError):  # another file system, or one without links
            os.link(source, target)
            return
    shutil.copyfile(source, target)
    sync_file(target)
