"""Which local files a data config reads. Standard library alone: the parent process asks too."""

import difflib
import glob
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache, partial
from itertools import islice
from pathlib import Path

from olivine.config.schema import DataConfig, Resource
from olivine.config.shape import LOAD_DATASET_TYPE
from olivine.data._raw import is_raw, raw_files
from olivine.data._split import slices
from olivine.data.sources import PLAIN, Item, Options, is_kind, kinds, read, source_of
from olivine.errors import DataError
from olivine.paths import exists, is_file, is_folder, of_user
from olivine.user_scripts import UserScript

_SPLIT_WORDS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("validation", "valid", "val", "dev"), "validation"),
    **dict.fromkeys(("test", "testing", "eval", "evaluation"), "test"),
}


_MOST_FOLDERS = 5_000  # below a folder of data: with more, it is hardly one
_WILD = re.compile(r"[*?\[]")


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

    folders: where relative names were looked for. refused: why what lies under a missing name is not read.
    """

    folders: list[Path]
    splits: dict[str, list[DataFile]] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)

    def find(self, name: str, paths_in: Callable[[Path], list[Path]]) -> list[Path]:
        """The paths in the first folder that has some; without any, the name is missing."""
        try:
            if found := next((paths for folder in self.folders if (paths := paths_in(folder))), None):
                return found
        except DataError as error:
            self.refused[name] = str(error)
        self.missing.append(name)
        return []


def data_files(config: DataConfig) -> list[Path]:
    """The local files that the config reads, in order, a script's last; of a data set of the hub none.

    Names that no file has are left out: `check` reports them.
    """
    script = UserScript.of(config.user_script, config.script_dir) if config.user_script is not None else None
    return [*_files_of_rows(config), *(script.files if script is not None and is_file(script.path) else ())]


def file_names(config: DataConfig) -> list[str]:
    """The names of `data_files` as far as rows depend on them: with the folder, where that is the class of a file."""
    kind = config.load_dataset_config.data_name
    n_parts = 2 if is_kind(kind) and source_of(kind).is_whole_file else 1
    return ["/".join(path.parts[-n_parts:]) for path in data_files(config)]


def _files_of_rows(config: DataConfig) -> list[Path]:
    if is_raw(config):
        return raw_files(config)
    local = locate(config)
    if local is None:
        return []
    names = dict.fromkeys(part.name for part in slices(config.load_dataset_config.split))
    return [file.path for name in names for file in local.splits.get(name, [])]


def locate(config: DataConfig) -> Local | None:
    """The local files of every split, or None when the data has to be fetched, or comes of a script."""
    load = config.load_dataset_config
    if load.type != LOAD_DATASET_TYPE:
        return None
    folders = list(dict.fromkeys([Path(config.folder or ".").absolute(), Path.cwd()]))
    if isinstance(load.data_files, Resource):
        return None
    named = _as_mapping(load.data_files)
    if any("://" in name for names in named.values() for name in names):
        return None
    if not is_kind(load.data_name):
        folders = [folder / load.data_name for folder in folders if is_folder(folder / load.data_name)]
        if not folders:
            return None
    if load.data_dir is not None:
        folders = [_below(folder, load.data_dir) for folder in folders]
    kind = load.data_name if is_kind(load.data_name) else None
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
            found = local.find(pattern, partial(_matches, pattern=pattern, kind=kind))
            local.splits[split_name] += _of_kind(found, kind, options)
    return local


def _matches(folder: Path, pattern: str, kind: str | None) -> list[Path]:
    path = _below(folder, pattern)
    if path == path.parent:
        raise DataError(f"'{pattern}' is no file of rows: the whole disk; name a file, or a folder of files")
    if is_folder(path):
        return _inside(path, kind)
    if is_file(path):
        return [path]
    if exists(path):
        raise DataError(f"'{pattern}' is no file of rows: a device or a pipe; name a file, or a folder of files")
    if "\0" in pattern:
        return []
    if "**" in pattern:
        _refuse_crowded(Path(f"{_WILD.split(str(path))[0]}*").parent)
    return sorted(Path(name) for name in glob.glob(str(path), recursive=True) if is_file(name))  # noqa: PTH207 - pathlib takes no absolute pattern


def _whole_folder(folders: list[Path], kind: str | None, data_dir: str | None, options: Options) -> Local:
    """Every file of the first folder that is there; `train`, `test`, ... in a name tells the split, as in datasets."""
    local = Local(folders)
    if kind is not None and data_dir is None:
        return local
    files = local.find(data_dir or ".", lambda folder: _inside(folder, kind) if is_folder(folder) else [])
    folder = next((one for one in folders if files and files[0].is_relative_to(one)), Path())
    if kind is not None and source_of(kind).is_whole_file:
        return _of_classes(local, folder, files, kind)
    words = {path: _split_word(path.relative_to(folder)) for path in files}
    told = {path: word for path, word in words.items() if word} or dict.fromkeys(files, "train")
    for path, word in told.items():
        local.splits.setdefault(word, []).extend(_of_kind([path], kind, options))
    return local


def _of_classes(local: Local, folder: Path, files: list[Path], kind: str) -> Local:
    """Files in folders of classes; where all of the outermost folders are called as splits are, these lie in them."""
    outer = {path: path.relative_to(folder).parts[:-1][:1] for path in files}
    in_splits = all(names and names[0].lower() in _SPLIT_WORDS for names in outer.values())
    for path, names in outer.items():
        split, root = (_SPLIT_WORDS[names[0].lower()], folder / names[0]) if in_splits else ("train", folder)
        local.splits.setdefault(split, []).append(DataFile(path, kind, Options(folder=root)))
    return local


def _split_word(path: Path) -> str | None:
    words = re.split(r"[-._ /\\0-9]+", str(path.with_suffix("")).lower())
    return next((_SPLIT_WORDS[word] for word in words if word in _SPLIT_WORDS), None)


def _inside(folder: Path, kind: str | None) -> list[Path]:
    suffixes = source_of(kind).suffixes if kind else [suffix for suffixes in kinds().values() for suffix in suffixes]
    _refuse_crowded(folder)
    named = [path for path in _walk(folder) if path.suffix.lower() in suffixes]
    if dead := next((path for path in named if not exists(path)), None):
        raise DataError(f"'{dead}' is a link to nothing: remove it, or bring its file back")
    return sorted(path for path in named if is_file(path))  # a pipe or a socket has no rows


def _refuse_crowded(folder: Path) -> None:
    if _is_crowded(folder):
        raise DataError(f"'{folder}' has more than {_MOST_FOLDERS:,} folders in it: name the files")


@lru_cache(maxsize=64)
def _is_crowded(folder: Path, most: int = _MOST_FOLDERS) -> bool:
    """Whether a folder is hardly one of data, such as /. Found out once: that takes a while, and a plan asks often."""
    return next(islice(_folders(folder), most, None), None) is not None


def _walk(folder: Path) -> Iterator[Path]:
    """Files below the folder, without hidden ones."""
    for parent, names in _folders(folder):
        yield from (Path(parent, name) for name in names if not name.startswith("."))


def _folders(folder: Path) -> Iterator[tuple[str, list[str]]]:
    """The folder and those below it, without hidden ones, each with the names of its files."""
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith((".", "__"))]
        yield parent, names


def _of_kind(paths: Iterable[Path], kind: str | None, options: Options) -> list[DataFile]:
    return [DataFile(path, kind or _kind_of(path), options) for path in paths]


def _kind_of(path: Path) -> str:
    return next((kind for kind, suffixes in kinds().items() if path.suffix.lower() in suffixes), "text")
