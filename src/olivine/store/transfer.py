"""Files by content: what travels between machines is named by its hash, and travels once.

folder/
files/HASH        the bytes; read-only, checked when they arrive, renamed into place when they are whole
trees/DIGEST/     files under names, as somebody reads them: links to the bytes
"""

import os
import shutil
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath

from olivine.errors import OlivineError
from olivine.store.files import protect, remove_tree, sync_file, sync_folder
from olivine.store.hashes import digest, hash_file

Tree = Mapping[str, str]  # name below a folder -> hash of the file


def copy_checked(source: Path, target: Path, hashed: str) -> None:
    """Copy a file; the target is there when it is whole and has that hash, else OlivineError and nothing."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with _partial(target) as partial:
        shutil.copyfile(source, partial)
        if hash_file(partial) != hashed:
            raise OlivineError(f"'{target.name}' arrived with other bytes than were sent ({hashed[:12]})")
        sync_file(partial)
        protect(partial)
        partial.replace(target)
    sync_folder(target.parent)


class Files:
    """The files by content in a folder, which any number of processes may use at once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, hashed: str) -> Path:
        """Where the file with that hash lies, or would."""
        return self.folder / "files" / hashed

    def missing(self, hashes: Iterable[str]) -> set[str]:
        """Those of them that no file here has."""
        return {hashed for hashed in hashes if not self.path(hashed).is_file()}

    def put(self, source: Path, hashed: str) -> None:
        """Take a copy of a file."""
        copy_checked(source, self.path(hashed), hashed)

    def get(self, hashed: str, target: Path) -> None:
        """Copy a file to where it is wanted."""
        copy_checked(self.path(hashed), target, hashed)

    def keep(self, path: Path) -> str:
        """Take a file that was made here, and is not written to any more; gives its hash."""
        hashed = hash_file(path)
        if self.missing([hashed]):
            protect(path)
            self.path(hashed).parent.mkdir(parents=True, exist_ok=True)
            with _partial(self.path(hashed)) as partial:
                _link(path, partial)
                partial.replace(self.path(hashed))
        return hashed

    def tree(self, tree: Tree) -> Path:
        """A folder with the files under their names. ValueError for a name that leads out of it."""
        folder = self.folder / "trees" / digest(tree)
        if folder.is_dir():
            return folder
        folder.parent.mkdir(parents=True, exist_ok=True)
        with _partial(folder) as partial:
            partial.mkdir()
            for name, hashed in tree.items():
                if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
                    raise ValueError(f"'{name}' is no name of a file in a folder")
                (partial / name).parent.mkdir(parents=True, exist_ok=True)
                _link(self.path(hashed), partial / name)
            with suppress(OSError):  # another process was quicker
                partial.rename(folder)
        return folder


@contextmanager
def _partial(target: Path) -> Iterator[Path]:
    """A name beside the target for what is not whole yet; nothing stays there."""
    partial = target.with_name(f".{target.name[:64]}-{os.getpid()}-{uuid.uuid4().hex}")
    try:
        yield partial
    finally:
        remove_tree(partial)


def _link(source: Path, target: Path) -> None:
    """The same file under another name; a copy where the file system has no links."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
