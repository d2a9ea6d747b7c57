"""GPTQ: round column by column; the columns to come make up for it (Frantar et al. 2022, arXiv:2210.17323).

Two choices differ from the usual. Scales and zero points are fixed beforehand by the weighted search, a group being
columns that lie together, so that columns can be visited in any order and the result needs no `g_idx`. And the order is
that of falling importance: the columns that matter most are rounded while all others can still correct them.
"""

from dataclasses import dataclass

import numpy as np
import torch

from olivine.kernels.blockwise import Blockwise, Format, all_finite, on_all_cores, search

# Rows are independent: as many at a time as keep a block of columns in the processor's cache.
ROWS = {"cpu": 2048, "cuda": 65536}
# of which each core takes so many: with a block of columns they fill half of its second cache
SWEEP_ROWS = 256


@dataclass(frozen=True)
class Factor:
    """What the sweep needs of a Hessian; shared by all weights that read the same input.

    order: int64 [K], the columns as they are visited. upper: float32 [K, K], U with U'U = inverse of the damped Hessian
    in that order. diagonal: float32 [K], of the Hessian as given.
    """

    order: torch.Tensor
    upper: torch.Tensor
    diagonal: torch.Tensor


def factor(hessian: torch.Tensor, *, damping: float = 0.01, act_order: bool = True) -> Factor:
    """Invert a Hessian X'X / n [K, K] once for all weights that read X.

    damping: share of the mean diagonal that is added to it; raised tenfold until the matrix can be inverted, so fewer
    tokens than columns are no error. An input that is always zero gets the mean, and is left out of every correction.
    Raises ValueError when the Hessian is not finite.
    """
    if not all_finite(hessian):
        raise ValueError("the Hessian is not finite")
    diagonal = hessian.diagonal().float().clone()
    mean = float(diagonal.mean()) or 1.0
    order = torch.argsort(diagonal, descending=True, stable=True) if act_order else torch.arange(len(diagonal))
    order = order.to(hessian.device)
    damped = hessian.float()[order][:, order]
    slots = damped.diagonal()
    slots[slots <= 0] = mean
    while damping <= 1000.0:
        slots += damping * mean
        upper = _inverse_factor(damped)
        if upper is not None:
            return Factor(order, upper, diagonal)
        damping *= 10
    raise ValueError("the Hessian is not positive: it is no X'X")


def _inverse_factor(matrix: torch.Tensor) -> torch.Tensor | None:
    """U with U'U = inverse(matrix), or None. Flipped, a lower Cholesky factor becomes an upper R: matrix = R R'."""
    lower, failed = torch.linalg.cholesky_ex(matrix.flip(0, 1))
    if int(failed):
        return None
    outer = lower.flip(0, 1)
    identity = torch.eye(len(matrix), dtype=matrix.dtype, device=matrix.device)
    upper = torch.linalg.solve_triangular(outer, identity, upper=True)
    return upper if all_finite(upper) else None


def gptq(
    weight: torch.Tensor,
    hessian: torch.Tensor | Factor,
    fmt: Format,
    importance: torch.Tensor | None = None,
    *,
    block: int = 128,
    damping: float = 0.01,
    act_order: bool = True,
    half_scales: bool = False,
) -> Blockwise:
    """Quantize a weight [N, K] so that its layer's output changes little: tr(dW H dW') is what falls.

    hessian: X'X / n [K, K], or its `factor` where several weights share it (`damping` and `act_order` are then its).
    importance: [K], weights of the search for scales; the Hessian's diagonal when None. block: columns after which the
    collected corrections reach the rest of the matrix; it decides the speed alone. half_scales: as in `search`.
    The result is on the CPU.
    Raises ValueError when the weight is not finite or its width is not the Hessian's.
    """
    shared = hessian if isinstance(hessian, Factor) else factor(hessian, damping=damping, act_order=act_order)
    if weight.shape[1] != len(shared.diagonal):
        raise ValueError(f"widths must be equal, but the weight has {weight.shape[1]}, H {len(shared.diagonal)}")
    if not all_finite(weight):
        raise ValueError("the weight is not finite")
    start = search(weight, fmt, shared.diagonal if importance is None else importance, half_scales=half_scales)
    n_rows = ROWS.get(weight.device.type, ROWS["cuda"])
    for first in range(0, len(weight), n_rows):
        part = start.rows(first, first + n_rows)  # a view: its codes become those of the sweep
        part.codes.copy_(_sweep(weight[first : first + n_rows], shared, fmt, part, block))
    return start


def _sweep(weight: torch.Tensor, shared: Factor, fmt: Format, start: Blockwise, block: int) -> torch.Tensor:
    """Codes [N, K]. Works on the transpose in the order of the visit, so that a column is one run of memory."""
    scales = start.scales.to(weight.device)
    zero = None if start.zero_points is None else start.zero_points.to(weight.device)
    columns = weight.float().T[shared.order].contiguous()  # [K, N]
    groups = shared.order // fmt.group
    scale = torch.where(scales == 0, torch.ones_like(scales), scales).T.contiguous()  # [K / group, N]
    shift = torch.full_like(scale, float(fmt.middle)) if zero is None else zero.float().T.contiguous()
    codes = torch.empty(columns.shape, dtype=torch.uint8, device=weight.device)
    round_block = _round_block_on_cores if weight.device.type == "cpu" else _round_block
    for first in range(0, len(columns), block):
        last = min(first + block, len(columns))
        part = slice(first, last)
        errors = round_block(columns[part], shared.upper[part, part], groups[part], scale, shift, fmt, codes[part])
        columns[last:].addmm_(shared.upper[part, last:].T, errors, alpha=-1)
    return torch.empty_like(codes).index_copy_(0, shared.order, codes).T.contiguous()


def _round_block(
    columns: torch.Tensor,
    upper: torch.Tensor,
    groups: torch.Tensor,
    scale: torch.Tensor,
    shift: torch.Tensor,
    fmt: Format,
    codes: torch.Tensor,
) -> torch.Tensor:
    """Round the columns [B, N] one by one into `codes`; gives their errors [B, N], each over its pivot.

    upper: [B, B], the part of the factor that belongs to them. groups: [B], the row of each column's scales and zero
    points in `scale` and `shift` [K / group, N].
    """
    errors = torch.empty_like(columns)
    pivots = upper.diagonal().tolist()
    for k, group in enumerate(groups.tolist()):
        s, z = scale[group], shift[group]
        code = torch.div(columns[k], s).add_(0.5).floor_().add_(z).clamp_(0, fmt.highest)
        codes[k] = code
        torch.sub(columns[k], code.sub_(z).mul_(s), out=errors[k]).div_(pivots[k])
        columns[k + 1 :].addr_(upper[k, k + 1 :], errors[k], alpha=-1)
    return errors


def _round_block_on_cores(
    columns: torch.Tensor,
    upper: torch.Tensor,
    groups: torch.Tensor,
    scale: torch.Tensor,
    shift: torch.Tensor,
    fmt: Format,
    codes: torch.Tensor,
) -> torch.Tensor:
    """`_round_block` compiled, some rows of the weight at a time on each core."""
    from olivine.kernels import _blocks

    errors = torch.empty_like(columns)
    arrays = [tensor.numpy() for tensor in (columns, scale, shift, codes, errors)]
    shared = upper.contiguous().numpy(), groups.numpy(), np.float32(fmt.highest)

    def work(first: int) -> None:
        tile = slice(first, first + SWEEP_ROWS)
        _blocks.sweep_columns(*shared, *(array[:, tile] for array in arrays))

    on_all_cores(work, range(0, columns.shape[1], SWEEP_ROWS))
    return errors
