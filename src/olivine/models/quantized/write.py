"""Write a quantized checkpoint: compressed-tensors' `pack-quantized`, which transformers loads and we read."""

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, BinaryIO, Literal, Self

from olivine import lazy
from olivine.errors import ModelError
from olivine.models._model import Model
from olivine.models.blockwise import GROUPS, WHOLE_ROW, Blockwise
from olivine.models.materialize import MAX_SHARD_BYTES, copy_companions
from olivine.models.quantized.formats.compressed_tensors import FORMAT, METHOD, is_embedding
from olivine.models.quantized.words import pack_words
from olivine.models.safetensors_header import DTYPES
from olivine.models.tensors import LazyTensor, Weights, one_by_one

if TYPE_CHECKING:
    import torch
else:
    torch = lazy.module("torch")

ScaleType = Literal["float32", "float16", "bfloat16"]
_CODES = {name: code for code, name in DTYPES.items()}
_HEAD = "lm_head"
# What a tensor takes in a shard's header beside its name: ending, type, shape and offsets, at their longest.
_LINE_BYTES = 160


def write_quantized(
    model: Model,
    folder: Path,
    tensors: Weights,
    *,
    scale_dtype: ScaleType = "float32",
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> Model:
    """Stream a checkpoint into `folder`, beside config and tokenizer of `model`; gives the model there.

    tensors: by the names of the plain model. What has `blockwise` is packed, with exactly its codes and zero points;
    what has not is read and stored in its own type. Each is computed once, and one is alive at a time. scale_dtype: of
    the scales; float32 keeps them as they are. max_shard_bytes: as of `materialize`.

    config.json comes after the weights; when anything fails, whatever was written of the two is removed.
    Raises ModelError when nothing is quantized or a scale is no number. OSError (a full disk) passes; the caller owns
    `folder`.
    """
    with _Shards(folder, _room(tensors), max_shard_bytes) as shards:
        formats = dict(_written(shards, tensors, getattr(torch, scale_dtype)))
        if not formats:
            raise ModelError(f"no weight of {model.path} is quantized, so there is no quantized checkpoint to write")
        shards.finish()
        copy_companions(model.path, folder)
        path = folder / "config.json"
        config = json.loads(path.read_text(encoding="utf-8"))
        config["quantization_config"] = _described(formats, tensors)
        _write_text(path, config)
    return Model("hf", folder, task=model.task, trust_remote_code=model.trust_remote_code, attributes=model.attributes)


Scheme = tuple[int, int, bool]


def _described(formats: Mapping[str, Scheme], tensors: Weights) -> dict[str, Any]:
    """What config.json says: bits, group size and symmetry of each module.

    formats: of each quantized module. The most common scheme is that of every other linear layer; the modules of the
    rest go by name. `ignore` names the linear layers that are not quantized, the head that is its embedding among them.
    """
    schemes: dict[Scheme, list[str]] = {}
    for module, scheme in formats.items():
        schemes.setdefault(scheme, []).append(module)
    ranked = sorted(schemes.items(), key=lambda item: -len(item[1]))
    groups = {
        f"group_{index}": _config_group(scheme, _targets(modules, usual=index == 0))
        for index, (scheme, modules) in enumerate(ranked)
    }
    linear = [
        name.removesuffix(".weight")
        for name, tensor in tensors.items()
        if name.endswith(".weight") and len(tensor.shape) == 2
    ]
    plain = [module for module in (*linear, _HEAD) if module not in formats and not is_embedding(module)]
    return {
        "quant_method": METHOD,
        "format": FORMAT,
        "quantization_status": "compressed",
        "config_groups": groups,
        "ignore": list(dict.fromkeys(plain)),
    }


def _targets(modules: list[str], *, usual: bool) -> list[str]:
    if not usual:
        return modules
    embeddings = [module for module in modules if is_embedding(module)]
    return embeddings if embeddings == modules else ["Linear", *embeddings]


def _config_group(scheme: Scheme, targets: list[str]) -> dict[str, Any]:
    bits, group, symmetric = scheme
    strategy = {"strategy": "channel"} if group == WHOLE_ROW else {"strategy": "group", "group_size": group}
    weights = {"num_bits": bits, "type": "int", **strategy, "symmetric": symmetric}
    return {"targets": targets, "format": FORMAT, "weights": {**weights, "dynamic": False}}


def _written(shards: "_Shards", tensors: Weights, scale_dtype: "torch.dtype") -> Iterator[tuple[str, Scheme]]:
    """Write every tensor; gives the scheme of each module that is quantized."""
    for name, tensor in one_by_one(tensors):
        if tensor.blockwise is None:
            shards.add(name, tensor.read().to(getattr(torch, tensor.dtype)))
            continue
        module = name.removesuffix(".weight")
        stored = tensor.blockwise()
        _refuse_misfit(tensor, stored)
        for leaf, part in _parts(stored, scale_dtype):
            shards.add(f"{module}.{leaf}", part)
        group = stored.group if stored.group in GROUPS else WHOLE_ROW
        yield module, (stored.bits, group, stored.symmetric)


def _refuse_misfit(tensor: LazyTensor, stored: Blockwise) -> None:
    if tuple(stored.codes.shape) != tensor.shape:
        raise ModelError(f"'{tensor.name}' is {list(tensor.shape)}, but was quantized to {list(stored.codes.shape)}")
    if not bool(torch.isfinite(stored.scales).all()):
        raise ModelError(f"'{tensor.name}' was quantized with a scale that is NaN or infinite")


def _parts(stored: Blockwise, scale_dtype: "torch.dtype") -> "Iterator[tuple[str, torch.Tensor]]":
    """The tensors that compressed-tensors makes of a weight."""
    yield "weight_packed", pack_words(stored.codes, stored.bits)
    yield "weight_scale", stored.scales.to(scale_dtype)
    yield "weight_shape", torch.tensor(stored.codes.shape, dtype=torch.int64)
    if stored.zero_points is not None:  # packed along the outputs
        yield "weight_zero_point", pack_words(stored.zero_points.T.contiguous(), stored.bits).T


def _room(tensors: Weights) -> int:
    """Bytes that a header of all tensors takes at most, of a quantized one four."""
    return 64 + sum((len(name) + _LINE_BYTES) * (4 if tensor.blockwise else 1) for name, tensor in tensors.items())


class _Shards:
    """safetensors files whose tensors come one by one: the data goes first, into its place behind an empty header.

    A header may end in blanks, so room is kept for one and what is left of it stays blank. Nothing has its final name
    before `finish`; when the block ends in an error the files are removed.
    """

    def __init__(self, folder: Path, room: int, max_bytes: int) -> None:
        self._folder, self._max_bytes = folder, max_bytes
        self._room = -(-room // 8) * 8
        self._headers: list[dict[str, Any]] = []
        self._file: BinaryIO | None = None
        self._offset = 0
        self._final: list[Path] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            self._file.close()
        if kind is not None:
            partial = map(self._partial, range(len(self._headers)))
            others = (self._folder / name for name in ("model.safetensors.index.json", "config.json"))
            for file in (*partial, *self._final, *others):
                file.unlink(missing_ok=True)

    def add(self, name: str, tensor: "torch.Tensor") -> None:
        """Append a tensor to the shard that is being written, or begin the next one where it would grow too large."""
        values = tensor.detach().to("cpu").contiguous()
        data = memoryview(values.flatten().view(torch.uint8).numpy())
        file = self._file
        if file is None or (self._offset and self._offset + len(data) > self._max_bytes):
            file = self._next()
        self._headers[-1][name] = {
            "dtype": _CODES[str(values.dtype).removeprefix("torch.")],
            "shape": list(values.shape),
            "data_offsets": [self._offset, self._offset + len(data)],
        }
        file.write(data)
        self._offset += len(data)

    def _next(self) -> BinaryIO:
        """Close the shard that is being written and begin the next, with room for its header."""
        self._close()
        self._headers.append({})
        self._offset = 0
        self._file = self._partial(len(self._headers) - 1).open("wb")
        self._file.seek(8 + self._room)
        return self._file

    def _close(self) -> None:
        """Put the header of the shard that is being written into its place."""
        if self._file is None:
            return
        text = json.dumps({"__metadata__": {"format": "pt"}, **self._headers[-1]}, separators=(",", ":")).encode()
        self._file.seek(0)
        self._file.write(self._room.to_bytes(8, "little") + text.ljust(self._room))
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        self._file = None

    def finish(self) -> None:
        """Close the last shard, give all of them their names, and write the index when there is more than one."""
        self._close()
        n_shards = len(self._headers)
        file_of_tensor: dict[str, str] = {}
        for shard, header in enumerate(self._headers):
            name = "model.safetensors" if n_shards == 1 else f"model-{shard + 1:05d}-of-{n_shards:05d}.safetensors"
            self._final.append(self._folder / name)
            self._partial(shard).replace(self._final[-1])
            file_of_tensor |= dict.fromkeys(header, name)
        if n_shards > 1:
            ends = [max(line["data_offsets"][1] for line in header.values()) for header in self._headers]
            index = {"metadata": {"total_size": sum(ends)}, "weight_map": file_of_tensor}
            _write_text(self._folder / "model.safetensors.index.json", index)

    def _partial(self, shard: int) -> Path:
        return self._folder / f"weights-{shard + 1:05d}.partial"


def _write_text(path: Path, value: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
