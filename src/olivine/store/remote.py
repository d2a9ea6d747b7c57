"""Files by content at any address that fsspec serves: a folder, memory://, sftp://, s3://, abfs://, gs://.

    URL/files/HASH.json    how many bytes, in parts of which size; written last: with it the file is there
    URL/files/HASH.0 ...   the parts

A part that lies there in full is not sent again, so what was interrupted goes on where it was; a file that arrives with
other bytes than were sent is taken out, and sent anew the next time.
"""

import json
import os
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TypeVar

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
_N_AT_ONCE = 8
_PASSING = {408, 425, 429, 500, 502, 503, 504}  # what a server that is busy answers
# of back ends, none of which is imported here: no answer, or one that was cut short
_BROKEN = {"ServiceRequestError", "ServiceResponseError", "ClientConnectionError", "ClientPayloadError"}

Answer = TypeVar("Answer")


@dataclass(frozen=True)
class Tries:
    """How often a request is made again that fails for a moment, and after how many seconds, doubled each time."""

    n_again: int = 3
    pause_seconds: float = 1.0


class RemoteFiles:
    """The files by content at an address, which any number of processes may use at once.

    url: as fsspec reads it. options: of its file system, such as keys; they stand in no file. part_bytes: a file is
    sent in parts of so many bytes. tries: of each request, beside those that its back end makes by itself.
    """

    def __init__(
        self,
        url: str,
        options: Mapping[str, Any] | None = None,
        part_bytes: int = PART_BYTES,
        tries: Tries = Tries(),
    ) -> None:
        self.url, self._options, self._part_bytes, self._tries = url, dict(options or {}), part_bytes, tries
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
        """Those of them that no file there has; several are asked for at once, as each is one round trip."""
        asked = list(hashes)
        with ThreadPoolExecutor(_N_AT_ONCE) as pool:
            return {hashed for hashed, index in zip(asked, pool.map(self._index, asked), strict=True) if index is None}

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
        with suppress(FileNotFoundError):
            content: bytes = self._reached(partial(self._fs.cat_file, f"{self._root}/{name}"))
            return content
        return None

    def names(self, folder: str) -> list[str]:
        """Names of the files in a folder; empty when there is no such folder."""

        def listed_now() -> list[Any]:
            self._fs.invalidate_cache(f"{self._root}/{folder}")
            return list(self._fs.ls(f"{self._root}/{folder}", detail=False))

        try:
            listed = self._reached(listed_now)
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
        with suppress(FileNotFoundError):
            size: int = self._reached(partial(self._fs.info, path))["size"]
            return size
        return None

    def _send(self, path: str, content: bytes) -> None:
        def send() -> None:
            folder, _, name = path.rpartition("/")
            self._fs.makedirs(folder, exist_ok=True)
            if "file" in self._protocols:  # a store of objects shows none before it is whole; a folder does
                part = Path(folder, f".{name}-{uuid.uuid4().hex}")
                try:
                    part.write_bytes(content)
                    part.replace(path)
                finally:
                    part.unlink(missing_ok=True)
            else:
                self._fs.pipe_file(path, content)
            self._fs.invalidate_cache(folder)

        self._reached(send)

    def _fetch(self, hashed: str, index: Mapping[str, int], file: IO[bytes]) -> None:
        """Append what a file lacks."""
        size, part_bytes = index["bytes"], index["part_bytes"]
        begun = file.seek(0, os.SEEK_END)
        for number in range(begun // part_bytes, -(-size // part_bytes)):
            start = max(0, begun - number * part_bytes)
            end = min(part_bytes, size - number * part_bytes)
            if start < end:
                read = partial(self._fs.cat_file, self._part(hashed, number), start=start, end=end)
                file.write(self._reached(read, is_there=True))

    def _discard(self, hashed: str, index: Mapping[str, int]) -> None:
        """Take out a file that is damaged there."""
        paths = [f"{self._root}/files/{hashed}.json"]
        paths += [self._part(hashed, number) for number in range(-(-index["bytes"] // index["part_bytes"]))]
        for path in paths:
            with suppress(FileNotFoundError):
                self._reached(partial(self._fs.rm_file, path))

    def _reached(self, ask: Callable[[], Answer], *, is_there: bool = False) -> Answer:
        """What a back end answers, which is asked again where it fails for a moment.

        Each has errors of its own: whatever it raises comes as one sentence, but that there is no such file (which is
        one, too, where a file `is_there`).
        """
        for pause in (*(self._tries.pause_seconds * 2**n for n in range(self._tries.n_again)), None):
            try:
                return ask()
            except Exception as error:
                if isinstance(error, FileNotFoundError) and not is_there:
                    raise
                if pause is None or not _may_pass(error):
                    raise OlivineError(f"the files at '{self.url}' cannot be reached: {sentence(error)}") from error
            time.sleep(pause)
        raise AssertionError  # the last turn returns or raises


def _may_pass(error: BaseException) -> bool:
    """Whether the same request may do well a moment later: a server was busy, a line broke."""
    for one in _causes(error):
        statuses = (getattr(one, name, None) for name in ("status_code", "status", "code"))
        status = next((status for status in statuses if isinstance(status, int)), None)
        if status is not None:
            return status in _PASSING
        kinds = {kind.__name__ for kind in type(one).__mro__}
        if isinstance(one, ConnectionError | TimeoutError) or not _BROKEN.isdisjoint(kinds):
            return True
    return False


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error, and what it comes from."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


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
