"""Which code of third parties a data config names."""

import importlib
import inspect
from collections.abc import Iterator
from pathlib import Path

from olivine.config.schema import DataConfig
from olivine.data._files import locate
from olivine.data.forms import kind_of
from olivine.data.sources import sources
from olivine.data.strategies import strategy_of
from olivine.errors import DataError, Problem, sentence


def plugin_modules(config: DataConfig) -> list[str]:
    """The modules of third parties that decide what rows become: part of what a result depends on."""
    try:
        settings = config.pre_process_data_config
        kinds: list[type] = [kind_of(settings), strategy_of(settings), *_sources(config)]
    except DataError:  # `check` says what is wrong
        return []
    return [kind.__module__ for kind in kinds if kind.__module__.partition(".")[0] != "olivine"]


def _sources(config: DataConfig) -> list[type]:
    local = locate(config)
    files = [file for split in local.splits.values() for file in split] if local is not None else []
    return [sources[kind] for kind in sorted({file.kind for file in files})]


def plugin_files(config: DataConfig) -> list[Path]:
    """The files of those modules."""
    names = (inspect.getsourcefile(importlib.import_module(name)) for name in plugin_modules(config))
    return [Path(name) for name in names if name is not None]


def check_names(config: DataConfig) -> Iterator[Problem]:
    """Names of plugins that there are not; the key of a problem leads to the name."""
    settings = config.pre_process_data_config
    for key, find in (("form", kind_of), ("strategy", strategy_of)):
        try:
            find(settings)
        except DataError as error:
            yield Problem("invalid-value", "", sentence(error), key=("pre_process_data_config", key))
