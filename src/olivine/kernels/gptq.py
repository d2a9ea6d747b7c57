"""GPTQ: round column by column; the columns to come make up for it (Frantar et al. 2022, arXiv:2210.17323).

Two choices differ from the usual. Scales and zero points are fixed beforehand by the weighted search, a group being
columns that lie together, so that columns can be visited in any order and the result needs no `g_idx`. And the order is
that of falling importance: the columns that matter most are rounded while all others can still correct them.
"""

from dataclasses import dataclass

import torch

from olivine.kernels.blockwise import Blockwise, Format, search

# Rows are independent: as many at a time as keep a block of columns in the processor's cache.
ROWS = {"cpu": 2048, "cuda": 65536}


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
    if not bool(torch.isfinite(hessian).all()):
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
    return upper if bool(torch.isfinite(upper).all()) else None


def gptq(
    weight: torch.Tensor,
    hessian: torch.Tensor | Factor,
    fmt: Format,
    importance: torch.Tensor | None = None,
    *,
    block: int = 128,
    damping: float = 0.01,
    act_order: bool = True,
) -> Blockwise:
    """Quantize a weight [N, K] so that its layer's output changes little: tr(dW H dW') is what falls.

    hessian: X'X / n [K, K], or its `factor` where several weights share it (`damping` and `act_order` are then its).
    importance: [K], weights of the search for scales; the Hessian's diagonal when None. block: columns after which the
    collected corrections reach the rest of the matrix; it decides the speed alone. The result is on the CPU.
    Raises ValueError when the weight is not finite or its width is not the Hessian's.
    """
    shared = hessian if isinstance(hessian, Factor) else factor(hessian, damping=damping, act_order=act_order)
    if weight.shape[1] != len(shared.diagonal):
        raise ValueError(f"widths must be equal, but the weight has {weight.shape[1]}, H {len(shared.diagonal)}")
    if not bool(torch.isfinite(weight).all()):
        raise ValueError("the weight is not finite")
    start = search(weight, fmt, shared.diagonal if importance is None else importance)
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
    groups = (shared.order // fmt.group).tolist()
    scale = torch.where(scales == 0, torch.ones_like(scales), scales).T.contiguous()  # [K / group, N]
    shift = torch.full_like(scale, float(fmt.middle)) if zero is None else zero.float().T.contiguous()
    codes = torch.empty(columns.shape, dtype=torch.uint8, device=weight.device)
    pivots = shared.upper.diagonal().tolist()
    for first in range(0, len(columns), block):
        last = min(first + block, len(columns))
        errors = torch.empty_like(columns[first:last])
        for k in range(first, last):
            column, s, z = columns[k], scale[groups[k]], shift[groups[k]]
            code = torch.div(column, s).add_(z).round_().clamp_(0, fmt.highest)
            codes[k] = code
            error = errors[k - first]
            torch.sub(column, code.sub_(z).mul_(s), out=error).div_(pivots[k])
            columns[k + 1 : last].addr_(shared.upper[k, k + 1 : last], error, alpha=-1)
        columns[last:].addmm_(shared.upper[first:last, last:].T, errors, alpha=-1)
    return torch.empty_like(codes).index_copy_(0, shared.order, codes).T.contiguous()
