"""Rows that are the inputs of a model as raw numbers: a folder for each input, in each a file for each row.

    data_dir/<input_dirs[i]>/<name of a row>     numbers of input_types[i], of the shape input_shapes[i]
    data_dir/<input_order_file>                  the names of the rows, one a line; else all files of the first folder
    data_dir/<annotations_file>                  a .npy file with the label of each row

Files are found with the standard library alone; their numbers are read by a worker.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from olivine import lazy
from olivine.config.schema import DataConfig
from olivine.config.shape import RAW_TYPE
from olivine.data._scripted import LABEL
from olivine.errors import DataError, Problem, sentence
from olivine.paths import is_file, is_folder, of_user

if TYPE_CHECKING:
    import numpy as np
else:
    np = lazy.module("numpy")


def is_raw(config: DataConfig) -> bool:
    """Whether the rows are files of raw numbers."""
    return config.load_dataset_config.type == RAW_TYPE and config.user_script is None


def raw_files(config: DataConfig) -> list[Path]:
    """Every file that such a config reads, those that name and label the rows first; none where a folder is missing."""
    try:
        root, names = _root(config), _names(config)
    except DataError:
        return []
    load = config.load_dataset_config
    others = [root / name for name in (load.input_order_file, load.annotations_file) if name is not None]
    rows = [folder / name for folder in _folders(config) for name in names]
    return [path for path in (*others, *rows) if is_file(path)]


def raw_problems(config: DataConfig) -> Iterator[Problem]:
    """What is missing or does not fit, without a look at the numbers."""
    try:
        names = _names(config)
        paths = [folder / name for folder in _folders(config) for name in names]
        if absent := next((path for path in paths if not is_file(path)), None):
            raise DataError(f"there is no file '{absent}'")  # noqa: TRY301 - told as the others are
    except DataError as error:
        yield Problem("missing-file", f"data config '{config.name}'", sentence(error), key=("load_dataset_config",))


def raw_rows(config: DataConfig) -> list[dict[str, Any]]:
    """The rows, each input by its name; DataError names the file whose numbers do not fill its shape."""
    load, names = config.load_dataset_config, _names(config)
    labels = np.load(_root(config) / load.annotations_file, allow_pickle=False) if load.annotations_file else None
    if labels is not None and len(labels) != len(names):
        raise DataError(f"data config '{config.name}': {len(labels)} labels, but {len(names)} rows")
    rows = [dict(_inputs(config, name)) for name in names]
    return rows if labels is None else [{**row, LABEL: _plain(one)} for row, one in zip(rows, labels, strict=True)]


def _inputs(config: DataConfig, row: str) -> Iterator[tuple[str, Any]]:
    load = config.load_dataset_config
    names, shapes = load.input_names or [], load.input_shapes or []
    types = load.input_types or ["float32"] * len(names)
    for name, shape, kind, folder in zip(names, shapes, types, _folders(config), strict=True):
        try:
            numbers: Any = np.fromfile(folder / row, dtype=kind)
        except (OSError, TypeError) as error:
            raise DataError(f"data config '{config.name}': '{folder / row}' cannot be read: {error}") from None
        if numbers.size != np.prod(shape):
            raise DataError(
                f"'{folder / row}' holds {numbers.size} numbers of {kind}, and the shape {shape} wants others"
            )
        yield name, numbers.reshape(shape)


def _plain(label: Any) -> Any:
    return label.item() if getattr(label, "ndim", 1) == 0 else label


def _root(config: DataConfig) -> Path:
    load = config.load_dataset_config
    if load.data_dir is None:
        raise DataError(f"data config '{config.name}' names no data_dir")
    folders = [Path(config.folder or ".").absolute() / of_user(load.data_dir), Path.cwd() / of_user(load.data_dir)]
    root = next((folder for folder in folders if is_folder(folder)), None)
    if root is None:
        raise DataError(f"there is no folder '{load.data_dir}' (looked in {folders[0]})")
    return root


def _folders(config: DataConfig) -> list[Path]:
    """The folder of each input."""
    load = config.load_dataset_config
    names, shapes = load.input_names or [], load.input_shapes or []
    kinds, places = load.input_types or ["float32"] * len(names), load.input_dirs or names
    if not names or len({len(names), len(shapes), len(kinds), len(places)}) > 1:
        raise DataError(
            f"data config '{config.name}': input_names, input_shapes, input_types and input_dirs go together"
        )
    folders = [_root(config) / place for place in places]
    if absent := next((folder for folder in folders if not is_folder(folder)), None):
        raise DataError(f"there is no folder '{absent}'")
    return folders


def _names(config: DataConfig) -> list[str]:
    """The names of the rows in their order; DataError where there is none."""
    load, first = config.load_dataset_config, _folders(config)[0]
    if load.input_order_file is None:
        own = (load.input_order_file, load.annotations_file)
        ending = load.input_suffix or ""
        names = sorted(
            path.name
            for path in first.iterdir()
            if path.name.endswith(ending) and path.name not in own and is_file(path)
        )
    else:
        path = _root(config) / load.input_order_file
        if not is_file(path):
            raise DataError(f"there is no file '{path}'")
        lines = path.read_text(encoding="utf-8").splitlines()
        names = [line.strip() for line in lines if line.strip()]
    if outside := next((name for name in names if Path(name).name != name), None):
        raise DataError(f"'{outside}' of {load.input_order_file} is no name of a file")
    if not names:
        raise DataError(
            f"there is no file in '{first}'" + (f" that ends in {load.input_suffix}" if load.input_suffix else "")
        )
    return names
