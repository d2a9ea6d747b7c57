"""Mend what a sweep left: codes one by one, then scales all at once, in turn, each to the least error of its rows.

GPTQ rounds a column once and never looks back. Coordinate descent does: with all other codes as they are, the error
d'H d of a row (d = w' - w, H = X'X / n_tokens) is a parabola in one code, whose least whole number is known (the idea
of CDQuant, Nair and Suggala 2024, arXiv:2406.17542, with one code at a time). For given codes, the error is a quadratic
form in the scales of the row's groups, whose least point solves a small system. Neither can raise the error.

On correlated inputs this takes a fifth off the error that GPTQ leaves, where learned rounding (SignRound,
arXiv:2309.05516) from the same start doubles it: see docs/decisions.
"""

from collections.abc import Callable

import numpy as np
import torch

from olivine.kernels.blockwise import Blockwise, on_all_cores

ROWS = 8192  # of the weight at once: a head has a hundred thousand
BLOCK = 128  # columns whose slopes are kept up to date one by one; the others' wait for the whole block
TILE_ROWS = 256  # rows of the weight that a core works on
Descend = Callable[..., None]
SOLVED = 1 << 22  # numbers held at once, of products of codes and H


def refine(
    weight: torch.Tensor,
    hessian: torch.Tensor,
    start: Blockwise,
    *,
    n_rounds: int = 2,
    damping: float = 0.01,
    half_scales: bool = False,
    compiled: bool | None = None,
) -> Blockwise:
    """Codes and scales with at most the error tr(dW H dW') of `start`; zero points stay.

    weight: [n_rows, n_columns]. hessian: X'X / n_tokens [n_columns, n_columns]. n_rounds: how often codes and then
    scales are mended; the codes once more at the end. damping: share of the mean diagonal that is added to the Hessian,
    as GPTQ does: what falls is the damped error. half_scales: scales are float16 numbers. compiled: the loop over
    columns, for CPUs; None for what suits the device. The result is on the CPU.
    """
    is_compiled = weight.device.type == "cpu" if compiled is None else compiled
    damped, parts = _damped(hessian, damping), []
    for first in range(0, len(weight), ROWS):
        part = slice(first, first + ROWS)
        of_part = weight[part], damped, start.rows(first, first + ROWS)
        rows = _Rows(*of_part, _on_cores if is_compiled else _in_torch)
        for _ in range(n_rounds):
            rows.mend_codes()
            rows.mend_scales(half_scales=half_scales)
        rows.mend_codes()
        parts.append(rows.result())
    codes, scales = torch.cat([one.codes for one in parts]), torch.cat([one.scales for one in parts])
    return Blockwise(start.bits, start.group, codes, scales, start.zero_points)


def _damped(hessian: torch.Tensor, damping: float) -> torch.Tensor:
    damped = hessian.float().clone()
    damped.diagonal().add_(damping * (float(damped.diagonal().mean()) or 1.0))
    return damped


class _Rows:
    """A weight between two steps. Columns are visited by falling importance; arrays hold them as rows, as visited."""

    def __init__(self, weight: torch.Tensor, hessian: torch.Tensor, start: Blockwise, descend: Descend) -> None:
        self._start, self._device, self._descend = start, weight.device, descend
        self._order = torch.argsort(hessian.diagonal(), descending=True, stable=True)
        self._hessian = hessian  # as the columns lie
        self._sorted = hessian[self._order][:, self._order].contiguous()
        self._groups = (self._order // start.group).cpu()
        self._weight = weight.float()
        self._codes = start.codes.to(self._device).T[self._order].contiguous()
        self._scales = start.scales.to(self._device).T.contiguous()  # [n_groups, n_rows]
        middle = float(1 << (start.bits - 1))
        zeros = torch.full_like(start.scales, middle) if start.zero_points is None else start.zero_points.float()
        self._zeros = zeros.to(self._device)  # [n_rows, n_groups]

    def mend_codes(self) -> None:
        """One visit of every column."""
        slope = self._sorted @ (self._value() - self._weight).T[self._order]
        moved = torch.empty_like(slope)
        highest = (1 << self._start.bits) - 1
        for first in range(0, len(slope), BLOCK):
            part = slice(first, min(first + BLOCK, len(slope)))
            of_block = self._sorted[part, part].contiguous(), self._groups[part], highest
            self._descend(*of_block, slope[part], self._scales, self._codes[part], moved[part])
            slope[: part.start].addmm_(self._sorted[: part.start, part], moved[part])
            slope[part.stop :].addmm_(self._sorted[part.stop :, part], moved[part])

    def mend_scales(self, *, half_scales: bool) -> None:
        """The scales s of each row that make (s C - w) H (s C - w)' least, for its counted codes C by groups.

        C H C' s = C H w', with C [n_groups, n_columns] zero outside of each group. Rows where the solution (rounded,
        with half_scales) is no better keep theirs.
        """
        counted = self._counted()  # [n_rows, n_groups, group]
        n_rows, n_groups, group = counted.shape
        by_group = self._hessian.view(n_groups, group, -1)
        step = max(1, SOLVED // (n_groups * n_groups * group))
        for first in range(0, n_rows, step):
            codes = counted[first : first + step]
            product = torch.bmm(codes.transpose(0, 1), by_group).transpose(0, 1)  # C H, [n, n_groups, n_columns]
            quadratic = (product.reshape(len(codes), n_groups, n_groups, group) * codes[:, None]).sum(dim=-1)
            linear = torch.einsum("ngk,nk->ng", product, self._weight[first : first + step])
            old = self._scales[:, first : first + step].T
            new = _solved(quadratic, linear)
            new = new.half().float() if half_scales else new
            better = _error(new, quadratic, linear) < _error(old, quadratic, linear)
            self._scales[:, first : first + step] = torch.where(better[:, None], new, old).T

    def result(self) -> Blockwise:
        """What is stored, on the CPU."""
        start, codes = self._start, torch.empty_like(self._codes).index_copy_(0, self._order, self._codes)
        return Blockwise(
            start.bits, start.group, codes.T.contiguous().cpu(), self._scales.T.contiguous().cpu(), start.zero_points
        )

    def _counted(self) -> torch.Tensor:
        """Codes from their zero points, [n_rows, n_groups, group], columns as they lie."""
        codes = torch.empty_like(self._codes).index_copy_(0, self._order, self._codes).T.float()
        return codes.reshape(len(codes), -1, self._start.group) - self._zeros[..., None]

    def _value(self) -> torch.Tensor:
        """The weight as stored, [n_rows, n_columns]."""
        return (self._counted() * self._scales.T[..., None]).flatten(1)


def _solved(quadratic: torch.Tensor, linear: torch.Tensor) -> torch.Tensor:
    """The solution s of every row's system, [n, n_groups]; a group of zeros, whose equation is empty, gets 0."""
    diagonal = quadratic.diagonal(dim1=1, dim2=2)
    ridge = 1e-6 * diagonal.mean(dim=1, keepdim=True) + torch.where(diagonal == 0, 1.0, 0.0)
    solution, _ = torch.linalg.solve_ex(quadratic + torch.diag_embed(ridge), linear[..., None])
    return solution[..., 0]


def _error(scales: torch.Tensor, quadratic: torch.Tensor, linear: torch.Tensor) -> torch.Tensor:
    """The error of every row but for a constant, s'Q s - 2 s'l, [n]; what is not a number is worse than anything."""
    error = torch.einsum("ng,ngh,nh->n", scales, quadratic, scales) - 2 * (scales * linear).sum(dim=1)
    return error.nan_to_num(nan=torch.inf, posinf=torch.inf, neginf=torch.inf)


def _on_cores(
    hessian: torch.Tensor,
    groups: torch.Tensor,
    highest: int,
    slope: torch.Tensor,
    scales: torch.Tensor,
    codes: torch.Tensor,
    moved: torch.Tensor,
) -> None:
    """`_blocks.descend_columns`, some rows of the weight at a time on each core."""
    from olivine.kernels import _blocks

    arrays = [tensor.numpy() for tensor in (slope, scales, codes, moved)]
    shared = hessian.numpy(), groups.numpy(), np.float32(highest)

    def work(first: int) -> None:
        tile = slice(first, first + TILE_ROWS)
        _blocks.descend_columns(*shared, *(array[:, tile] for array in arrays))

    on_all_cores(work, range(0, codes.shape[1], TILE_ROWS))


def _in_torch(
    hessian: torch.Tensor,
    groups: torch.Tensor,
    highest: int,
    slope: torch.Tensor,
    scales: torch.Tensor,
    codes: torch.Tensor,
    moved: torch.Tensor,
) -> None:
    """`_blocks.descend_columns`, column by column on any device."""
    for k, group in enumerate(groups.tolist()):
        step = scales[group]
        per_code = step * hessian[k, k]
        aim = torch.where(per_code == 0, torch.zeros_like(step), slope[k] / per_code)
        before = codes[k].float()
        after = (before - aim + 0.5).floor().clamp(0, highest)
        codes[k] = after.to(codes.dtype)
        moved[k] = (after - before) * step
        slope.addr_(hessian[k], moved[k])
