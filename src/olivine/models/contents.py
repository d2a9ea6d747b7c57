"""What the files of a delivered model hold, from their headers alone: which tensors take the room, in how many bits."""

import json
import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from olivine.errors import ModelError
from olivine.models.onnx_header import TYPES, OnnxHeader
from olivine.models.safetensors_header import DTYPES, read_safetensors_header

_LAYER = re.compile(r"(?<=[./])\d+(?=[./])")  # the number of a layer in a tensor's name
# onnxruntime-genai names packed weights after their bits; GPTQ and AWQ pack into 32-bit words
_PACKED = re.compile(r"(?:_Q|weight_quantized_|_quant_)(\d)(?:bit|$|\b)")
_WORDS = (".qweight", ".qzeros")


@dataclass(frozen=True)
class Tensors:
    """Tensors that differ only in the number of their layer, which stands as `*` in the name.

    dtype: as it is stored. bits: of one weight, where packed ones say so. n_bytes: of all of them together.
    """

    name: str
    dtype: str
    bits: int
    n_bytes: int
    n: int = 1

    def to_json(self) -> dict[str, Any]:
        """JSON values only."""
        return asdict(self)


def contents(folder: Path) -> list[Tensors]:
    """Every kind of tensor in the files of a model folder, the largest first, without files that cannot be read."""
    groups: dict[tuple[str, str, int], Tensors] = {}
    for one in _stored(folder):
        key = (_LAYER.sub("*", one.name), one.dtype, one.bits)
        before = groups.get(key, replace(one, name=key[0], n_bytes=0, n=0))
        groups[key] = replace(before, n_bytes=before.n_bytes + one.n_bytes, n=before.n + 1)
    return sorted(groups.values(), key=lambda group: -group.n_bytes)


def _stored(folder: Path) -> Iterator[Tensors]:
    if not folder.is_dir():
        return
    for path in sorted(folder.glob("*.onnx")):
        yield from _readable(_of_onnx(path))
    word_bits = _word_bits(folder)
    for path in sorted(folder.glob("*.safetensors")):
        yield from _readable(_of_safetensors(path, word_bits))


def _readable(tensors: Iterator[Tensors]) -> Iterable[Tensors]:
    try:
        return list(tensors)
    except (ModelError, OSError):
        return []


def _of_onnx(path: Path) -> Iterator[Tensors]:
    widths = dict(TYPES.values())
    for tensor in OnnxHeader.read(path).tensors:
        packed = _PACKED.search(tensor.name) if tensor.dtype == "uint8" else None
        yield Tensors(tensor.name, tensor.dtype, int(packed[1]) if packed else widths[tensor.dtype], tensor.n_bytes)


def _of_safetensors(path: Path, word_bits: int) -> Iterator[Tensors]:
    for name, entry in read_safetensors_header(path).items():
        start, stop = entry["data_offsets"]
        dtype, n_elements = DTYPES[entry["dtype"]], math.prod(entry["shape"])
        bits = word_bits if word_bits and name.endswith(_WORDS) else 8 * (stop - start) // max(1, n_elements)
        yield Tensors(name, dtype, bits, stop - start)


def _word_bits(folder: Path) -> int:
    """Bits of a weight of a quantized checkpoint, as its config says; 0 where it is none."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        return int(config["quantization_config"]["bits"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return 0
