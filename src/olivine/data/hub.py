"""Data sets of the Hugging Face hub, and files by address, through `datasets`, which keeps them in its own cache."""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from olivine import lazy
from olivine.config.schema import LoadDataset, Resource
from olivine.errors import DataError, Unsupported
from olivine.paths import hub_cache, hub_home, is_folder

if TYPE_CHECKING:
    import datasets
else:
    datasets = lazy.module("datasets")


_BATCH = 1000  # rows hashed together
_COMMIT = re.compile(r"[0-9a-f]{40}")


def is_commit(revision: str | None) -> bool:
    """Whether a revision names the same rows for ever; a branch or tag may move on."""
    return revision is not None and _COMMIT.fullmatch(revision) is not None


def load(settings: LoadDataset) -> Any:
    """The data set, rows read when they are asked for.

    No code of a data set is ever run. Raises DataError with the reason of `datasets` when it cannot be had.
    """
    if isinstance(settings.data_files, Resource):
        raise Unsupported(f"data of type '{settings.data_files.type}' is not here yet; 'olivine run' brings it")
    try:
        return datasets.load_dataset(
            settings.data_name,
            settings.subset,
            data_dir=settings.data_dir,
            data_files=settings.data_files,
            split=settings.split,
            revision=settings.revision,
            **_options(settings),
        )
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        reason = str(error).partition("\n")[0]
        raise DataError(f"the data set '{settings.data_name}' cannot be loaded: {reason}") from error


def _options(settings: LoadDataset) -> dict[str, str]:
    """How files by address are read, as the builders of `datasets` take it."""
    keys = {"csv": ("sep", "encoding"), "json": ("encoding",), "text": ("encoding",)}.get(settings.data_name, ())
    return {key: value for key in keys if (value := getattr(settings, key)) is not None}


def content(rows: Any) -> str:
    """A hash of the columns and rows of a data set, whatever name and place they came from."""
    import pyarrow as pa
    from blake3 import blake3

    hasher = blake3()
    for table in rows.with_format("arrow").iter(batch_size=_BATCH):
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, table.schema) as stream:
            stream.write_table(table.combine_chunks())
        hasher.update(memoryview(sink.getvalue()))
    return str(hasher.hexdigest())


def undecoded(rows: Any) -> Any:
    """The data set with sounds and images as the bytes and paths that it holds: who needs them decodes them."""
    features = getattr(rows, "features", None) or {}
    for name, feature in features.items():
        if type(feature).__name__ in ("Audio", "Image"):
            rows = rows.cast_column(name, type(feature)(decode=False))
    return rows


def label_names(rows: Any, column: str) -> list[str] | None:
    """What the numbers in a column are called; None where the data set does not say it."""
    names = getattr((getattr(rows, "features", None) or {}).get(column), "names", None)
    return list(names) if names else None


def is_offline(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether `datasets` would refuse to use the network."""
    word = environment.get("HF_DATASETS_OFFLINE") or environment.get("HF_HUB_OFFLINE") or ""
    return word.upper() in ("1", "ON", "YES", "TRUE")


def is_cached(name: str, environment: Mapping[str, str] = os.environ) -> bool:
    """Whether something of the data set lies in a cache, so that it may load without the network."""
    datasets = environment.get("HF_DATASETS_CACHE", hub_home(environment) / "datasets")
    prepared = Path(datasets) / name.replace("/", "___").lower()
    fetched = hub_cache(environment) / f"datasets--{name.replace('/', '--')}"
    return is_folder(prepared) or is_folder(fetched)
