"""A weight in blocks: integer codes that share a scale and a zero point along the input dimension."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from olivine import lazy

if TYPE_CHECKING:
    import torch
else:
    torch = lazy.module("torch")

# what the int4 and int8 operators of ONNX Runtime read fast
BITS = (4, 8)
GROUPS = (16, 32, 64, 128, 256)


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
