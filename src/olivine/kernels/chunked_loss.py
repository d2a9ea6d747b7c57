"""Cross entropy of a language model's head, a chunk of positions at a time: the full logits never exist.

The logits of a 32,000-token vocabulary are ten times the size of the hidden states that they come from, and autograd
keeps them twice. Here each chunk's logits live only until its loss and the gradient of its hidden states are known;
both are computed in the forward pass, so that nothing is computed twice (the idea of Apple's "Cut Your Losses in
Large-Vocabulary Language Models", Wijmans et al. 2024, arXiv:2411.09009, without its custom kernel).
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import torch
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from olivine.data import IGNORED
from olivine.kernels import chunk_sizes
from olivine.kernels.fused_ops import in_triton


class Workspace:
    """The memory in which a CPU computes the logits of a chunk, kept from step to step.

    The pages of fresh memory take longer to come than the product to be computed. One workspace serves one model in one
    thread. part_bytes: of a chunk's logits, what is worked on at a time; it decides the speed alone.
    """

    def __init__(self, part_bytes: int = chunk_sizes.PART_BYTES) -> None:
        self.part_bytes = part_bytes
        self._logits: torch.Tensor | None = None

    def logits(self, n_rows: int, n_columns: int, dtype: torch.dtype) -> torch.Tensor:
        """A matrix [n_rows, n_columns] to write to; the same one for the same shape and type."""
        if self._logits is None or (*self._logits.shape, self._logits.dtype) != (n_rows, n_columns, dtype):
            self._logits = torch.empty(n_rows, n_columns, dtype=dtype)
        return self._logits


@dataclass(frozen=True)
class Logits:
    """What a model does to the head's output before the softmax: `softcap * tanh(scale * logits / softcap)`."""

    scale: float = 1.0
    softcap: float | None = None

    def __call__(self, logits: torch.Tensor) -> torch.Tensor:
        """The final logits z, float32, of the head's raw output; both [n_positions, n_vocabulary]."""
        logits = logits.float()
        if self.scale != 1.0:
            logits = logits * self.scale
        return logits if self.softcap is None else self.softcap * torch.tanh(logits / self.softcap)

    @staticmethod
    def of(config: Any) -> "Logits":
        """What the config of a transformers model says (Gemma caps, Cohere and Granite scale)."""
        scale = getattr(config, "logit_scale", None) or 1.0
        if divisor := getattr(config, "logits_scaling", None):
            scale /= divisor
        return Logits(float(scale), getattr(config, "final_logit_softcapping", None))


def chunked_loss(
    hidden: torch.Tensor,
    head: torch.nn.Module,
    targets: torch.Tensor,
    logits: Logits,
    n_rows: int | None = None,
    *,
    fused: bool = False,
    workspace: Workspace | None = None,
) -> torch.Tensor:
    """The summed cross entropy of `logits(head(hidden))` against `targets`, in nats, a float32 scalar.

    hidden: [n_positions, width]; targets: int64 [n_positions], token numbers (-100 adds nothing). n_rows: positions of
    a chunk; fused: whether the work on a chunk's logits is compiled (a few passes over them instead of ten).
    workspace: of earlier calls for this model; a new one when None.
    A head that is a plain linear layer takes the fast form, whether it is trained or frozen; any other module (an
    adapted head) is called chunk by chunk and computed again in the backward pass.
    """
    in_one_kernel = in_triton(hidden) and type(head) is torch.nn.Linear
    n_rows = n_rows or chunk_sizes.chunk_rows(_n_outputs(head), "kernel" if in_one_kernel else hidden.device.type)
    if hidden.shape[0] == 0:
        return hidden.sum().float() * 0.0
    if type(head) is torch.nn.Linear:
        workspace = workspace or Workspace()
        of_chunk = partial(_chunk_function(hidden, workspace.part_bytes, fused=fused), logits=logits)
        total: torch.Tensor = _LinearLoss.apply(hidden, head.weight, head.bias, targets, n_rows, of_chunk, workspace)
        return total
    return _recomputed_loss(hidden, head, targets, logits, n_rows)


def _chunk_function(
    hidden: torch.Tensor, part_bytes: int, *, fused: bool
) -> Callable[..., tuple[torch.Tensor, torch.Tensor]]:
    """`_chunk`, in the form that is fastest on the device of the hidden states."""
    if in_triton(hidden):
        return _chunk_in_one_kernel
    if fused:
        return _compiled_chunk()
    return partial(_chunk_in_parts, part_bytes=part_bytes) if hidden.device.type == "cpu" else _chunk


def _chunk_in_one_kernel(raw: torch.Tensor, targets: torch.Tensor, logits: Logits) -> tuple[torch.Tensor, torch.Tensor]:
    """What `_chunk` gives, with the slope written over the raw output: no copy of it in float32 exists."""
    from olivine.kernels import _fused

    return _fused.head_slope(raw, targets, logits.scale, logits.softcap, IGNORED).sum(), raw


def _n_outputs(head: torch.nn.Module) -> int:
    weight = getattr(head, "weight", None)
    return int(getattr(head, "out_features", weight.shape[0] if weight is not None else 32_000))


def _recomputed_loss(
    hidden: torch.Tensor, head: Callable[..., Any], targets: torch.Tensor, logits: Logits, n_rows: int
) -> torch.Tensor:
    """The loss of a head of any kind; its logits are computed again, chunk by chunk, in the backward pass."""

    def of_chunk(states: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        return functional.cross_entropy(logits(head(states)), tokens, ignore_index=IGNORED, reduction="sum")

    chunks = zip(hidden.split(n_rows), targets.split(n_rows), strict=True)
    return torch.stack([checkpoint(of_chunk, states, tokens, use_reentrant=False) for states, tokens in chunks]).sum()


class _LinearLoss(torch.autograd.Function):  # type: ignore[misc] # torch is not read by the type checker
    """Loss and gradients of a linear head in one pass over the chunks; the backward pass only scales them.

    With z = h W' + b and g = d loss / d z of each position: d loss / d h = g W, d loss / d W = g' h, d loss / d b = the
    sum of g. Weight and bias gradients are summed up in float32 over the chunks.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        targets: torch.Tensor,
        n_rows: int,
        of_chunk: Callable[[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]],
        workspace: Workspace,
    ) -> torch.Tensor:
        on_cpu = hidden.device.type == "cpu"
        wants_hidden, wants_weight, wants_bias = ctx.needs_input_grad[:3]
        matrix = weight.to(hidden.dtype)
        grad_hidden = torch.empty_like(hidden) if wants_hidden else None
        grad_weight = torch.zeros_like(weight, dtype=torch.float32) if wants_weight else None
        grad_bias = torch.zeros_like(bias, dtype=torch.float32) if wants_bias and bias is not None else None
        total = hidden.new_zeros((), dtype=torch.float32)
        for start in range(0, hidden.shape[0], n_rows):
            rows = slice(start, start + n_rows)
            states = hidden[rows]
            into = workspace.logits(n_rows, len(matrix), states.dtype) if on_cpu else None
            raw = _raw_logits(states, matrix, bias, into)
            loss, slope = of_chunk(raw, targets[rows])  # slope: [rows, n_vocabulary], of the raw output's type
            total += loss
            if grad_hidden is not None:
                torch.mm(slope, matrix, out=grad_hidden[rows])
            if grad_weight is not None:
                grad_weight += slope.t() @ states
            if grad_bias is not None:
                grad_bias += slope.sum(dim=0, dtype=torch.float32)
            del raw, slope  # before the next chunk takes as much
        ctx.save_for_backward(grad_hidden, grad_weight, grad_bias)
        ctx.dtypes = (weight.dtype, None if bias is None else bias.dtype)
        return total

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        hidden, weight, bias = ctx.saved_tensors
        return (
            None if hidden is None else hidden * grad,
            None if weight is None else (weight * grad).to(ctx.dtypes[0]),
            None if bias is None else (bias * grad).to(ctx.dtypes[1]),
            *[None] * 4,  # targets, n_rows, of_chunk, workspace
        )


def _raw_logits(
    states: torch.Tensor, matrix: torch.Tensor, bias: torch.Tensor | None, into: torch.Tensor | None
) -> torch.Tensor:
    """The head's output [n_rows, n_vocabulary] for states [n_rows, width]; in the first rows of `into`, if any."""
    if into is None:
        return functional.linear(states, matrix, None if bias is None else bias.to(states.dtype))
    raw = into[: len(states)]
    torch.mm(states, matrix.t(), out=raw)
    return raw if bias is None else raw.add_(bias.to(states.dtype))


@cache
def _compiled_chunk() -> Callable[..., tuple[torch.Tensor, torch.Tensor]]:
    compiled: Callable[..., tuple[torch.Tensor, torch.Tensor]] = torch.compile(_chunk, dynamic=True)
    return compiled


def _chunk_in_parts(
    raw: torch.Tensor, targets: torch.Tensor, logits: Logits, part_bytes: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """What `_chunk` gives, a few rows at a time; the slope is written over the raw output.

    Copies of a whole chunk would come from fresh memory each time.
    """
    n_rows = max(1, part_bytes // (4 * raw.shape[1]))  # the float32 logits of a part fill part_bytes
    loss = torch.zeros((), dtype=torch.float32)
    for part, tokens in zip(raw.split(n_rows), targets.split(n_rows), strict=True):
        of_part, slope = _chunk(part, tokens, logits)
        loss += of_part
        part.copy_(slope)
    return loss, raw


def _chunk(raw: torch.Tensor, targets: torch.Tensor, logits: Logits) -> tuple[torch.Tensor, torch.Tensor]:
    """The summed loss of a chunk and its slope by the head's raw output [n_rows, n_vocabulary], in the output's type.

    loss = log sum exp z - z[target], and d loss / d z = softmax(z) - one_hot(target); z is scaled and capped, so the
    slope by the raw output has the factor `scale * (1 - (z / softcap)^2)`.
    """
    z = logits(raw)
    trained = targets != IGNORED
    tokens = targets.masked_fill(~trained, 0)[:, None]  # any token where nothing is trained: its loss is left out below
    largest, of_target = z.amax(dim=-1, keepdim=True), z.gather(1, tokens)
    inner = None if logits.softcap is None else 1 - (z / logits.softcap).square()
    # exp(z - largest) cannot overflow; in place, as neither z nor the raw output is read again
    slope = z.sub_(largest).exp_()
    total = slope.sum(dim=-1, keepdim=True)
    loss = ((total.log() + largest - of_target)[:, 0] * trained).sum()
    slope /= total
    slope.scatter_add_(1, tokens, slope.new_full((), -1.0).expand_as(tokens))  # - one_hot(target)
    if inner is not None:
        slope *= inner
    slope *= trained[:, None] * logits.scale
    return loss, slope.to(raw.dtype)
