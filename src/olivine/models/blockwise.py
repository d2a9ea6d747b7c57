"""A weight in blocks: integer codes that share a scale and a zero point along the input dimension."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from olivine import lazy

if TYPE_CHECKING:
    import torch
else:
    torch = lazy.module("torch")

# what the int4 and int8 operators of ONNX Runtime read fast
BITS = (4, 8)
GROUPS = (16, 32, 64, 128, 256)
WHOLE_ROW = -1  # as a group: one scale for all inputs of an output, whatever their number


@dataclass(frozen=True)
class Format:
    """How a weight is stored: 4 or 8 bits, `group` weights a scale, with or without a zero point of their own."""

    bits: int = 4
    group: int = 32
    symmetric: bool = True

    def fitted(self, width: int) -> "Format":
        """The format for a weight of `width` inputs: WHOLE_ROW is a group of all of them."""
        return replace(self, group=width) if self.group == WHOLE_ROW else self

    @property
    def middle(self) -> int:
        """The code that stands for zero in a symmetric format."""
        return 1 << (self.bits - 1)

    @property
    def highest(self) -> int:
        """The largest code, 2**bits - 1."""
        return (1 << self.bits) - 1

    @property
    def bits_per_weight(self) -> float:
        """Codes, a float32 scale and, when asymmetric, a zero point of `bits`, a weight."""
        return self.bits + (32 + (0 if self.symmetric else self.bits)) / self.group


@dataclass(frozen=True)
class Blockwise:
    """A quantized weight [N, K]; element (n, k) is (codes[n, k] - zero_points[n, k // group]) * scales[n, k // group].

    codes: uint8 [N, K], not packed. scales: float32 [N, K / group]. zero_points: uint8 [N, K / group], or None for
    2 ** (bits - 1) everywhere.
    """

    bits: int
    group: int
    codes: "torch.Tensor"
    scales: "torch.Tensor"
    zero_points: "torch.Tensor | None" = None

    @property
    def symmetric(self) -> bool:
        """Whether every zero point is the middle one."""
        return self.zero_points is None

    def dequantized(self) -> "torch.Tensor":
        """The weight as float32 [N, K]."""
        n_rows, width = self.codes.shape
        codes = self.codes.view(n_rows, width // self.group, self.group).float()
        zero = float(1 << (self.bits - 1)) if self.zero_points is None else self.zero_points.float().unsqueeze(-1)
        return ((codes - zero) * self.scales.float().unsqueeze(-1)).view(n_rows, width)

    def rows(self, start: int, stop: int) -> "Blockwise":
        """The rows `start` to `stop`, without a copy."""
        zeros = None if self.zero_points is None else self.zero_points[start:stop]
        return Blockwise(self.bits, self.group, self.codes[start:stop], self.scales[start:stop], zeros)

    def split(self, group: int) -> "Blockwise":
        """The same weight in smaller groups, each with the scale and zero point of the one that it lies in."""
        if self.group % group:
            raise ValueError(f"groups of {self.group} cannot be split into groups of {group}")
        n_parts = self.group // group
        scales = self.scales.repeat_interleave(n_parts, dim=1)
        zeros = None if self.zero_points is None else self.zero_points.repeat_interleave(n_parts, dim=1)
        return Blockwise(self.bits, group, self.codes, scales, zeros)


@dataclass(frozen=True)
class StoredBlocks:
    """Reads a weight that a file holds in blocks, when called.

    format: of what it reads, found without its codes. half_scales: whether the file's scales are float16 numbers.
    """

    read: Callable[[], Blockwise]
    format: Callable[[], Format]
    half_scales: bool

    def __call__(self) -> Blockwise:
        """The codes and scales as the file has them."""
        return self.read()
