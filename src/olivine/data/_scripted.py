"""Rows that come of a user's script: loaded, prepared or made into batches by functions that it registers or defines.

    load_dataset_config ─> data set ─ pre_process_data_config ─> inputs and label ─ dataloader_config ─> batches

What a script gives may be mappings or tuples, arrays or tensors, single rows or batches; here they become rows: the
inputs by name (or by position, where nothing names them), and the label.
"""

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any

from olivine import lazy
from olivine.config.schema import DataConfig
from olivine.config.shape import DUMMY_TYPE, LOADS, PRE_PROCESSES, TOKENS_TYPE
from olivine.errors import DataError
from olivine.user_scripts import Opened, ScriptError, UserScript

if TYPE_CHECKING:
    import numpy as np
else:
    np = lazy.module("numpy")

LABEL = "label"
N_DUMMY = 32
N_TOKENS = 128
N_MOST = 2048  # rows that are taken of what has no length

Item = dict[str, Any]
ReadRaw = Callable[[], Any]


def is_scripted(config: DataConfig) -> bool:
    """Whether a script has a part in the rows."""
    return config.user_script is not None and any(named_components(config))


def is_made_up(config: DataConfig) -> bool:
    """Whether the rows are numbers of some shapes."""
    return config.load_dataset_config.type in (DUMMY_TYPE, TOKENS_TYPE) and not is_scripted(config)


def token_counts(config: DataConfig) -> tuple[int, int] | None:
    """Of made-up tokens: how many a row has, and how many lie before; None for all other rows."""
    load = config.load_dataset_config
    if load.type != TOKENS_TYPE or is_scripted(config):
        return None
    return load.seq_len or N_TOKENS, load.past_seq_len or 0


def named_components(config: DataConfig) -> dict[str, str]:
    """The components that only a script can have, by their kind in the registry."""
    told = {
        "load_dataset": (config.load_dataset_config.type, LOADS),
        "pre_process_data": (config.pre_process_data_config.type, PRE_PROCESSES),
        "dataloader": (config.dataloader_config.type, ()),
    }
    return {kind: name for kind, (name, known) in told.items() if name is not None and name not in known}


def position(number: int) -> str:
    """The name of an input that a script does not name."""
    return f"#{number}"


def made_up_rows(config: DataConfig) -> list[Item]:
    """Rows of a dummy_dataset: ones, as Olive has them. DataError where shapes and names do not fit each other."""
    load = config.load_dataset_config
    shapes = load.input_shapes or []
    names = load.input_names or [position(number) for number in range(len(shapes))]
    types = load.input_types or ["float32"] * len(shapes)
    if not shapes or len({len(shapes), len(names), len(types)}) > 1:
        raise DataError(
            f"data config '{config.name}': input_shapes, input_names and input_types of a dummy_dataset go together"
        )
    row = {name: np.ones(shape, dtype) for name, shape, dtype in zip(names, shapes, types, strict=True)}
    return [row] * (load.max_samples or N_DUMMY)


def scripted_rows(config: DataConfig, choose: Callable[[int], Sequence[int]], read: ReadRaw) -> list[Item]:
    """The rows that are chosen of what a script gives.

    choose: from the number of rows to the increasing indices of those wanted. read: the rows of the files or the data
    set of the hub that the config names, where the script does not load them itself. DataError when the script fails.
    """
    script = UserScript.of(str(config.user_script), config.script_dir, config.max_seconds)

    def rows() -> list[Item]:
        with script.opened() as opened, script.words(f"what {script.path} gives cannot be read as rows: it"):
            return list(_chosen(config, opened, choose, read))

    try:
        return script.within_time(f"{', '.join(named_components(config).values())} of {script.path}", rows)
    except ScriptError as error:
        raise DataError(f"data config '{config.name}': {error}") from error


def _chosen(
    config: DataConfig, opened: Opened, choose: Callable[[int], Sequence[int]], read: ReadRaw
) -> Iterator[Item]:
    parts = named_components(config)
    load, settings, loader = config.load_dataset_config, config.pre_process_data_config, config.dataloader_config
    makes_all = "dataloader" in parts and opened.component("dataloader", parts["dataloader"]) is None
    if makes_all:  # the form of 2023: one function gives the batches
        yield from _of_batches(_batches(opened.function(parts["dataloader"]), loader.params), choose)
        return
    rows = _component(opened, "load_dataset", parts)(**load.params) if "load_dataset" in parts else read()
    if "pre_process_data" in parts:
        rows = _component(opened, "pre_process_data", parts)(rows, **settings.params)
    if "dataloader" in parts:
        batches = _component(opened, "dataloader", parts)(rows, **loader.params)
        yield from _of_batches(batches, choose)
        return
    yield from _of_rows(rows, choose)


def _batches(function: Callable[..., Any], params: Mapping[str, Any]) -> Any:
    """What a function of 2023 gives: data_dir and batch_size come first, whether the config names them or not."""
    given = dict(params)
    first = [given.pop("data_dir", None), given.pop("batch_size", 1)]
    told = inspect.signature(function).parameters.values()
    places = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    n_places = sum(one.kind in places for one in told)
    takes_all = any(one.kind is inspect.Parameter.VAR_POSITIONAL for one in told)
    return function(*(first if takes_all else first[:n_places]), **given)


def _component(opened: Opened, kind: str, parts: Mapping[str, str]) -> Callable[..., Any]:
    found = opened.component(kind, parts[kind])
    if found is None:
        raise ScriptError(f"{opened.script.path} registers no {kind} '{parts[kind]}'")
    return found


def _of_rows(rows: Any, choose: Callable[[int], Sequence[int]]) -> Iterator[Item]:
    """Of a data set: only those that are chosen are asked for, where it has a length."""
    if not hasattr(rows, "__len__") or not hasattr(rows, "__getitem__"):
        rows = list(islice(iter(rows), N_MOST))
    for index in choose(len(rows)):
        yield _item(rows[int(index)])


def _of_batches(batches: Any, choose: Callable[[int], Sequence[int]]) -> Iterator[Item]:
    """Of a loader of batches, in its order: they are taken apart into rows."""
    rows: list[Item] = []
    for batch in batches:
        rows += _split(_item(batch))
        if len(rows) >= N_MOST:
            break
    yield from (rows[index] for index in choose(len(rows)))


def _split(batch: Item) -> Iterator[Item]:
    """The rows of a batch, each with a first dimension of one; what has none belongs to all of them."""
    arrays = {name: np.asarray(value) for name, value in batch.items()}
    n_rows = max((array.shape[0] for array in arrays.values() if array.ndim), default=1)
    for index in range(n_rows):
        yield {
            name: array if array.shape[:1] != (n_rows,) else _of_row(name, array, index)
            for name, array in arrays.items()
        }


def _of_row(name: str, array: Any, index: int) -> Any:
    return _plain(array[index]) if name == LABEL else array[index : index + 1]


def _item(given: Any) -> Item:
    """Inputs by name, and the label where there is one, of a pair, a mapping, a tensor or a tuple of them."""
    inputs, label = given, None
    if isinstance(given, tuple | list) and len(given) == 2:
        inputs, label = given
    if hasattr(inputs, "items"):
        row = {str(name): _plain(value) for name, value in inputs.items()}
    elif isinstance(inputs, tuple | list):
        row = {position(number): _plain(value) for number, value in enumerate(inputs)}
    else:
        row = {position(0): _plain(inputs)}
    return row if label is None else {**row, LABEL: _plain(label)}


def _plain(value: Any) -> Any:
    """A tensor as an array; a label of one number as that number."""
    if hasattr(value, "detach"):
        value = value.detach().cpu().numpy()
    return value.item() if hasattr(value, "item") and getattr(value, "ndim", 1) == 0 else value
