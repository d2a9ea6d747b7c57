"""GPTQ: round column by column; the columns to come make up for it (Frantar et al. 2022, arXiv:2210.17323).

Two choices differ from the usual. Scales and zero points are fixed beforehand by the weighted search, a group being
columns that lie together, so that columns can be visited in any order and the result needs no `g_idx`. And the order is
that of falling importance: the columns that matter most are rounded while all others can still correct them.

A weight W is [n_rows, n_columns], its inputs X [n_tokens, n_columns], H = X'X / n_tokens. With U upper triangular and
U'U the inverse of H, rounding column k to q_k leaves e_k = (w_k - q_k) / U_kk, and every later column j becomes
w_j - U_kj e_k: the change of the columns to come that makes tr(dW H dW') least (algorithm 1 of the paper).
"""

import importlib.util
from dataclasses import dataclass

import numpy as np
import torch

from olivine.kernels.blockwise import Blockwise, Format, all_finite, on_all_cores, search

_HAS_TRITON = importlib.util.find_spec("triton") is not None
# Rows are independent: as many at a time as keep a block of columns in the processor's cache.
ROWS = {"cpu": 2048, "cuda": 65536}
# Of those rows each core takes so many: with a block of columns they fill half of its second cache.
SWEEP_ROWS = 256


@dataclass(frozen=True)
class Factor:
    """What the sweep needs of a Hessian; shared by all weights that read the same input.

    order: int64 [n_columns], the columns as they are visited. upper: float32 [n_columns, n_columns], U with U'U the
    inverse of the damped Hessian in that order. diagonal: float32 [n_columns], of the Hessian as given, columns as they
    lie.
    """

    order: torch.Tensor
    upper: torch.Tensor
    diagonal: torch.Tensor


def factor(hessian: torch.Tensor, *, damping: float = 0.01, act_order: bool = True) -> Factor:
    """Invert a Hessian X'X / n_tokens [n_columns, n_columns] once for all weights that read X.

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
    damped = hessian.float()[order][:, order]  # a copy
    of_inputs = damped.diagonal()  # a view: what is added here is added to the matrix
    of_inputs[of_inputs <= 0] = mean
    while damping <= 1000.0:
        of_inputs += damping * mean  # H + damping mean(diag H) I
        upper = _inverse_factor(damped)
        if upper is not None:
            return Factor(order, upper, diagonal)
        damping *= 10
    raise ValueError("the Hessian is not positive: it is no X'X")


def led_back(weight: torch.Tensor, drift: torch.Tensor, shared: Factor, share: float) -> torch.Tensor:
    """The weight [n_rows, n_columns] that gives on the inputs X what W gives on X0, those of the model as it was.

    Least squares: W + share W D inverse(H), for the drift D = (X0 - X)'X / n_tokens [n_columns, n_columns] and the
    damped H of `shared`. With a share of 1 this is the asymmetric target of GPTAQ (Li et al. 2025, arXiv:2504.02692);
    less of it trusts the calibration text less, as in QEP (Arai and Ichikawa 2025, arXiv:2504.09629).
    """
    moved = (weight.float() @ drift)[:, shared.order] @ shared.upper.T @ shared.upper
    return weight.float() + share * torch.empty_like(moved).index_copy_(1, shared.order, moved)


def _inverse_factor(matrix: torch.Tensor) -> torch.Tensor | None:
    """U with U'U = inverse(matrix), or None when the matrix is not positive; without the inverse itself.

    With J the matrix that flips the order, J M J = L L' (Cholesky) gives M = R R' for the upper R = J L J. So the
    inverse of M is (1/R)' (1/R), and U = 1/R is upper triangular as well.
    """
    lower, failed = torch.linalg.cholesky_ex(matrix.flip(0, 1))
    if int(failed):
        return None
    upper_root = lower.flip(0, 1)
    identity = torch.eye(len(matrix), dtype=matrix.dtype, device=matrix.device)
    upper = torch.linalg.solve_triangular(upper_root, identity, upper=True)
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
    rows_at_once: int | None = None,
) -> Blockwise:
    """Quantize a weight [n_rows, n_columns] so that its layer's output changes little: tr(dW H dW') is what falls.

    hessian: X'X / n_tokens [n_columns, n_columns], or its `factor` where several weights share it (`damping` and
    `act_order` are then the factor's). importance: [n_columns], weights of the search for scales; the Hessian's
    diagonal when None. block: columns after which the collected corrections reach the rest of the matrix.
    rows_at_once: rows that are swept together, None for what suits the device. Both decide the speed alone.
    half_scales: as in `search`.
    The result is on the CPU.
    Raises ValueError when the weight is not finite or its width is not the Hessian's.
    """
    shared = hessian if isinstance(hessian, Factor) else factor(hessian, damping=damping, act_order=act_order)
    if weight.shape[1] != len(shared.diagonal):
        raise ValueError(f"widths must be equal, but the weight has {weight.shape[1]}, H {len(shared.diagonal)}")
    if not all_finite(weight):
        raise ValueError("the weight is not finite")
    start = search(weight, fmt, shared.diagonal if importance is None else importance, half_scales=half_scales)
    n_rows = rows_at_once or ROWS.get(weight.device.type, ROWS["cuda"])
    for first in range(0, len(weight), n_rows):
        part = start.rows(first, first + n_rows)  # a view: its codes become those of the sweep
        part.codes.copy_(_sweep(weight[first : first + n_rows], shared, fmt, part, block))
    return start


def _sweep(weight: torch.Tensor, shared: Factor, fmt: Format, start: Blockwise, block: int) -> torch.Tensor:
    """Codes uint8 [n_rows, n_columns], with the scales and zero points of `start`.

    Works on the transpose in the order of the visit, so that a column is one run of memory.
    """
    scales = start.scales.to(weight.device)
    zero = None if start.zero_points is None else start.zero_points.to(weight.device)
    columns = weight.float().T[shared.order].contiguous()  # [n_columns, n_rows], as visited
    groups = shared.order // fmt.group  # a column keeps the group in which it lies, whenever it is visited
    # [n_groups, n_rows]; 1 for the scale 0 of a group of zeros: its codes, whatever they are, stand for 0 in the result
    scale = torch.where(scales == 0, torch.ones_like(scales), scales).T.contiguous()
    shift = torch.full_like(scale, float(fmt.middle)) if zero is None else zero.float().T.contiguous()
    codes = torch.empty(columns.shape, dtype=torch.uint8, device=weight.device)
    round_block = _round_block_on_cores if weight.device.type == "cpu" else _round_block_on_gpu
    for first in range(0, len(columns), block):
        last = min(first + block, len(columns))
        part = slice(first, last)
        errors = round_block(columns[part], shared.upper[part, part], groups[part], scale, shift, fmt, codes[part])
        columns[last:].addmm_(shared.upper[part, last:].T, errors, alpha=-1)  # w_j -= sum_k U_kj e_k, for all j behind
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
    """Round the columns [n, n_rows] one by one into `codes`; gives their errors e [n, n_rows], each over its pivot.

    upper: [n, n], the part of U that belongs to them. groups: [n], the row of each column's scales s and zero points z
    in `scale` and `shift` [n_groups, n_rows].
    """
    errors = torch.empty_like(columns)
    pivots = upper.diagonal().tolist()
    for k, group in enumerate(groups.tolist()):
        # q = clamp(floor(w / s + 1/2) + z), e = (w - s (q - z)) / U_kk
        s, z = scale[group], shift[group]
        code = torch.div(columns[k], s).add_(0.5).floor_().add_(z).clamp_(0, fmt.highest)
        codes[k] = code
        torch.sub(columns[k], code.sub_(z).mul_(s), out=errors[k]).div_(pivots[k])
        columns[k + 1 :].addr_(upper[k, k + 1 :], errors[k], alpha=-1)
    return errors


def _round_block_on_gpu(
    columns: torch.Tensor,
    upper: torch.Tensor,
    groups: torch.Tensor,
    scale: torch.Tensor,
    shift: torch.Tensor,
    fmt: Format,
    codes: torch.Tensor,
) -> torch.Tensor:
    """`_round_block` as one kernel, where Triton is."""
    if not _HAS_TRITON:
        return _round_block(columns, upper, groups, scale, shift, fmt, codes)
    from olivine.kernels import _rounding

    return _rounding.round_block(columns, upper, groups, scale, shift, fmt.highest, codes)


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
