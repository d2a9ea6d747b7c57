"""Blocks of GGUF files that are codes and scales without an offset: Q4_0 and Q8_0 of llama.cpp."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from olivine import lazy
from olivine.models.blockwise import Blockwise, Format, StoredBlocks
from olivine.models.gguf_header import TYPES, GgufTensor

if TYPE_CHECKING:
    import numpy as np
    import torch
else:
    np, torch = lazy.module("numpy"), lazy.module("torch")

GROUP = 32


def gguf_blockwise(file: Path, tensor: GgufTensor, processor: Any) -> StoredBlocks | None:
    """Reads a tensor's blocks as they are; None for the types that are not codes times a scale.

    processor: transformers' table of what llama.cpp's converter did to a model's layout; only a change of the order
    of rows leaves blocks whole.
    """
    unpack = {"Q4_0": _q4_0, "Q8_0": _q8_0}.get(TYPES[tensor.type_number][0])
    if unpack is None or len(tensor.shape) != 2 or not _keeps_rows(tensor, processor):
        return None

    def blockwise() -> Blockwise:
        raw = np.fromfile(file, dtype=np.uint8, count=tensor.n_bytes, offset=tensor.offset)
        blocks = unpack(raw.reshape(tensor.shape[0], tensor.shape[1] // GROUP, -1))
        order = torch.from_numpy(_rows(tensor, processor).ravel())
        return Blockwise(blocks.bits, GROUP, blocks.codes[order], blocks.scales[order])

    return StoredBlocks(blockwise, lambda: Format(4 if unpack is _q4_0 else 8, GROUP), half_scales=True)


def _rows(tensor: GgufTensor, processor: Any) -> Any:
    """The number of each row of the file in the order of the Hugging Face model, [N, 1]."""
    numbers = np.arange(tensor.shape[0]).reshape(-1, 1)
    return processor.process(weights=numbers, name=tensor.name, tensor_key_mapping={}, parsed_parameters={}).weights


def _keeps_rows(tensor: GgufTensor, processor: Any) -> bool:
    rows = _rows(tensor, processor)
    return rows.shape == (tensor.shape[0], 1) and np.array_equal(np.sort(rows.ravel()), np.arange(tensor.shape[0]))


def _q4_0(blocks: "np.ndarray[Any, Any]") -> Blockwise:
    """A float16 scale and 16 bytes: value j in the low half of byte j, value j + 16 in its high half; 8 is zero."""
    n_rows = blocks.shape[0]
    halves = blocks[..., 2:]
    codes = np.concatenate([halves & 15, halves >> 4], axis=-1)
    return Blockwise(4, GROUP, torch.from_numpy(codes.reshape(n_rows, -1)), _scales(blocks))


def _q8_0(blocks: "np.ndarray[Any, Any]") -> Blockwise:
    """A float16 scale and 32 signed bytes; with 128 added, the middle code is zero."""
    n_rows = blocks.shape[0]
    codes = blocks[..., 2:] ^ np.uint8(128)
    return Blockwise(8, GROUP, torch.from_numpy(codes.reshape(n_rows, -1)), _scales(blocks))


def _scales(blocks: "np.ndarray[Any, Any]") -> "torch.Tensor":
    stored = np.ascontiguousarray(blocks[..., :2]).view("<f2")[..., 0]
    return torch.from_numpy(stored.astype(np.float32))
