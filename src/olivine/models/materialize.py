"""Write a model whose weights are computed into a folder of its own, tensor by tensor."""

import json
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from olivine import lazy
from olivine.errors import OlivineError
from olivine.models._model import Model
from olivine.models.companions import COMPANIONS
from olivine.models.quantized import plain_config, quantization_config
from olivine.models.safetensors_header import DTYPES
from olivine.models.tensors import LazyTensor, n_bytes, one_by_one
from olivine.models.weights import weights

if TYPE_CHECKING:
    import torch
else:
    torch = lazy.module("torch")

MAX_SHARD_BYTES = 4 * 2**30
_CODES = {name: code for code, name in DTYPES.items()}


def copy_companions(source: Path, target: Path) -> None:
    """Copy config, tokenizer and templates that exist in `source`, and the Python that its config refers to.

    The config comes without `quantization_config`: what is made of the source's weights is no longer packed its way.
    """
    for name in COMPANIONS:
        if (source / name).is_file():
            shutil.copyfile(source / name, target / name)
    config = json.loads((source / "config.json").read_text(encoding="utf-8"))
    if plain_config(config) != config:
        text = json.dumps(plain_config(config), indent=2) + "\n"
        (target / "config.json").write_text(text, encoding="utf-8")
    if config.get("auto_map"):
        for file in source.glob("*.py"):
            shutil.copyfile(file, target / file.name)


def materialize(model: Model, folder: Path, *, max_shard_bytes: int = MAX_SHARD_BYTES) -> Model:
    """Stream every tensor into safetensors shards in `folder`, beside config and tokenizer; gives the model there.

    The header of a shard is written first, from shapes and types alone; then one tensor is alive at a time. The bytes
    are on the disk when this returns. OSError (a full disk) passes; the caller owns `folder` and removes it.

    What a quantized base holds packed is computed in float32; it is stored in the type that its config names.
    max_shard_bytes: of the tensors in one file, unless a single one is larger.
    """
    copy_companions(model.path, folder)
    dtype = _type_of_packed(model)
    tensors = [_stored_as(tensor, dtype) if dtype else tensor for tensor in weights(model).values()]
    write_weights(tensors, folder, max_shard_bytes)
    return Model("hf", folder, task=model.task, trust_remote_code=model.trust_remote_code, attributes=model.attributes)


def write_weights(tensors: Sequence[LazyTensor], folder: Path, max_shard_bytes: int = MAX_SHARD_BYTES) -> None:
    """Write tensors as the safetensors files of a checkpoint, one after another; their bytes are on the disk then."""
    shards = list(_shards(tensors, max_shard_bytes))
    names = [_shard_name(index, len(shards)) for index in range(len(shards))]
    coming = one_by_one({tensor.name: tensor for tensor in tensors})
    for name, shard in zip(names, shards, strict=True):
        _write(folder / name, shard, coming)
    next(coming, None)  # the last one is read too
    if len(shards) > 1:
        _write_index(folder, names, shards)


def _type_of_packed(model: Model) -> str | None:
    """The 16-bit type of a model whose weights come out of a quantized folder; None for every other."""
    while model.base is not None:
        model = model.base
    if model.format != "hf" or quantization_config(model.path) is None:
        return None
    config = json.loads((model.path / "config.json").read_text(encoding="utf-8"))
    dtype = str(config.get("dtype") or config.get("torch_dtype") or "")
    return dtype if dtype in ("float16", "bfloat16") else None


def _stored_as(tensor: LazyTensor, dtype: str) -> LazyTensor:
    return replace(tensor, dtype=dtype) if tensor.dtype == "float32" and len(tensor.shape) == 2 else tensor


def _shards(tensors: Sequence[LazyTensor], max_bytes: int) -> Iterator[list[LazyTensor]]:
    shard: list[LazyTensor] = []
    size = 0
    for tensor in tensors:
        if shard and size + n_bytes(tensor) > max_bytes:
            yield shard
            shard, size = [], 0
        shard.append(tensor)
        size += n_bytes(tensor)
    yield shard


def _shard_name(index: int, n_shards: int) -> str:
    return "model.safetensors" if n_shards == 1 else f"model-{index + 1:05d}-of-{n_shards:05d}.safetensors"


def _write(path: Path, tensors: Sequence[LazyTensor], coming: Iterator[tuple[str, LazyTensor]]) -> None:
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for tensor in tensors:
        end = offset + n_bytes(tensor)
        header[tensor.name] = {
            "dtype": _CODES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [offset, end],
        }
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the data begins aligned
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for _, tensor in islice(coming, len(tensors)):
            _write_tensor(file, tensor)
        file.flush()
        os.fsync(file.fileno())


def _write_tensor(file: BinaryIO, tensor: LazyTensor) -> None:
    computed = tensor.read()
    values = computed.to(getattr(torch, tensor.dtype)).contiguous()
    if values.dtype != computed.dtype and values.is_floating_point() and not torch.isfinite(values).all():
        raise OlivineError(f"'{tensor.name}' holds values that {tensor.dtype} cannot: they would become infinite")
    file.write(memoryview(values.flatten().view(torch.uint8).numpy()))


def _write_index(folder: Path, names: Sequence[str], shards: Sequence[Sequence[LazyTensor]]) -> None:
    index = {
        "metadata": {"total_size": sum(n_bytes(tensor) for shard in shards for tensor in shard)},
        "weight_map": {tensor.name: name for name, shard in zip(names, shards, strict=True) for tensor in shard},
    }
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
