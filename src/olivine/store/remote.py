"""Files by content at any address that fsspec serves: a folder, memory://, sftp://, s3://, abfs://, gs://.

    URL/files/HASH.json    how many bytes, in parts of which size; written last: with it the file is there
    URL/files/HASH.0 ...   the parts

A part that lies there in full is not sent again, so what was interrupted goes on where it was; a file that arrives with
other bytes than were sent is taken out, and sent anew the next time.
"""

import json
import os
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from olivine import lazy
from olivine.errors import MissingExtra, OlivineError
from olivine.messages import sentence
from olivine.store.files import protect, sync_file, sync_folder
from olivine.store.hashes import hash_file
from olivine.store.locks import locked
from olivine.store.transfer import Files, Tree

if TYPE_CHECKING:
    import fsspec
else:
    fsspec = lazy.module("fsspec")

PART_BYTES = 64 * 2**20


class RemoteFiles:
    """The files by content at an address, which any number of processes may use at once.

    url: as fsspec reads it. options: of its file system, such as keys; they stand in no file. part_bytes: a file is
    sent in parts of so many bytes.
    """

    def __init__(self, url: str, options: Mapping[str, Any] | None = None, part_bytes: int = PART_BYTES) -> None:
        self.url, self._options, self._part_bytes = url, dict(options or {}), part_bytes
        try:
            self._fs, root = fsspec.core.url_to_fs(url, **self._options)
        except ImportError as error:
            raise MissingExtra(f"'{url}' cannot be reached: {error}") from None
        except ValueError as error:
            raise OlivineError(f"'{url}' is no address of files: {error}") from None
        self._root = root.rstrip("/")
        named = self._fs.protocol
        self._protocols: tuple[str, ...] = (named,) if isinstance(named, str) else tuple(named)

    def missing(self, hashes: Iterable[str]) -> set[str]:
        """Those of them that no file there has."""
        return {hashed for hashed in hashes if self._index(hashed) is None}

    def put(self, source: Path, hashed: str) -> None:
        """Send a file; what lies there already is not sent again."""
        size = source.stat().st_size
        n_parts = -(-size // self._part_bytes)
        with source.open("rb") as file:
            for number in range(n_parts):
                n_bytes = min(self._part_bytes, size - number * self._part_bytes)
                if self._size(self._part(hashed, number)) != n_bytes:
                    file.seek(number * self._part_bytes)
                    self._send(self._part(hashed, number), file.read(n_bytes))
        index = {"bytes": size, "part_bytes": self._part_bytes}
        if hash_file(source) != hashed:
            self._discard(hashed, index)
            raise OlivineError(f"'{source.name}' has other bytes than were to be sent ({hashed[:12]})")
        self.write(f"files/{hashed}.json", json.dumps(index).encode())

    def get(self, hashed: str, target: Path) -> None:
        """Fetch a file; the target is there when it is whole and has that hash, else OlivineError.

        What was fetched before an interruption lies beside the target until then, and is not fetched again.
        """
        index = self._index(hashed)
        if index is None:
            raise OlivineError(f"'{self.url}' has no file with the hash {hashed[:12]}")
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(f".{hashed[:64]}.partial")
        with locked(partial.with_suffix(".lock")):
            with partial.open("ab") as file:
                self._fetch(hashed, index, file)
            if hash_file(partial) != hashed:
                partial.unlink()
                self._discard(hashed, index)
                raise OlivineError(f"'{target.name}' arrived with other bytes than were sent ({hashed[:12]})")
            sync_file(partial)
            protect(partial)
            partial.replace(target)
        sync_folder(target.parent)

    def write(self, name: str, content: bytes) -> None:
        """Write a small file under a name of its own."""
        self._send(f"{self._root}/{name}", content)

    def read(self, name: str) -> bytes | None:
        """The bytes of such a file; None when there is none."""
        with self._reaching():
            try:
                content: bytes = self._fs.cat_file(f"{self._root}/{name}")
            except FileNotFoundError:
                return None
            return content

    def names(self, folder: str) -> list[str]:
        """Names of the files in a folder; empty when there is no such folder."""
        with self._reaching():
            self._fs.invalidate_cache(f"{self._root}/{folder}")
            try:
                listed = self._fs.ls(f"{self._root}/{folder}", detail=False)
            except FileNotFoundError:
                return []
        names = [str(name).rstrip("/").rpartition("/")[2] for name in listed]
        return sorted(name for name in names if not name.startswith("."))  # those are not whole yet

    def _part(self, hashed: str, number: int) -> str:
        return f"{self._root}/files/{hashed}.{number}"

    def _index(self, hashed: str) -> Mapping[str, int] | None:
        content = self.read(f"files/{hashed}.json")
        with suppress(ValueError):
            index: Mapping[str, int] | None = json.loads(content) if content is not None else None
            return index
        return None  # cut short: it is sent again

    def _size(self, path: str) -> int | None:
        with self._reaching():
            try:
                size: int = self._fs.info(path)["size"]
            except FileNotFoundError:
                return None
            return size

    def _send(self, path: str, content: bytes) -> None:
        with self._reaching():
            folder, _, name = path.rpartition("/")
            self._fs.makedirs(folder, exist_ok=True)
            if "file" in self._protocols:  # a store of objects shows none before it is whole; a folder does
                partial = Path(folder, f".{name}-{uuid.uuid4().hex}")
                partial.write_bytes(content)
                partial.replace(path)
            else:
                self._fs.pipe_file(path, content)
            self._fs.invalidate_cache(folder)

    def _fetch(self, hashed: str, index: Mapping[str, int], file: IO[bytes]) -> None:
        """Append what a file lacks."""
        size, part_bytes = index["bytes"], index["part_bytes"]
        begun = file.seek(0, os.SEEK_END)
        for number in range(begun // part_bytes, -(-size // part_bytes)):
            start = max(0, begun - number * part_bytes)
            end = min(part_bytes, size - number * part_bytes)
            if start < end:
                with self._reaching():
                    content = self._fs.cat_file(self._part(hashed, number), start=start, end=end)
                file.write(content)

    def _discard(self, hashed: str, index: Mapping[str, int]) -> None:
        """Take out a file that is damaged there."""
        paths = [f"{self._root}/files/{hashed}.json"]
        paths += [self._part(hashed, number) for number in range(-(-index["bytes"] // index["part_bytes"]))]
        for path in paths:
            with self._reaching(), suppress(FileNotFoundError):
                self._fs.rm_file(path)

    @contextmanager
    def _reaching(self) -> Iterator[None]:
        """Each back end has errors of its own; whatever it raises, in one sentence."""
        try:
            yield
        except Exception as error:
            raise OlivineError(f"the files at '{self.url}' cannot be reached: {sentence(error)}") from error


class Mirror(Files):
    """Files in a folder that come from an address when they are asked for, and go there when they are kept."""

    def __init__(self, folder: Path, far: RemoteFiles) -> None:
        super().__init__(folder)
        self.far = far

    def tree(self, tree: Tree) -> Path:
        """See Files; what is not here yet is fetched."""
        for hashed in self.missing(tree.values()):
            self.far.get(hashed, self.path(hashed))
        return super().tree(tree)

    def keep(self, path: Path) -> str:
        """See Files; what is not there yet is sent."""
        hashed = super().keep(path)
        if self.far.missing([hashed]):
            self.far.put(self.path(hashed), hashed)
        return hashed
