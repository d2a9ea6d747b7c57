"""A frozen linear layer whose weight is kept in 4 bits and unpacked for each product, in both directions.

The weight is never kept unpacked: the backward pass unpacks it again, so that memory stays at half a byte a weight.
Dettmers et al. 2023, "QLoRA", arXiv:2305.14314; the storage itself is `models.nf4`.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import library
from torch.nn import functional

from olivine.kernels.blockwise import on_all_cores
from olivine.models.nf4 import BLOCK, Packed, Rounding, magnitudes_of, pack, unpack

# The fields of `nf4.Packed` as operators take them: codes, magnitudes, table, and of doubly quantized magnitudes the
# scales and the offset.
Parts = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor | None, torch.Tensor | None]


def _unpack(
    codes: torch.Tensor,
    magnitudes: torch.Tensor,
    table: torch.Tensor,
    scales: torch.Tensor | None,
    offset: torch.Tensor | None,
    out_features: int,
    in_features: int,
    dtype: torch.dtype,
) -> torch.Tensor:
    return unpack(Packed(codes, magnitudes, table, scales, offset), (out_features, in_features), dtype)


@functools.cache
def _unpack_fused() -> Callable[..., torch.Tensor]:
    """In one kernel; made when a GPU first asks for it, as the compiler takes a second to import."""
    compiled: Callable[..., torch.Tensor] = torch.compile(_unpack, dynamic=False)
    return compiled


def _weight(parts: Parts, out_features: int, in_features: int, dtype: torch.dtype) -> torch.Tensor:
    """The weight [out, in]: on a GPU in one kernel, written once, no table in memory; on a CPU in compiled loops."""
    if parts[0].device.type == "cpu":
        return unpack_on_cpu(Packed(*parts), (out_features, in_features), dtype)
    run = _unpack_fused() if parts[0].is_cuda else _unpack
    weight: torch.Tensor = run(*parts, out_features, in_features, dtype)
    return weight


_BLOCKS_A_TASK = 1 << 15  # two million weights, a millisecond of one core: less does not pay for a thread


def unpack_on_cpu(packed: Packed, shape: tuple[int, int], dtype: torch.dtype) -> torch.Tensor:
    """What `nf4.unpack` gives, to the bit, on as many threads as torch has: a weight of that shape [out, in]."""
    from olivine.kernels import _unpack4bit

    n_bytes = BLOCK // 2  # of the codes of one block
    magnitudes, table, codes = magnitudes_of(packed).numpy(), packed.table.numpy(), packed.codes.numpy()
    in_bf16 = dtype == torch.bfloat16  # written as its bits; any other type is turned from float32
    values = torch.empty(2 * len(codes), dtype=torch.uint16 if in_bf16 else torch.float32)
    kernel = _unpack4bit.to_bfloat16 if in_bf16 else _unpack4bit.to_float32
    written = values.numpy()

    def work(start: int) -> None:
        end = start + _BLOCKS_A_TASK
        of_codes, of_values = slice(start * n_bytes, end * n_bytes), slice(start * BLOCK, end * BLOCK)
        kernel(codes[of_codes], magnitudes[start:end], table, written[of_values])

    on_all_cores(work, range(0, len(magnitudes), _BLOCKS_A_TASK), torch.get_num_threads())
    weight = values.view(torch.bfloat16) if in_bf16 else values
    # the last block may reach beyond the weight
    return weight[: shape[0] * shape[1]].view(shape).to(dtype)


@library.custom_op("olivine::linear4bit", mutates_args=())  # type: ignore[untyped-decorator] # torch is unread
def _linear4bit(
    inputs: torch.Tensor,
    codes: torch.Tensor,
    magnitudes: torch.Tensor,
    table: torch.Tensor,
    scales: torch.Tensor | None,
    offset: torch.Tensor | None,
    out_features: int,
) -> torch.Tensor:
    """Inputs [..., in] W' as [..., out]; one operator, which a compiler does not look into."""
    weight = _weight((codes, magnitudes, table, scales, offset), out_features, inputs.shape[-1], inputs.dtype)
    return functional.linear(inputs, weight)


@_linear4bit.register_fake  # type: ignore[untyped-decorator] # as above
def _(
    inputs: torch.Tensor,
    codes: torch.Tensor,  # noqa: ARG001 - the signature of the operator
    magnitudes: torch.Tensor,  # noqa: ARG001 - as above
    table: torch.Tensor,  # noqa: ARG001 - as above
    scales: torch.Tensor | None,  # noqa: ARG001 - as above
    offset: torch.Tensor | None,  # noqa: ARG001 - as above
    out_features: int,
) -> torch.Tensor:
    return inputs.new_empty(*inputs.shape[:-1], out_features)


@library.custom_op("olivine::linear4bit_backward", mutates_args=())  # type: ignore[untyped-decorator] # as above
def _linear4bit_backward(
    grad: torch.Tensor,
    codes: torch.Tensor,
    magnitudes: torch.Tensor,
    table: torch.Tensor,
    scales: torch.Tensor | None,
    offset: torch.Tensor | None,
    in_features: int,
) -> torch.Tensor:
    """The slope by the inputs, [..., in]: grad [..., out] times W. The weight is frozen and takes none."""
    weight = _weight((codes, magnitudes, table, scales, offset), grad.shape[-1], in_features, grad.dtype)
    return grad @ weight


@_linear4bit_backward.register_fake  # type: ignore[untyped-decorator] # as above
def _(
    grad: torch.Tensor,
    codes: torch.Tensor,  # noqa: ARG001 - the signature of the operator
    magnitudes: torch.Tensor,  # noqa: ARG001 - as above
    table: torch.Tensor,  # noqa: ARG001 - as above
    scales: torch.Tensor | None,  # noqa: ARG001 - as above
    offset: torch.Tensor | None,  # noqa: ARG001 - as above
    in_features: int,
) -> torch.Tensor:
    return grad.new_empty(*grad.shape[:-1], in_features)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:  # noqa: ARG001 - torch's signature
    hidden, *parts, _ = inputs
    ctx.save_for_backward(*parts)  # the packed weight, which exists anyway: no activation is kept
    ctx.in_features = hidden.shape[-1]


def _gradients(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
    return (_linear4bit_backward(grad, *ctx.saved_tensors, ctx.in_features), *[None] * 6)


_linear4bit.register_autograd(_gradients, setup_context=_keep)


class Linear4bit(torch.nn.Linear):  # type: ignore[misc] # torch is Any to the type checker
    """y = x W' + bias with W in 4 bits and frozen; inputs of any float type, in which the product is computed."""

    def __init__(self, plain: torch.nn.Linear, rounding: Rounding, shift: torch.Tensor | None = None) -> None:
        """Shift: what is taken from the weight before it is rounded, float32 [out, in]."""
        torch.nn.Module.__init__(self)
        self.in_features, self.out_features = plain.in_features, plain.out_features
        self.compute_dtype, self.rounding = plain.weight.dtype, rounding
        packed = pack(plain.weight.data if shift is None else plain.weight.data.float() - shift, rounding)
        for name in ("codes", "magnitudes", "table", "scales", "offset"):
            self.register_buffer(name, getattr(packed, name), persistent=False)
        self.bias = plain.bias

    @property
    def weight(self) -> torch.Tensor:
        """The unpacked weight [out, in]: for whoever asks for its type or its values; the layer does not keep it."""
        return _unpack(*self._parts(), self.out_features, self.in_features, self.compute_dtype)

    def unpacked(self, dtype: torch.dtype) -> torch.Tensor:
        """The weight [out, in] for one product, as fast as the device can unpack it."""
        return _weight(self._parts(), self.out_features, self.in_features, dtype)

    def _parts(self) -> Parts:
        return self.codes, self.magnitudes, self.table, self.scales, self.offset

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Inputs [..., in] to outputs [..., out], in the type of the inputs."""
        result: torch.Tensor = _linear4bit(inputs, *self._parts(), self.out_features)
        return result if self.bias is None else result + self.bias.to(result.dtype)

    def extra_repr(self) -> str:
        """The shape as torch's linear layers print it, with the kind of 4 bits."""
        return f"in_features={self.in_features}, out_features={self.out_features}, {self.rounding.kind}"


def pack_layer(layer: torch.nn.Module, rounding: Rounding, shifts: Mapping[str, torch.Tensor] | None = None) -> int:
    """Put every linear layer inside of a decoder layer into 4 bits, in place; gives their number.

    shifts: by name inside of the layer, what is taken from a weight before it is rounded.
    """
    linear = [(name, module) for name, module in layer.named_modules() if type(module) is torch.nn.Linear]
    for name, module in linear:
        owner, _, leaf = name.rpartition(".")
        setattr(layer.get_submodule(owner), leaf, Linear4bit(module, rounding, (shifts or {}).get(name)))
    return len(linear)
