"""Files below an address of a blob container, read by range, resumed where a connection breaks, and checked."""

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath
from typing import Any

from olivine.azureml._client import Access, Refused
from olivine.models.sources import SourceFile

_N_AT_ONCE = 4  # parts of a file that come at the same time
_WILD = "*?["
_CONTAINER = re.compile(r"https://([^./]+)\.blob\.core\.windows\.net/([^/?]+)")


@dataclass(frozen=True)
class Asset:
    """Files as an input of a job. kind: in AzureML's word, such as uri_folder. address: as AzureML names them."""

    kind: str
    address: str


@dataclass(frozen=True)
class Place:
    """Where blobs lie: address of a container (a signed one needs no credential), and how their names begin.

    asset: the same for a job, where it can be told.
    """

    container: str
    prefix: str
    credential: Any = None
    asset: Asset | None = None


class Blobs:
    """The blobs at a place; one that is named whole, those below a name, or those that a pattern fits.

    open_place: finds the place, and again when what was signed has expired. what: is meant, for messages.
    """

    def __init__(self, access: Access, open_place: Callable[[], Place], what: str) -> None:
        self._access, self._open_place, self._what = access, open_place, what
        self._opened: tuple[Place, Any] | None = None

    def files(self) -> list[SourceFile]:
        """See Source."""
        with self._in_sentences():
            place, container = self._container()
            prefix = place.prefix.strip("/")
            start = prefix[: min(prefix.find(sign) for sign in _WILD if sign in prefix)] if _is_wild(prefix) else prefix
            blobs = list(container.list_blobs(name_starts_with=start, include=["metadata"]))
        blobs = [blob for blob in blobs if (blob.metadata or {}).get("hdi_isfolder") != "true"]
        files = [_file(blob, name) for blob in blobs if (name := _name(blob.name, prefix))]
        return sorted(files, key=lambda file: file.name)

    def address(self, file: SourceFile) -> str | None:
        """Of a file, as fsspec with adlfs reads it, by the reader's own identity; None outside of the public cloud."""
        with self._in_sentences():
            place, _ = self._container()
        parts = _CONTAINER.match(place.container)
        return f"abfs://{parts[2]}@{parts[1]}.dfs.core.windows.net/{file.source}" if parts is not None else None

    def asset(self) -> Asset | None:
        """The place as an input of a job, whose node reads the files by its own identity; None where it is none."""
        with self._in_sentences():
            place, _ = self._container()
        return place.asset

    def name_in_asset(self, file: SourceFile) -> str:
        """What the node finds a file under, below that input."""
        with self._in_sentences():
            place, _ = self._container()
        return _name(file.source, place.prefix.strip("/"))

    def read(self, file: SourceFile, n_bytes: int) -> bytes:
        """See Source."""
        if not n_bytes:
            return b""
        with self._in_sentences():
            _, container = self._container()
            return bytes(container.download_blob(file.source, offset=0, length=n_bytes).readall())

    def fetch(self, file: SourceFile, path: Path, told: Callable[[int], None]) -> None:
        """See Source. A signed address that expired meanwhile is asked for once more."""
        from azure.core.exceptions import HttpResponseError

        with self._in_sentences():
            try:
                self._fetch(file, path, told)
            except HttpResponseError as error:
                if error.status_code not in (401, 403):
                    raise
                self._opened = None
                self._fetch(file, path, told)
        if file.md5 is not None and _md5(path) != file.md5:
            path.unlink()
            raise Refused(f"'{file.source}' of {self._what} came with other bytes than it has there; run it again")

    def _fetch(self, file: SourceFile, path: Path, told: Callable[[int], None]) -> None:
        from azure.core import MatchConditions

        came = 0

        def progress(done: int, _: int | None) -> None:
            nonlocal came
            told(done - came)
            came = done

        _, container = self._container()
        stream = container.download_blob(
            file.source,
            etag='"{}"'.format(file.tag.strip('"')),  # a list says it without its quotes
            match_condition=MatchConditions.IfNotModified,
            max_concurrency=_N_AT_ONCE,
            progress_hook=progress,
        )
        with path.open("wb") as opened:
            stream.readinto(opened)

    def _container(self) -> tuple[Place, Any]:
        if self._opened is None:
            from azure.storage.blob import ContainerClient, ExponentialRetry

            place, pipeline = self._open_place(), self._access.pipeline
            wait = int(pipeline["retry_backoff_factor"])
            retry = ExponentialRetry(
                initial_backoff=wait,
                increment_base=2 if wait else 0,
                random_jitter_range=wait,
                retry_total=pipeline["retry_total"],
            )
            client = ContainerClient.from_container_url(
                place.container,
                credential=place.credential,
                retry_policy=retry,
                read_timeout=pipeline["read_timeout"],
            )
            self._opened = place, client
        return self._opened

    def _in_sentences(self) -> Any:
        return self._access.in_sentences(self._what)


def _file(blob: Any, name: str) -> SourceFile:
    md5 = blob.content_settings.content_md5
    return SourceFile(name, blob.name, blob.size, blob.etag, bytes(md5) if md5 else None)


def _name(blob: str, prefix: str) -> str:
    """What a blob is called below the prefix; empty where it does not lie there, or would leave its folder."""
    path = PurePosixPath(blob)
    if ".." in path.parts or path.is_absolute():
        return ""
    if blob == prefix or (_is_wild(prefix) and fnmatch(blob, prefix)):
        return path.name
    return blob[len(prefix) + 1 :] if prefix and blob.startswith(f"{prefix}/") else "" if prefix else blob


def _is_wild(prefix: str) -> bool:
    return any(sign in prefix for sign in _WILD)


def _md5(path: Path) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).digest()
