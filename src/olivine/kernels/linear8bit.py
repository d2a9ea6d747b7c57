"""A frozen linear layer whose weight lies in 8-bit floats and whose products are computed in them, in both directions.

Weights and inputs are e4m3 (four bits of exponent, three of mantissa; Micikevicius et al. 2022, arXiv:2209.05433) with
a scale a row, which the matrix units of NVIDIA's compute capability 8.9 and later multiply at twice the speed of 16
bits:

    y = sx sw (xq wq'),  x ~ sx xq [n, in],  w ~ sw wq [out, in]
    dx = sg (gq wq),     g sw ~ sg gq [n, out]

The slope goes through the same rounded weights: it is that of the function which is computed, but for its own rounding.
Elsewhere the rounded numbers are multiplied in float32, which gives the same up to the order of sums.
"""

from typing import Any

import torch
from torch import library

from olivine.kernels.fused_ops import quantize, transpose
from olivine.kernels.fused_types import Eight
from olivine.models.nf4 import Rounding


def _scaled_product(left: torch.Tensor, right: torch.Tensor, scales: Eight, dtype: torch.dtype) -> torch.Tensor:
    """The product of rows left [n, k] and right [m, k] in 8 bits; scales: float32 [n, 1] and [1, m]."""
    if not left.is_cuda:
        return ((left.float() @ right.float().t()) * scales[0] * scales[1]).to(dtype)
    made: torch.Tensor = torch._scaled_mm(  # noqa: SLF001 - torch has no public name for it
        left, right.t(), scale_a=scales[0], scale_b=scales[1], out_dtype=torch.bfloat16, use_fast_accum=True
    )
    return made.to(dtype)


def forward_product(
    x: torch.Tensor, codes: torch.Tensor, scales: torch.Tensor, eight: Eight | None = None
) -> torch.Tensor:
    """The product x w' [n, out] for x [n, in], codes [out, in] and scales float32 [out]; eight: x rounded already."""
    rounded, row_scales = eight or quantize(x)
    return _scaled_product(rounded, codes, (row_scales, scales[None]), x.dtype)


def backward_product(g: torch.Tensor, codes: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    """The product g w [n, in] for g [n, out].

    The matrix units want the weight's columns as rows; they are made for each call, so that the weight lies there once.
    """
    rounded, row_scales = quantize(g, scales)
    ones = scales.new_ones(1, codes.shape[1])
    return _scaled_product(rounded, transpose(codes), (row_scales, ones), g.dtype)


@library.custom_op("olivine::linear8bit", mutates_args=())  # type: ignore[untyped-decorator] # torch is unread
def _linear8bit(x: torch.Tensor, codes: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    """Inputs [..., in] times the weight as [..., out]; one operator, which a compiler does not look into."""
    y = forward_product(x.reshape(-1, x.shape[-1]), codes, scales)
    return y.view(*x.shape[:-1], codes.shape[0])


@_linear8bit.register_fake  # type: ignore[untyped-decorator] # as above
def _(x: torch.Tensor, codes: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:  # noqa: ARG001 - its signature
    return x.new_empty(*x.shape[:-1], codes.shape[0])


@library.custom_op("olivine::linear8bit_backward", mutates_args=())  # type: ignore[untyped-decorator] # as above
def _linear8bit_backward(grad: torch.Tensor, codes: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    """The slope by the inputs, [..., in]; the weight is frozen and takes none."""
    dx = backward_product(grad.reshape(-1, grad.shape[-1]), codes, scales)
    return dx.view(*grad.shape[:-1], codes.shape[1])


@_linear8bit_backward.register_fake  # type: ignore[untyped-decorator] # as above
def _(grad: torch.Tensor, codes: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:  # noqa: ARG001 - its signature
    return grad.new_empty(*grad.shape[:-1], codes.shape[1])


def _keep(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:  # noqa: ARG001 - its signature
    ctx.save_for_backward(*inputs[1:])


def _gradients(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
    return _linear8bit_backward(grad, *ctx.saved_tensors), None, None


_linear8bit.register_autograd(_gradients, setup_context=_keep)


class Linear8bit(torch.nn.Linear):  # type: ignore[misc] # torch is not read by the type checker
    """A frozen linear layer in 8 bits. PEFT adapts it as any linear layer.

    codes: float8_e4m3fn [out, in]; scales: float32 [out], of each row.
    """

    def __init__(self, plain: torch.nn.Linear) -> None:
        # without torch's own __init__, which would make a weight
        torch.nn.Module.__init__(self)
        self.in_features, self.out_features = plain.in_features, plain.out_features
        self.compute_dtype, self.rounding = plain.weight.dtype, Rounding("fp8", double=False)
        codes, scales = rounded(plain.weight)
        self.register_buffer("codes", codes, persistent=False)
        self.register_buffer("scales", scales, persistent=False)
        self.bias = plain.bias

    @property
    def weight(self) -> torch.Tensor:
        """The weight [out, in] as it was rounded, for whoever asks for its type or values; it is not kept."""
        return (self.codes.float() * self.scales[:, None]).to(self.compute_dtype)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Inputs [..., in] to outputs [..., out], in the type of the inputs."""
        result: torch.Tensor = _linear8bit(inputs, self.codes, self.scales)
        return result if self.bias is None else result + self.bias.to(result.dtype)

    def extra_repr(self) -> str:
        """The shape as torch's linear layers print it."""
        return f"in_features={self.in_features}, out_features={self.out_features}, float8_e4m3"


def rounded(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """A weight [out, in] in 8 bits, and the scale of each row; ValueError when it is NaN or infinite somewhere."""
    if not bool(torch.isfinite(weight).all()):
        raise ValueError("the weight holds NaN or infinite values")
    codes, scales = quantize(weight.detach())
    return codes, scales[:, 0].contiguous()


def takes_eight_bits(layer: Any) -> bool:
    """Whether a layer's products have sizes that the matrix units take: multiples of 16."""
    return type(layer) is torch.nn.Linear and layer.in_features % 16 == 0 and layer.out_features % 16 == 0


def round_layer(layer: torch.nn.Module) -> int:
    """Put every linear layer inside of a decoder layer into 8 bits, in place; gives their number."""
    linear = [(name, module) for name, module in layer.named_modules() if takes_eight_bits(module)]
    for name, module in linear:
        owner, _, leaf = name.rpartition(".")
        setattr(layer.get_submodule(owner), leaf, Linear8bit(module))
    return len(linear)
