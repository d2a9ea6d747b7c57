"""Which local files a data config reads. Standard library alone: the parent process asks too."""

import difflib
import glob
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from olivine.config.schema import DataConfig, Resource
from olivine.data._split import slices
from olivine.data.sources import PLAIN, Item, Options, read
from olivine.paths import exists, is_file, is_folder, of_user

KINDS: Mapping[str, tuple[str, ...]] = {
    "json": (".json", ".jsonl", ".ndjson"),
    "csv": (".csv", ".tsv"),
    "parquet": (".parquet",),
    "text": (".txt",),
}
"""Kinds of local files, as `data_name` says them, and the suffixes that tell them when it names a folder."""

_SPLIT_WORDS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("validation", "valid", "val", "dev"), "validation"),
    **dict.fromkeys(("test", "testing", "eval", "evaluation"), "test"),
}


@dataclass(frozen=True)
class DataFile:
    """One local file and how it is read."""

    path: Path
    kind: str
    options: Options = PLAIN

    def rows(self) -> Iterator[Item]:
        """Its rows, each with its number, and a DataError in the place of one that cannot be read."""
        return read(self.path, self.kind, self.options)

    @property
    def shown(self) -> str:
        """The path as messages say it: from the current directory where it lies there."""
        return self.path.relative_to(Path.cwd()).as_posix() if self.path.is_relative_to(Path.cwd()) else str(self.path)


@dataclass
class Local:
    """The local files of a data config by the split that they make, and the names that no file has.

    folders: where relative names were looked for.
    """

    folders: list[Path]
    splits: dict[str, list[DataFile]] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)


def data_files(config: DataConfig) -> list[Path]:
    """The local files that the config reads, in order; none for a data set of the hub.

    Names that no file has are left out: `check` reports them.
    """
    local = locate(config)
    if local is None:
        return []
    names = dict.fromkeys(part.name for part in slices(config.load_dataset_config.split))
    return [file.path for name in names for file in local.splits.get(name, [])]


def locate(config: DataConfig) -> Local | None:
    """The local files of every split, or None when the data has to be fetched."""
    load = config.load_dataset_config
    folders = list(dict.fromkeys([Path(config.folder or ".").absolute(), Path.cwd()]))
    if isinstance(load.data_files, Resource):
        return None
    named = _as_mapping(load.data_files)
    if any("://" in name for names in named.values() for name in names):
        return None
    if load.data_name not in KINDS:
        folders = [folder / load.data_name for folder in folders if is_folder(folder / load.data_name)]
        if not folders:
            return None
    if load.data_dir is not None:
        folders = [_below(folder, load.data_dir) for folder in folders]
    kind = load.data_name if load.data_name in KINDS else None
    options = Options(load.sep, load.encoding)
    return _named(named, folders, kind, options) if named else _whole_folder(folders, kind, load.data_dir, options)


def nearest(local: Local, name: str) -> str | None:
    """The file most like the missing `name`, in the folder where it should lie."""
    for folder in local.folders:
        wanted = _below(folder, name)
        if is_folder(wanted.parent) and os.access(wanted.parent, os.R_OK):
            there = [path for path in wanted.parent.iterdir() if is_file(path)]
            # another kind of file, such as the config itself, is like it only if its name without the suffix is
            alike = [path.name for path in there if path.suffix == wanted.suffix or _is_like(path.stem, wanted.stem)]
            close = difflib.get_close_matches(wanted.name, alike, n=1)
            if close:
                return (Path(name).parent / close[0]).as_posix()
    return None


def _is_like(name: str, other: str) -> bool:
    return bool(difflib.get_close_matches(name, [other]))


def _below(folder: Path, name: str) -> Path:
    """A path of the config below a folder; one that begins with ~ is the user's own, if there is such a user."""
    return folder / of_user(name)


def _as_mapping(files: str | list[str] | dict[str, str | list[str]] | None) -> dict[str, list[str]]:
    if files is None:
        return {}
    by_split = files if isinstance(files, dict) else {"train": files}
    return {name: [value] if isinstance(value, str) else list(value) for name, value in by_split.items()}


def _named(named: Mapping[str, list[str]], folders: list[Path], kind: str | None, options: Options) -> Local:
    local = Local(folders)
    for split_name, patterns in named.items():
        local.splits[split_name] = []
        for pattern in patterns:
            found = next((paths for folder in folders if (paths := _matches(folder, pattern, kind))), [])
            local.splits[split_name] += _of_kind(found, kind, options)
            if not found:
                local.missing.append(pattern)
    return local


def _matches(folder: Path, pattern: str, kind: str | None) -> list[Path]:
    path = _below(folder, pattern)
    if is_folder(path):
        return _inside(path, kind) if path.parent != path else []  # the whole disk is no data set
    if exists(path):
        return [path] if is_file(path) else []  # a device never ends, and a pipe is read only once
    if "\0" in pattern:
        return []
    return sorted(Path(name) for name in glob.glob(str(path), recursive=True) if is_file(name))  # noqa: PTH207 - pathlib takes no absolute pattern


def _whole_folder(folders: list[Path], kind: str | None, data_dir: str | None, options: Options) -> Local:
    """Every file of the first folder that is there; `train`, `test`, ... in a name tells the split, as in datasets."""
    local = Local(folders)
    if kind is not None and data_dir is None:
        return local
    for folder in folders:
        files = _inside(folder, kind) if is_folder(folder) else []
        if files:
            words = {path: _split_word(path.relative_to(folder)) for path in files}
            told = {path: word for path, word in words.items() if word} or dict.fromkeys(files, "train")
            for path, word in told.items():
                local.splits.setdefault(word, []).extend(_of_kind([path], kind, options))
            return local
    local.missing.append(data_dir or ".")
    return local


def _split_word(path: Path) -> str | None:
    words = re.split(r"[-._ /\\0-9]+", str(path.with_suffix("")).lower())
    return next((_SPLIT_WORDS[word] for word in words if word in _SPLIT_WORDS), None)


def _inside(folder: Path, kind: str | None) -> list[Path]:
    suffixes = KINDS[kind] if kind else [suffix for suffixes in KINDS.values() for suffix in suffixes]
    return sorted(path for path in _walk(folder) if path.suffix.lower() in suffixes)


def _walk(folder: Path) -> Iterator[Path]:
    """Files below the folder, without hidden ones."""
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith((".", "__"))]
        yield from (Path(parent, name) for name in names if not name.startswith("."))


def _of_kind(paths: Iterable[Path], kind: str | None, options: Options) -> list[DataFile]:
    return [DataFile(path, kind or _kind_of(path), options) for path in paths]


def _kind_of(path: Path) -> str:
    return next((kind for kind, suffixes in KINDS.items() if path.suffix.lower() in suffixes), "text")
