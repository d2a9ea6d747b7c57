"""Files of a model or data set that lie elsewhere: listed, looked at by their beginnings, brought whole and checked.

Whatever holds them (a store of blobs, a folder of another layout) is a `Source`; what is done with them is here.
"""

import hashlib
import os
import shutil
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Protocol

from olivine.errors import ModelError
from olivine.models import hub, mlflow

_ALONE = (".gguf", ".onnx")  # files that are a model by themselves
_PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl")


@dataclass(frozen=True)
class SourceFile:
    """A file of a source.

    name: where it is to lie, below a folder. source: what the source calls it. tag: changes when its bytes do.
    md5: of its bytes, where the source knows it.
    """

    name: str
    source: str
    n_bytes: int
    tag: str
    md5: bytes | None = None


class Source(Protocol):
    """What holds files. Where it refuses one, or gives no answer, it raises an OlivineError."""

    def files(self) -> list[SourceFile]:
        """All of them; none when there is nothing at its address."""

    def read(self, file: SourceFile, n_bytes: int) -> bytes:
        """The first bytes of a file."""

    def fetch(self, file: SourceFile, path: Path, told: Callable[[int], None]) -> None:
        """Bring a file to a path, whole and checked; `told` hears of each part how many bytes it has."""


class FolderSource:
    """A folder of this machine whose files lie in another layout: they are copied."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def files(self) -> list[SourceFile]:
        """See Source."""
        names = sorted(path for path in self._folder.rglob("*") if path.is_file())
        return [_local(path, path.relative_to(self._folder).as_posix()) for path in names]

    def read(self, file: SourceFile, n_bytes: int) -> bytes:
        """See Source."""
        with (self._folder / file.source).open("rb") as opened:
            return opened.read(n_bytes)

    def fetch(self, file: SourceFile, path: Path, told: Callable[[int], None]) -> None:
        """See Source: a copy, as what is in the cache is made read-only and belongs to nobody else."""
        shutil.copyfile(self._folder / file.source, path)
        told(file.n_bytes)


def _local(path: Path, name: str) -> SourceFile:
    status = path.stat()
    return SourceFile(name, name, status.st_size, f"{status.st_mtime_ns}-{status.st_ino}")


@dataclass(frozen=True)
class Layout:
    """Which files of a source make a model, each under the name that it is to have.

    within: the one file that is the model, where it is no folder. is_mlflow: they come from an MLflow folder.
    """

    files: tuple[SourceFile, ...]
    within: str = ""
    is_mlflow: bool = False


def model_layout(source: Source, files: Sequence[SourceFile], *, trusted: bool) -> Layout:
    """The files of a model as a Hugging Face folder has them, whether the source holds such a one or one of MLflow.

    Its code comes along where it is trusted, pickled weights never. What is neither (a graph, a GGUF file) comes as it
    lies. Raises ModelError for an MLflow folder that holds no transformers model, and where no model lies at all.
    """
    if len(files) == 1 and files[0].name.endswith(_ALONE):
        return Layout(tuple(files), within=files[0].name)
    by_name = {file.name: file for file in files}
    marks = [name for name in by_name if PurePosixPath(name).name == mlflow.MARK]
    if marks:
        mark = by_name[min(marks, key=lambda name: (name.count("/"), name))]
        names = mlflow.layout(source.read(mark, mark.n_bytes), PurePosixPath(mark.name).parent, by_name)
        return Layout(_served([replace(by_name[name], name=to) for to, name in names.items()], trusted), is_mlflow=True)
    folder = PurePosixPath(os.path.commonpath([PurePosixPath(file.name).parent for file in files]))
    inside = [replace(file, name=PurePosixPath(file.name).relative_to(folder).as_posix()) for file in files]
    if any(file.name == "config.json" for file in inside):
        return Layout(_served(inside, trusted))
    if not any(file.name.endswith((*_ALONE, "genai_config.json")) for file in inside):
        raise ModelError(
            f"no model lies there: '{inside[0].name}' is of none, and there is no config.json or {mlflow.MARK}"
        )
    return Layout(tuple(inside))


def _served(files: Iterable[SourceFile], trusted: bool) -> tuple[SourceFile, ...]:
    patterns, all_files = hub.patterns(trusted=trusted), list(files)
    served = tuple(file for file in all_files if any(fnmatch(file.name, pattern) for pattern in patterns))
    pickled = next((file for file in all_files if file.name.endswith(_PICKLED)), None)
    if pickled is not None and not any(file.name.endswith(".safetensors") for file in served):
        raise ModelError(f"'{pickled.source}' holds pickled weights, which are not read; convert them to safetensors")
    return served


def sketch(source: Source, files: Iterable[SourceFile], folder: Path) -> None:
    """Fill a folder with the files as `hub.sketch` does: small ones whole, of weights the header."""

    def draw(file: SourceFile) -> None:
        hub.draw(folder / file.name, file.n_bytes, lambda n_bytes: source.read(file, n_bytes))

    with ThreadPoolExecutor(hub.N_AT_ONCE) as pool:
        for _ in pool.map(draw, files):
            pass


def outline(source: Source, files: Iterable[SourceFile], folder: Path) -> tuple[SourceFile, ...]:
    """Fill a folder with the files, but of weights only the headers; gives those whose rest is not there."""

    def draw(file: SourceFile) -> None:
        path = folder / file.name
        path.parent.mkdir(parents=True, exist_ok=True)
        read = partial(source.read, file)
        path.write_bytes(hub.header(file.n_bytes, read) if _is_weights(file) else read(file.n_bytes))

    drawn = tuple(files)
    with ThreadPoolExecutor(hub.N_AT_ONCE) as pool:
        for _ in pool.map(draw, drawn):
            pass
    return tuple(file for file in drawn if _is_weights(file))


def _is_weights(file: SourceFile) -> bool:
    return file.name.endswith(".safetensors")


def bring(
    source: Source, files: Sequence[SourceFile], folder: Path, scratch: Path, told: Callable[[int, int], None]
) -> None:
    """Fill a folder with the files.

    scratch: keeps those that have come, so that a run that was interrupted does not fetch them again. told: hears how
    many bytes have come, and how many there are.
    """
    total, done = sum(file.n_bytes for file in files), 0

    def more(n_bytes: int) -> None:
        nonlocal done
        done += n_bytes
        told(done, total)

    places = {file.name: scratch / _kept_name(file) for file in files}
    for file in files:
        kept = places[file.name]
        if kept.is_file():
            more(file.n_bytes)
            continue
        part = kept.with_suffix(".part")
        source.fetch(file, part, more)
        if (n_bytes := part.stat().st_size) != file.n_bytes:
            part.unlink()
            raise ModelError(f"'{file.source}' came with {n_bytes:,} bytes, not {file.n_bytes:,}")
        part.rename(kept)
    for file in files:
        target = folder / file.name
        target.parent.mkdir(parents=True, exist_ok=True)
        places[file.name].rename(target)


def _kept_name(file: SourceFile) -> str:
    """Of a file of that content: one that has changed since it came has another."""
    return hashlib.sha256(f"{file.name}\n{file.source}\n{file.tag}".encode()).hexdigest()
