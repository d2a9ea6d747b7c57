"""Which code of third parties a data config names."""

import importlib
import inspect
from pathlib import Path

from olivine.config.schema import DataConfig
from olivine.data.forms import kind_of
from olivine.errors import DataError


def plugin_modules(config: DataConfig) -> list[str]:
    """The modules of third parties that decide the text of the rows: part of what the text depends on."""
    try:
        kinds: list[type] = [kind_of(config.pre_process_data_config)]
    except DataError:  # `check` says what is wrong
        return []
    return [kind.__module__ for kind in kinds if kind.__module__.partition(".")[0] != "olivine"]


def plugin_files(config: DataConfig) -> list[Path]:
    """The files of those modules."""
    names = (inspect.getsourcefile(importlib.import_module(name)) for name in plugin_modules(config))
    return [Path(name) for name in names if name is not None]
