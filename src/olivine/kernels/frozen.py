"""The product with a frozen weight in both directions, however the weight is kept: in 16 bits, in 8, or in 4.

Layers that read one input are one product: where their weights allow it they become views of one tensor, so that each
layer keeps its own parameter and memory holds each weight once.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch.nn import functional

from olivine.kernels.fused_types import Eight
from olivine.kernels.linear4bit import Linear4bit
from olivine.kernels.linear8bit import Linear8bit, backward_product, forward_product


class Frozen(Protocol):
    """Weights W [out, in] of layers that read one input, one below the other."""

    in_eight_bits: bool

    @property
    def bias(self) -> torch.Tensor | None:
        """What is added to the product [out], one layer's after the other's."""

    def forward(self, x: torch.Tensor, eight: Eight | None = None) -> torch.Tensor:
        """The product x W' + bias [n, out] of x [n, in]; eight: x in 8 bits, where somebody has it already."""

    def backward(self, g: torch.Tensor) -> torch.Tensor:
        """The product g W [n, in] of g [n, out]."""


def together(layers: Sequence[Any], *, gathered: bool = False) -> Frozen | None:
    """The product of these linear layers; None when they do not go together.

    gathered: their weights lie in parts on several devices, and each layer has its own only while it computes.
    """
    kinds = {type(layer) for layer in layers}
    if kinds == {torch.nn.Linear} and gathered:
        return OneByOne(layers, lambda layer, _: layer.weight, lambda: _one_bias(layers))
    if kinds == {torch.nn.Linear}:
        return Dense(layers)
    if kinds == {Linear8bit}:
        return EightBits(layers)
    if kinds != {Linear4bit}:
        return None
    bias = _one_bias(layers)
    return OneByOne(layers, lambda layer, dtype: layer.unpacked(dtype), lambda: bias)


def _one_bias(layers: Sequence[Any]) -> torch.Tensor | None:
    """The biases one after another, zeros for a layer without."""
    if all(layer.bias is None for layer in layers):
        return None
    zeros = [layer.weight.new_zeros(layer.out_features) for layer in layers]
    return torch.cat(
        [zero if layer.bias is None else layer.bias.detach() for layer, zero in zip(layers, zeros, strict=True)]
    )


def _as_views(tensors: Sequence[torch.Tensor]) -> torch.Tensor:
    """All rows in one tensor, of which each of the given ones becomes a view."""
    if len(tensors) == 1:
        return tensors[0].detach()
    kind = tensors[0].dtype
    stored = torch.uint8 if kind == torch.float8_e4m3fn else kind  # torch joins bytes of any kind
    whole = torch.cat([tensor.detach().view(stored) for tensor in tensors]).view(kind)
    for tensor, part in zip(tensors, whole.split([len(tensor) for tensor in tensors]), strict=True):
        tensor.data = part
    return whole


class Dense:
    """Weights in the type that is computed in."""

    in_eight_bits = False

    def __init__(self, layers: Sequence[torch.nn.Linear]) -> None:
        self.bias = _one_bias(layers)
        self.weight = _as_views([layer.weight for layer in layers])

    def forward(self, x: torch.Tensor, eight: Eight | None = None) -> torch.Tensor:  # noqa: ARG002 - it has 16 bits
        """As Frozen says."""
        return functional.linear(x, self.weight, self.bias)

    def backward(self, g: torch.Tensor) -> torch.Tensor:
        """As Frozen says."""
        return g @ self.weight


@dataclass
class OneByOne:
    """Weights that are there for their product alone: each layer multiplies by itself, into its part of one result.

    They lie in 4 bits, or in parts on several devices (FSDP2). weight_of: a layer's in a type; bias_of: that of all.
    """

    layers: Sequence[Any]
    weight_of: Callable[[Any, torch.dtype], torch.Tensor]
    bias_of: Callable[[], torch.Tensor | None]
    in_eight_bits: bool = False

    @property
    def bias(self) -> torch.Tensor | None:
        """As Frozen says."""
        return self.bias_of()

    @property
    def _sizes(self) -> list[int]:
        return [layer.out_features for layer in self.layers]

    def forward(self, x: torch.Tensor, eight: Eight | None = None) -> torch.Tensor:  # noqa: ARG002 - it has 16 bits
        """As Frozen says."""
        y = x.new_empty(len(x), sum(self._sizes))
        for layer, part in zip(self.layers, y.split(self._sizes, dim=1), strict=True):
            torch.mm(x, self.weight_of(layer, x.dtype).t(), out=part)
        bias = self.bias
        return y if bias is None else y.add_(bias)

    def backward(self, g: torch.Tensor) -> torch.Tensor:
        """As Frozen says."""
        parts = g.split(self._sizes, dim=1)
        dx = parts[0] @ self.weight_of(self.layers[0], g.dtype)
        for layer, part in zip(self.layers[1:], parts[1:], strict=True):
            dx.addmm_(part, self.weight_of(layer, g.dtype))
        return dx


class EightBits:
    """Weights in 8 bits: the inputs of both products are rounded to 8 bits as well, a scale a row."""

    in_eight_bits = True

    def __init__(self, layers: Sequence[Linear8bit]) -> None:
        self.bias = _one_bias(layers)
        self.codes = _as_views([layer.codes for layer in layers])
        self.scales = _as_views([layer.scales for layer in layers])

    def forward(self, x: torch.Tensor, eight: Eight | None = None) -> torch.Tensor:
        """As Frozen says."""
        y = forward_product(x, self.codes, self.scales, eight)
        return y if self.bias is None else y.add_(self.bias)

    def backward(self, g: torch.Tensor) -> torch.Tensor:
        """As Frozen says."""
        return backward_product(g, self.codes, self.scales)
