"""Files on the head node of a Ray cluster, as a file system of fsspec: `ray://NAME/...`, served by an actor there.

Whoever is connected to the cluster reads and writes them: the machine that gives jobs, and the nodes that do them.
"""

import os
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from fsspec import AbstractFileSystem, register_implementation

from olivine import __version__, lazy
from olivine.store.hashes import digest
from olivine.store.remote import RemoteFiles

if TYPE_CHECKING:
    import ray
else:
    ray = lazy.module("ray")

NAMESPACE = "olivine"
HEAD = "node:__internal_head__"  # a resource that Ray gives to the head node alone
_PROTOCOL = "olivine-ray"
_IDLE_SECONDS = 120.0
_N_TRIES = 3


class Patient:
    """An actor that ends itself when nobody has called it for a while: who started it may be gone."""

    def __init__(self, idle_seconds: float) -> None:
        self._idle_seconds, self._called = idle_seconds, time.monotonic()
        threading.Thread(target=self._wait, daemon=True, name="patience").start()

    def called(self) -> None:
        """Somebody is there."""
        self._called = time.monotonic()

    def is_busy(self) -> bool:
        """Whether it is at work on something, and stays."""
        return False

    def _wait(self) -> None:
        while self.is_busy() or time.monotonic() - self._called < self._idle_seconds:
            time.sleep(min(1.0, self._idle_seconds))
        os._exit(0)


class FileServer(Patient):
    """The files in a folder of the node where this actor is."""

    def __init__(self, folder: str, idle_seconds: float = _IDLE_SECONDS) -> None:
        super().__init__(idle_seconds)
        self._folder = Path(folder).expanduser().absolute()

    def info(self, name: str) -> tuple[str, int] | None:
        """Whether it is a "file" or "directory", and how many bytes it has; None where there is none."""
        path = self._path(name)
        if path.is_dir():
            return "directory", 0
        return ("file", path.stat().st_size) if path.is_file() else None

    def names(self, name: str) -> list[str] | None:
        """Names in a folder; None where there is none."""
        path = self._path(name)
        return sorted(one.name for one in path.iterdir()) if path.is_dir() else None

    def read(self, name: str, start: int | None, end: int | None) -> bytes | None:
        """Bytes of a file; None where there is none."""
        path = self._path(name)
        if not path.is_file():
            return None
        with path.open("rb") as file:
            file.seek(start or 0)
            return file.read() if end is None else file.read(end - (start or 0))

    def write(self, name: str, content: bytes) -> None:
        """Write a file, which is there when it is whole."""
        path = self._path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}-{uuid.uuid4().hex}")
        partial.write_bytes(content)
        partial.replace(path)

    def remove(self, name: str) -> None:
        """Remove a file."""
        self._path(name).unlink(missing_ok=True)

    def _path(self, name: str) -> Path:
        self.called()
        path = self._folder / name
        if ".." in path.parts or not path.is_relative_to(self._folder):
            raise ValueError(f"'{name}' leads out of the folder")
        return path


def open_files(address: str, folder: str) -> RemoteFiles:
    """The files of a cluster. address: of fsspec, where one is named; else they lie in the folder of the head node."""
    if address:
        return RemoteFiles(address)
    register_implementation(_PROTOCOL, HeadFiles, clobber=True)
    return RemoteFiles(f"{_PROTOCOL}://{digest(folder)[:16]}", {"folder": folder})


class HeadFiles(AbstractFileSystem):  # type: ignore[misc]
    """The files that a `FileServer` on the head node has."""

    protocol: ClassVar[str] = _PROTOCOL
    cachable = False

    def __init__(self, folder: str, **options: Any) -> None:
        super().__init__(**options)
        self._server = _Server(folder)

    def info(self, path: str, **_: Any) -> dict[str, Any]:
        kind, size = self._there(self._server.ask("info", _name(path)), path)
        return {"name": path, "type": kind, "size": size}

    def ls(self, path: str, detail: bool = True, **_: Any) -> list[Any]:
        names = self._there(self._server.ask("names", _name(path)), path)
        paths = [f"{path.rstrip('/')}/{name}" for name in names]
        return [self.info(one) for one in paths] if detail else paths

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **_: Any) -> bytes:
        content: bytes = self._there(self._server.ask("read", _name(path), start, end), path)
        return content

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **_: Any) -> None:  # noqa: ARG002
        self._server.ask("write", _name(path), value)

    def rm_file(self, path: str) -> None:
        self._server.ask("remove", _name(path))

    def makedirs(self, path: str, exist_ok: bool = False) -> None:
        """Folders come with their files."""

    def invalidate_cache(self, path: str | None = None) -> None:
        """Nothing is remembered."""

    @staticmethod
    def _there(answer: Any, path: str) -> Any:
        if answer is None:
            raise FileNotFoundError(path)
        return answer


def _name(path: str) -> str:
    """What a path is called in the folder of the server."""
    return path.partition("/")[2]


class _Server:
    """The actor that serves a folder, started where it is not there (any more)."""

    def __init__(self, folder: str) -> None:
        self._folder, self._actor = folder, None

    def ask(self, method: str, *arguments: Any) -> Any:
        """What it answers; one that has just ended itself is started anew."""
        for _ in range(_N_TRIES - 1):
            try:
                return self._ask(method, *arguments)
            except ray.exceptions.ActorDiedError:
                self._actor = None
        return self._ask(method, *arguments)

    def _ask(self, method: str, *arguments: Any) -> Any:
        if self._actor is None:
            self._actor = self._start()
        called: Callable[..., Any] = getattr(self._actor, method).remote
        return ray.get(called(*arguments))

    def _start(self) -> Any:
        options = {
            "name": f"files-{digest([self._folder, __version__])[:16]}",
            "namespace": NAMESPACE,
            "lifetime": "detached",
            "get_if_exists": True,
            "num_cpus": 0,
            "resources": {HEAD: 0.001},
            "max_concurrency": 16,
        }
        return ray.remote(FileServer).options(**options).remote(self._folder)
