"""Which files of a model folder hold its weights: those that transformers reads, or none where two sets could be meant.

transformers takes what config.json calls `transformers_weights`, else `model.safetensors`, else the files of
`model.safetensors.index.json`. A folder in which the second and the third both lie went through two saves: it is
refused, because whoever made it may mean the other one. Files that neither of them names (`consolidated.safetensors` of
Mistral, `model.fp16.safetensors`, shards of an older save, pickles) are left alone.
"""

import re
from pathlib import Path

from olivine.errors import ModelError
from olivine.models.json_files import is_file, read_object

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
ADAPTER_CONFIG = "adapter_config.json"
_SHARD = re.compile(r"model-\d{5}-of-\d{5}\.safetensors")


def safetensors_files(folder: Path) -> list[Path]:
    """The files that hold the weights of a folder; raises ModelError when one is missing or two sets could be meant."""
    names = _names(folder)
    for name in names:
        if not is_file(folder / name):
            raise ModelError(f"{folder} lacks the weights '{name}'{_hint(folder, name)}")
    return [folder / name for name in names]


def _names(folder: Path) -> list[str]:
    explicit = _named_by_config(folder)
    if explicit is not None:
        return shard_names(folder / explicit) if explicit.endswith(".index.json") else [explicit]
    if not is_file(folder / INDEX):
        return [SINGLE]
    shards = [name for name in shard_names(folder / INDEX) if name != SINGLE]
    if not is_file(folder / SINGLE):
        return shards or [SINGLE]
    there = [name for name in shards if is_file(folder / name)]
    if there:
        raise ModelError(
            f"{folder} holds two sets of weights: '{SINGLE}', which transformers reads, and '{there[0]}'"
            f"{f' and {len(there) - 1} more' if len(there) > 1 else ''} of '{INDEX}'; remove the set that is not meant"
        )
    return [SINGLE]


def _named_by_config(folder: Path) -> str | None:
    """The file that config.json names as that of the weights."""
    path = folder / "config.json"
    name = read_object(path).get("transformers_weights") if is_file(path) else None
    if name is None:
        return None
    ends = (".safetensors", ".safetensors.index.json")
    if not isinstance(name, str) or Path(name).name != name or not name.endswith(ends):
        raise ModelError(f"{path}: transformers_weights '{name}' is no safetensors file of this folder")
    return name


def shard_names(index: Path) -> list[str]:
    """The files that an index names, each once, in their order; ModelError when it does not hold."""
    files = read_object(index).get("weight_map")
    if not isinstance(files, dict) or not files:
        raise ModelError(f"{index} has no 'weight_map', which says the file of each tensor")
    for tensor, name in files.items():
        if not isinstance(name, str) or Path(name).name != name or "\0" in name:
            raise ModelError(f"{index}: tensor '{tensor}' lies in '{name}', which is no file of this folder")
    return sorted(set(files.values()))


def refuse_embedded_adapter(folder: Path) -> None:
    """Raise ModelError for a whole model with an adapter's files in its folder: transformers would put it on."""
    if is_file(folder / ADAPTER_CONFIG):
        raise ModelError(
            f"{folder} holds an adapter ('{ADAPTER_CONFIG}') beside a whole model, and transformers loads both; "
            "move the adapter into a folder of its own (and name that as adapter_path), or remove it"
        )


def _hint(folder: Path, name: str) -> str:
    """What lies there in place of the file that is missing."""
    if name != SINGLE:
        return ""
    others = sorted(file.name for file in folder.glob("*.safetensors"))
    if any(_SHARD.fullmatch(other) for other in others):
        return f": there are parts of a checkpoint ('{others[0]}'), but no '{INDEX}' that names them"
    if others:
        return f"; '{others[0]}' is not read: save the model with transformers' save_pretrained"
    return ""
