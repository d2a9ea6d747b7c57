"""LoRA's linear layer without float32 copies of the activations.

PEFT keeps A and B in float32 and casts the layer's input and the update to float32 for them: on a bfloat16 base that
triples the bytes which the update moves and keeps. Here the two small matrices are cast instead, their float32 masters
take the gradient, and the update is added to the base layer's result in one product.

    y = x W' + bias + u B',  u = x A'            x [n_tokens, in], W [out, in], A [rank, in], B [out, rank]
    with g = dL/dy [n_tokens, out]:  dL/du = g B,  dL/dx = g W + (dL/du) A,  dL/dA = (dL/du)' x,  dL/dB = g' u

The factor alpha / rank is part of B here. Hu et al. 2021, arXiv:2106.09685.
"""

import importlib.util
from typing import Any

import torch
from peft.tuners.lora.layer import Linear
from torch import library
from torch.nn import functional

_HAS_TRITON = importlib.util.find_spec("triton") is not None
# Where the kernels pay: high ranks do work enough for cuBLAS, and few rows are a matter of launches, not bytes.
_HIGHEST_RANK, _FEWEST_ROWS = 64, 2048


def _forward(
    inputs: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, a: torch.Tensor, b: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """The layer's result y [..., out], and u [n_tokens, rank], which the backward pass needs."""
    flat = inputs.reshape(-1, inputs.shape[-1])
    result = functional.linear(flat, weight, bias)
    reduced = flat @ a.t()
    _add_update(result, reduced, b)  # in place: the result is read and written once more, not copied
    return result.view(*inputs.shape[:-1], weight.shape[0]), reduced


# For a compiler each direction is one operator that it does not look into.
_lora_linear = library.custom_op("olivine::lora_linear", _forward, mutates_args=())


@_lora_linear.register_fake  # type: ignore[untyped-decorator] # as above
def _(
    inputs: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,  # noqa: ARG001 - the signature of the operator
    a: torch.Tensor,
    b: torch.Tensor,  # noqa: ARG001 - as above
) -> tuple[torch.Tensor, torch.Tensor]:
    n_rows = inputs.numel() // inputs.shape[-1]
    return inputs.new_empty(*inputs.shape[:-1], weight.shape[0]), inputs.new_empty(n_rows, a.shape[0])


def _backward(
    grad: torch.Tensor,
    inputs: torch.Tensor,
    weight: torch.Tensor,
    a: torch.Tensor,
    b: torch.Tensor,
    reduced: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Gradients of the inputs [..., in], a and b, for grad [..., out]; the base weight is frozen and takes none."""
    flat, slope = inputs.reshape(-1, inputs.shape[-1]), grad.reshape(-1, grad.shape[-1])
    slope_reduced, grad_b = _two_products(slope, reduced, b)  # g B and g' u
    grad_inputs = slope @ weight
    _add_update(grad_inputs, slope_reduced, a.t().contiguous())  # g W + (g B) A
    return grad_inputs.view(inputs.shape), slope_reduced.t() @ flat, grad_b


_lora_linear_backward = library.custom_op("olivine::lora_linear_backward", _backward, mutates_args=())


def _add_update(result: torch.Tensor, reduced: torch.Tensor, b: torch.Tensor) -> None:
    """Add reduced b' to the result [n_tokens, out] in place; reduced [n_tokens, rank], b [out, rank]."""
    if _in_triton(result, b.shape[1]):
        from olivine.kernels import _update

        _update.add_update(result, reduced, b)
    else:
        result.addmm_(reduced, b.t())


def _two_products(slope: torch.Tensor, reduced: torch.Tensor, b: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The products slope b [n_tokens, rank] and slope' reduced [out, rank], of slope [n_tokens, out]."""
    if _in_triton(slope, b.shape[1]):
        from olivine.kernels import _update

        return _update.two_products(slope.contiguous(), reduced, b)
    return slope @ b, slope.t() @ reduced


def _in_triton(wide: torch.Tensor, rank: int) -> bool:
    """Whether a product with the matrix `wide` goes to our kernels: on CUDA, in half precision, where they pay."""
    halves = wide.dtype in (torch.bfloat16, torch.float16)
    return _HAS_TRITON and wide.is_cuda and halves and rank <= _HIGHEST_RANK and wide.shape[0] >= _FEWEST_ROWS


@_lora_linear_backward.register_fake  # type: ignore[untyped-decorator] # as above
def _(
    grad: torch.Tensor,  # noqa: ARG001 - the signature of the operator
    inputs: torch.Tensor,
    weight: torch.Tensor,  # noqa: ARG001 - as above
    a: torch.Tensor,
    b: torch.Tensor,
    reduced: torch.Tensor,  # noqa: ARG001 - as above
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return inputs.new_empty(inputs.shape), torch.empty_like(a), torch.empty_like(b)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[torch.Tensor, torch.Tensor]) -> None:
    hidden, weight, _, a, b = inputs
    ctx.save_for_backward(hidden, weight, a, b, output[1])
    ctx.mark_non_differentiable(output[1])


def _gradients(ctx: Any, grad: torch.Tensor, _: torch.Tensor | None) -> tuple[torch.Tensor | None, ...]:
    grad_inputs, grad_a, grad_b = _lora_linear_backward(grad, *ctx.saved_tensors)
    return grad_inputs, None, None, grad_a, grad_b


_lora_linear.register_autograd(_gradients, setup_context=_keep)


class _LoraLinear(torch.autograd.Function):  # type: ignore[misc] # torch is not read by the type checker
    """The operator's work as one step of autograd, with the casts of both matrices inside.

    Without a compiler an operator of Python costs 100 microseconds more in both directions than a Function, and a cast
    with its backward 15: together a tenth of a step of SmolLM2-135M on two cores.
    """

    @staticmethod
    def forward(
        ctx: Any,
        inputs: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        a: torch.Tensor,
        b: torch.Tensor,
        scaling: float,
    ) -> torch.Tensor:
        dtype = inputs.dtype
        ctx.types, ctx.scaling = (a.dtype, b.dtype), scaling
        a, b = a.to(dtype), (b * scaling).to(dtype)  # copies of `rank` rows; the float32 masters take the gradients
        result, reduced = _forward(inputs, weight, bias, a, b)
        ctx.save_for_backward(inputs, weight, a, b, reduced)
        return result

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        grad_inputs, grad_a, grad_b = _backward(grad, *ctx.saved_tensors)
        return grad_inputs, None, None, grad_a.to(ctx.types[0]), grad_b.to(ctx.types[1]).mul_(ctx.scaling), None


def lora_linear(
    inputs: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    a: torch.Tensor,
    b: torch.Tensor,
    scaling: float,
) -> torch.Tensor:
    """A linear layer and its update: inputs W' + bias + scaling * inputs A' B', [..., out], in the type of the inputs.

    inputs: [..., in]. weight: [out, in], frozen, of the inputs' type; a: [rank, in] and b: [out, rank] of any type,
    usually float32. scaling: alpha / rank, or alpha / sqrt(rank).
    """
    if torch.compiler.is_compiling():
        result: torch.Tensor = _lora_linear(inputs, weight, bias, a.to(inputs.dtype), (b * scaling).to(inputs.dtype))[0]
    else:
        result = _LoraLinear.apply(inputs, weight, bias, a, b, scaling)
    return result


def with_update(
    base: torch.Tensor, inputs: torch.Tensor, a: torch.Tensor, b: torch.Tensor, scaling: float
) -> torch.Tensor:
    """The result `base` [..., out] of a base layer of any kind, and the update; the inputs may have had a dropout."""
    reduced = functional.linear(inputs.to(base.dtype), a.to(base.dtype))
    return base + functional.linear(reduced, (b * scaling).to(base.dtype))


class LoraLinear(Linear):
    """PEFT's layer with the update computed by `lora_linear`; its parameters, names and files are PEFT's."""

    def forward(self, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        """What PEFT's layer gives; what is not one plain trained adapter on one tensor goes to PEFT's own."""
        if args or kwargs or self.disable_adapters or self.merged or len(self.active_adapters) != 1:
            return super().forward(x, *args, **kwargs)
        name = self.active_adapters[0]
        base = self.base_layer
        if name not in self.lora_A:
            return base(x)
        dropout = self.lora_dropout[name]
        a, b, scaling = self.lora_A[name].weight, self.lora_B[name].weight, self.scaling[name]
        drops = self.training and not isinstance(dropout, torch.nn.Identity)
        if drops or not _is_frozen_linear(base, x):
            return with_update(base(x), dropout(x), a, b, scaling)
        return lora_linear(x, base.weight, base.bias, a, b, scaling)


def _is_frozen_linear(base: Any, inputs: torch.Tensor) -> bool:
    if type(base) is not torch.nn.Linear or base.weight.dtype != inputs.dtype or base.weight.requires_grad:
        return False
    return (base.bias is None or not base.bias.requires_grad) and not torch.is_autocast_enabled(inputs.device.type)


def take_over(model: torch.nn.Module) -> int:
    """Let every LoRA layer that is PEFT's plain one compute as LoraLinear, in place; gives their number.

    Left alone: variants (DoRA and others), adapters with a bias, adapters whose layers hold more than a weight each.
    """
    plain = [module for module in model.modules() if type(module) is Linear and _is_plain(module)]
    for module in plain:
        # the class adds no state: everything that reads, saves or merges the layer finds PEFT's own
        module.__class__ = LoraLinear
    return len(plain)


def _is_plain(layer: Any) -> bool:
    """Whether the update is B A alone: two matrices, no bias, no variant, no weight stored the other way round."""
    if layer.lora_variant or any(layer.lora_bias.values()) or layer.fan_in_fan_out or len(layer.lora_A) != 1:
        return False
    matrices = [*layer.lora_A.values(), *layer.lora_B.values()]
    return all(type(module) is torch.nn.Linear and module.bias is None for module in matrices)
