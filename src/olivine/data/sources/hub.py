"""Data sets of the Hugging Face hub, and files by address, through `datasets`, which keeps them in its own cache."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from olivine import lazy
from olivine.config.schema import LoadDataset, Resource
from olivine.errors import DataError, Unsupported

if TYPE_CHECKING:
    import datasets
else:
    datasets = lazy.module("datasets")


def load(settings: LoadDataset) -> Any:
    """The data set, rows read when they are asked for.

    No code of a data set is ever run. Raises DataError with the reason of `datasets` when it cannot be had.
    """
    if isinstance(settings.data_files, Resource):
        raise Unsupported(f"data of type '{settings.data_files.type}' is not fetched; download it and name the file")
    try:
        return datasets.load_dataset(
            settings.data_name,
            settings.subset,
            data_dir=settings.data_dir,
            data_files=settings.data_files,
            split=settings.split,
            revision=settings.revision,
        )
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        reason = str(error).partition("\n")[0]
        raise DataError(f"the data set '{settings.data_name}' cannot be loaded: {reason}") from error


def is_offline(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether `datasets` would refuse to use the network."""
    word = environment.get("HF_DATASETS_OFFLINE") or environment.get("HF_HUB_OFFLINE") or ""
    return word.upper() in ("1", "ON", "YES", "TRUE")


def is_cached(name: str, environment: Mapping[str, str] = os.environ) -> bool:
    """Whether something of the data set lies in a cache, so that it may load without the network."""
    home = Path(environment.get("HF_HOME") or Path.home() / ".cache" / "huggingface").expanduser()
    prepared = Path(environment.get("HF_DATASETS_CACHE") or home / "datasets") / name.replace("/", "___").lower()
    fetched = Path(environment.get("HF_HUB_CACHE") or home / "hub") / f"datasets--{name.replace('/', '--')}"
    return prepared.is_dir() or fetched.is_dir()
