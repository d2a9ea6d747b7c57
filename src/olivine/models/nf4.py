"""4-bit floating-point storage of a frozen base: the types nf4 and fp4 with double quantization.

Dettmers et al. 2023, "QLoRA: Efficient Finetuning of Quantized LLMs", arXiv:2305.14314. Weights in blocks of 64 share
their largest magnitude; each is the nearest of 16 values between -1 and 1 times it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, Protocol

from olivine import lazy
from olivine.models.tensors import LazyTensor, Weights

if TYPE_CHECKING:
    import torch
else:
    torch = lazy.module("torch")

Kind = Literal["nf4", "fp4", "fp8"]
BLOCK = 64  # weights that share a magnitude
BLOCKS = 256  # magnitudes that share a scale when they are quantized as well

# nf4: quantiles of a normal distribution, with an exact zero (appendix E of the paper). fp4: sign, two bits of
# exponent, one of mantissa, divided by the largest.
TABLES: dict[str, tuple[float, ...]] = {
    "nf4": (
        -1.0,
        -0.6961928009986877,
        -0.5250730514526367,
        -0.39491748809814453,
        -0.28444138169288635,
        -0.18477343022823334,
        -0.09105003625154495,
        0.0,
        0.07958029955625534,
        0.16093020141124725,
        0.24611230194568634,
        0.33791524171829224,
        0.44070982933044434,
        0.5626170039176941,
        0.7229568362236023,
        1.0,
    ),
    "fp4": (
        -1.0,
        -2 / 3,
        -0.5,
        -1 / 3,
        -0.25,
        -1 / 6,
        -1 / 192,
        0.0,
        0.0,
        1 / 192,
        1 / 6,
        0.25,
        1 / 3,
        0.5,
        2 / 3,
        1.0,
    ),
}


class Shift(Protocol):
    """A matrix that is computed when read."""

    def read(self) -> "torch.Tensor":
        """The matrix, float32, of the shape of the weight that it is taken from."""


@dataclass(frozen=True)
class Rounding:
    """How a base is stored while an adapter is trained on it. double: magnitudes of 4 bits are stored in 8 bits."""

    kind: Kind = "nf4"
    double: bool = True

    @property
    def n_bits(self) -> int:
        """Of a weight, its share of the scales aside."""
        return 8 if self.kind == "fp8" else 4

    def to_json(self) -> dict[str, Any]:
        """JSON values, which a model's attributes hold."""
        return {"kind": self.kind, "double": self.double}

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> "Rounding":
        """The rounding that `to_json` described."""
        return cls(record["kind"], record["double"])


@dataclass(frozen=True)
class Packed:
    """A tensor in 4 bits. codes: uint8, two a byte, the first in the low half. magnitudes: float32, one a block.

    With double quantization magnitudes are int8, and magnitude i is magnitudes[i] * scales[i // 256] + offset.
    """

    codes: "torch.Tensor"
    magnitudes: "torch.Tensor"
    table: "torch.Tensor"
    scales: "torch.Tensor | None" = None
    offset: "torch.Tensor | None" = None


def pack(weight: "torch.Tensor", rounding: Rounding) -> Packed:
    """Round a tensor of any shape, in the order of its memory; ValueError when a weight is NaN or infinite."""
    flat = weight.detach().float().reshape(-1)
    if not bool(torch.isfinite(flat).all()):
        raise ValueError("the weight holds NaN or infinite values")
    flat = torch.nn.functional.pad(flat, (0, -len(flat) % BLOCK))
    blocks = flat.view(-1, BLOCK)
    magnitudes = blocks.abs().amax(dim=1)
    table = torch.tensor(TABLES[rounding.kind], device=flat.device)
    middles = (table[1:] + table[:-1]) / 2
    codes = torch.bucketize(blocks / magnitudes.clamp(min=1e-30).unsqueeze(1), middles).to(torch.uint8).view(-1)
    packed = codes[::2] | (codes[1::2] << 4)
    if not rounding.double:
        return Packed(packed, magnitudes, table)
    offset = magnitudes.mean()
    padded = torch.nn.functional.pad(magnitudes - offset, (0, -len(magnitudes) % BLOCKS)).view(-1, BLOCKS)
    scales = padded.abs().amax(dim=1) / 127
    small = torch.round(padded / scales.clamp(min=1e-30).unsqueeze(1)).to(torch.int8).view(-1)[: len(magnitudes)]
    return Packed(packed, small.contiguous(), table, scales, offset)


def unpack(packed: Packed, shape: tuple[int, ...], dtype: "torch.dtype") -> "torch.Tensor":
    """The tensor again, in `dtype`."""
    codes = torch.stack([packed.codes & 15, packed.codes >> 4], dim=1).view(-1, BLOCK)
    values = packed.table[codes.int()] * magnitudes_of(packed).unsqueeze(1)
    n_weights = 1
    for size in shape:
        n_weights *= size
    return values.view(-1)[:n_weights].view(shape).to(dtype)


def magnitudes_of(packed: Packed) -> "torch.Tensor":
    """The magnitude of each block, float32."""
    if packed.scales is None or packed.offset is None:
        return packed.magnitudes
    scales = packed.scales.repeat_interleave(BLOCKS)[: len(packed.magnitudes)]
    return packed.magnitudes.float() * scales + packed.offset


def rounded(weight: "torch.Tensor", rounding: Rounding) -> "torch.Tensor":
    """What a weight is once it has been stored in 4 or 8 bits, in its own type."""
    if rounding.kind == "fp8":
        codes, scales = float8_rows(weight)
        return (codes.float() * scales).to(weight.dtype)
    return unpack(pack(weight, rounding), tuple(weight.shape), weight.dtype)


FLOAT8_LARGEST = 448.0  # of e4m3: four bits of exponent, three of mantissa


def float8_rows(weight: "torch.Tensor") -> "tuple[torch.Tensor, torch.Tensor]":
    """The rows of a matrix in 8-bit floats (e4m3) [n_rows, n_columns], and float32 scales [n_rows, 1].

    The largest magnitude of a row becomes the largest number of 8 bits.
    """
    wide = weight.float()
    scales = wide.abs().amax(-1, keepdim=True).clamp_min(1e-12) / FLOAT8_LARGEST
    return (wide / scales).to(torch.float8_e4m3fn), scales


def rounded_weights(source: Weights, rounding: Rounding, shifts: Mapping[str, Shift] | None = None) -> Weights:
    """The tensors of a base as the adapter saw them: the linear layers of the decoder went through 4 or 8 bits.

    shifts: what was taken from a weight before (LoftQ), by name.
    """
    of_name = shifts or {}
    return {
        name: _rounded(tensor, rounding, of_name.get(name)) if is_stored_so(tensor, rounding) else tensor
        for name, tensor in source.items()
    }


def is_stored_so(tensor: LazyTensor, rounding: Rounding) -> bool:
    """Whether a base keeps this tensor in fewer bits: a matrix of a decoder layer, of sizes that go into them."""
    if rounding.kind == "fp8" and any(size % 16 for size in tensor.shape):
        return False
    return len(tensor.shape) == 2 and ".layers." in tensor.name and tensor.name.endswith(".weight")


def _rounded(tensor: LazyTensor, rounding: Rounding, shift: Shift | None) -> LazyTensor:
    def read() -> "torch.Tensor":
        weight = tensor.read()
        return rounded(weight if shift is None else weight.float() - shift.read(), rounding).to(weight.dtype)

    return replace(tensor, read=read, read_rows=None, blockwise=None)
