"""Weights by name, computed when read: of safetensors, of a GGUF file, of an adapter merged into its base.

`weights(model)` never loads a model. Each tensor is read on its own, and what wraps a mapping (a merge, a cast) wraps
its tensors: the peak memory of whoever walks through it is a few tensors.
"""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from olivine import lazy
from olivine.errors import ModelError, Unsupported
from olivine.models._model import Model
from olivine.models.blockwise import Blockwise
from olivine.models.config import load_config
from olivine.models.gguf_header import GgufHeader, GgufTensor
from olivine.models.safetensors_header import DTYPES, data_start, read_safetensors_header
from olivine.models.weight_files import safetensors_files

if TYPE_CHECKING:
    import numpy as np
    import torch
else:
    np, torch = lazy.module("numpy"), lazy.module("torch")


# A checkpoint of the model without its head has names without the prefix.
_BARE, _PREFIX, _HEADS = "embed_tokens.weight", "model.", ("lm_head.", "model.")


@dataclass(frozen=True)
class LazyTensor:
    """A tensor that is computed when read. dtype: torch's name of it, e.g. "bfloat16".

    read_rows: computes the rows [start, stop) alone, where that is cheaper than the whole. blockwise: computes the
    codes and scales of a tensor that is stored quantized in a form that operators know; `read` then dequantizes.
    announce: tells the system that the rows [start, stop) will be read soon, so that the disk is busy meanwhile.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    read: Callable[[], "torch.Tensor"]
    read_rows: Callable[[int, int], "torch.Tensor"] | None = None
    blockwise: Callable[[], Blockwise] | None = None
    announce: Callable[[int, int], None] | None = None

    def rows(self, start: int, stop: int) -> "torch.Tensor":
        """The rows [start, stop)."""
        return self.read()[start:stop] if self.read_rows is None else self.read_rows(start, stop)


Weights = Mapping[str, LazyTensor]


def weights(model: Model) -> Weights:
    """Every tensor of a checkpoint by its name in the Hugging Face state dict; nothing is read yet."""
    if model.format == "gguf":
        raise Unsupported(f"{model.path}: a GGUF file is read through the pass 'gguf', which knows its config")
    if model.format != "hf":
        raise Unsupported(f"a model of format {model.format} has no full weights by name")
    if model.base is None:
        return checkpoint_weights(model.path)
    if model.base.format == "gguf":
        return gguf_weights(model.base.path, model.path)
    from olivine.models.adapter import merged_weights

    return merged_weights(model.base, into_trained_base=model.attributes.get("merge_base") != "16-bit")


def checkpoint_weights(folder: Path) -> Weights:
    """The tensors of a folder by the names of the plain model; what is stored quantized has `blockwise`.

    Raises Unsupported, with its name, for a way of quantizing that is not read.
    """
    from olivine.models.quantized import checkpoint_format, unpacked

    kind = checkpoint_format(folder)
    return _full_names(unpacked(folder, kind, safetensors_weights(folder)))


def _full_names(tensors: Weights) -> Weights:
    """The tensors of a bare model (`AutoModel`) by the names that they have in the causal one, as transformers does."""
    if _BARE not in tensors or f"{_PREFIX}{_BARE}" in tensors:
        return tensors
    renamed = {name if name.startswith(_HEADS) else f"{_PREFIX}{name}": tensor for name, tensor in tensors.items()}
    return {name: replace(tensor, name=name) for name, tensor in renamed.items()}


def refuse_quantized(folder: Path) -> None:
    """Raise Unsupported when the config says that the weights are packed in a way that is not read."""
    from olivine.models.quantized import checkpoint_format

    checkpoint_format(folder)


def safetensors_weights(folder: Path) -> Weights:
    """The tensors of a folder's safetensors files, through the index when there is one."""
    found: dict[str, LazyTensor] = {}
    for file in safetensors_files(folder):
        found |= file_weights(file)
    return found


def file_weights(file: Path) -> Weights:
    """The tensors of one safetensors file."""
    header, first = read_safetensors_header(file), data_start(file)
    found: dict[str, LazyTensor] = {}
    for name, entry in header.items():
        dtype = DTYPES[entry["dtype"]]
        start, stop = entry["data_offsets"]
        place = _Place(file, name, tuple(entry["shape"]), dtype, first + start, stop - start)
        rows = (place.rows, place.announce) if len(place.shape) > 1 else (None, None)
        found[name] = LazyTensor(name, place.shape, dtype, place.read, rows[0], announce=rows[1])
    return found


@dataclass(frozen=True)
class _Place:
    """Where a tensor lies in a file. It is read, not mapped: pages of a mapping would count as resident memory."""

    file: Path
    name: str
    shape: tuple[int, ...]
    dtype: str
    offset: int
    n_bytes: int

    def read(self) -> "torch.Tensor":
        """The whole tensor."""
        return self._read(0, self.n_bytes, self.shape)

    def rows(self, start: int, stop: int) -> "torch.Tensor":
        """The rows [start, stop)."""
        row = self.n_bytes // self.shape[0]
        return self._read(start * row, (stop - start) * row, (stop - start, *self.shape[1:]))

    def announce(self, start: int, stop: int) -> None:
        """Let the system read the rows [start, stop) into its cache; returns at once."""
        row = self.n_bytes // self.shape[0]
        _read_ahead(self.file, self.offset + start * row, (stop - start) * row)

    def _read(self, offset: int, n_bytes: int, shape: tuple[int, ...]) -> "torch.Tensor":
        if n_bytes == 0:
            return torch.empty(shape, dtype=getattr(torch, self.dtype))
        raw = np.fromfile(self.file, np.uint8, n_bytes, offset=self.offset + offset)
        if len(raw) != n_bytes:
            raise ModelError(f"{self.file} ended while '{self.name}' was read; was it replaced?")
        return torch.from_numpy(raw).view(getattr(torch, self.dtype)).view(shape)


def announce(model: Model, limit_bytes: int) -> None:
    """Let the system read the model's safetensors files into its cache while other work is done; returns at once.

    limit_bytes: no more than that, so that the cache holds it until it is read.
    """
    if model.base is not None:
        announce(model.base, limit_bytes)
        return
    for file in safetensors_files(model.path) if model.format == "hf" else []:
        size = min(file.stat().st_size, limit_bytes)
        limit_bytes -= size
        if size > 0:
            _read_ahead(file, 0, size)


def _read_ahead(file: Path, offset: int, n_bytes: int) -> None:
    if not hasattr(os, "posix_fadvise"):  # Windows and macOS read ahead as they think fit
        return
    with file.open("rb") as stream:
        os.posix_fadvise(stream.fileno(), offset, n_bytes, os.POSIX_FADV_WILLNEED)


def gguf_weights(file: Path, config_folder: Path) -> Weights:
    """The tensors of a GGUF file under their Hugging Face names, dequantized to float32 when read.

    The names and the layout changes of llama.cpp's converter are undone with transformers' own tables.
    """
    from olivine.models.quantized.gguf import gguf_blockwise

    header = GgufHeader.read(file)
    config, hf_names, processor = _gguf_names(config_folder)
    found: dict[str, LazyTensor] = {}
    for tensor in header.tensors.values():
        name = hf_names.get(tensor.name)
        if name is not None:
            blockwise = gguf_blockwise(file, tensor, processor)
            read = _gguf_reader(file, tensor, processor)
            found[name] = LazyTensor(name, tensor.shape, "float32", read, blockwise=blockwise)
    missing = sorted(
        set(hf_names.values()) - set(found) - ({"lm_head.weight"} if config.tie_word_embeddings else set())
    )
    if missing:
        raise ModelError(f"{file} lacks the weights {', '.join(missing[:5])}")
    return found


def _gguf_names(config_folder: Path) -> tuple[Any, dict[str, str], Any]:
    from transformers import AutoModelForCausalLM
    from transformers.modeling_gguf_pytorch_utils import TENSOR_PROCESSORS, TensorProcessor, get_gguf_hf_weights_map

    config = load_config(config_folder)
    processor = TENSOR_PROCESSORS.get(config.model_type, TensorProcessor)(config=config.to_dict())
    with torch.device("meta"):
        skeleton = AutoModelForCausalLM.from_config(config)
    return config, get_gguf_hf_weights_map(_Flat(config, skeleton.state_dict()), processor), processor


@dataclass(frozen=True)
class _Flat:
    """A model without submodules: transformers builds llama.cpp's table of names anew for each one, which is slow."""

    config: Any
    tensors: Mapping[str, Any]

    def state_dict(self) -> Mapping[str, Any]:
        """Every tensor by its full name."""
        return self.tensors

    def named_children(self) -> tuple[()]:
        """None."""
        return ()


def _gguf_reader(file: Path, tensor: GgufTensor, processor: Any) -> Callable[[], "torch.Tensor"]:
    def read() -> "torch.Tensor":
        from gguf import GGMLQuantizationType, dequantize

        raw = np.fromfile(file, dtype=np.uint8, count=tensor.n_bytes, offset=tensor.offset)
        kind = GGMLQuantizationType(tensor.type_number)
        values = dequantize(raw, kind).reshape(tensor.shape)
        values = processor.process(
            weights=values, name=tensor.name, tensor_key_mapping={}, parsed_parameters={}
        ).weights
        return torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32))

    return read
