"""GPTQ's walk over a block of columns as one Triton kernel: in torch it is eight launches a column."""

# mypy: disable-error-code="import-not-found,untyped-decorator,no-untyped-def,unused-ignore,no-any-return"
# (Triton comes with torch for CUDA only, and its kernels are not typed)
# ruff: noqa: ANN001, ANN202, N803, PLR0917 - kernels name their arguments as the tensors of the equations

import torch
import triton
import triton.language as tl

ROWS = 32  # of the weight, a program; they do not depend on each other


@triton.jit
def _round(
    columns,
    upper,
    groups,
    scale,
    shift,
    codes,
    errors,
    n_rows,
    n_columns,
    highest,
    BLOCK: tl.constexpr,
    ROWS: tl.constexpr,
):
    """Round n_columns columns of some rows; the errors stay in registers, and each column is corrected by them."""
    row, j = tl.program_id(0) * ROWS + tl.arange(0, ROWS), tl.arange(0, BLOCK)
    inside = row < n_rows
    made = tl.zeros((BLOCK, ROWS), dtype=tl.float32)
    for k in range(n_columns):
        place = k * n_rows + row
        before = tl.load(upper + j * n_columns + k, mask=j < k, other=0.0)
        value = tl.load(columns + place, mask=inside, other=0.0) - tl.sum(made * before[:, None], axis=0)
        of_group = tl.load(groups + k) * n_rows + row
        s = tl.load(scale + of_group, mask=inside, other=1.0)
        z = tl.load(shift + of_group, mask=inside, other=0.0)
        code = tl.floor(tl.div_rn(value, s) + 0.5) + z
        code = tl.minimum(tl.maximum(code, 0.0), highest)
        tl.store(codes + place, code.to(tl.uint8), mask=inside)
        error = tl.div_rn(value - (code - z) * s, tl.load(upper + k * n_columns + k))
        tl.store(errors + place, error, mask=inside)
        made = tl.where(j[:, None] == k, error[None, :], made)


def round_block(
    columns: torch.Tensor,
    upper: torch.Tensor,
    groups: torch.Tensor,
    scale: torch.Tensor,
    shift: torch.Tensor,
    highest: int,
    codes: torch.Tensor,
) -> torch.Tensor:
    """Round the columns [B, N] one by one into `codes`; gives their errors [B, N], each over its pivot.

    upper: [B, B], the part of the factor that belongs to them. groups: int64 [B], the row of each column's scales and
    zero points in `scale` and `shift` [K / group, N]. Columns, codes, scale and shift have their rows in one piece.
    """
    n_columns, n_rows = columns.shape
    errors = torch.empty_like(columns)
    block = max(16, triton.next_power_of_2(n_columns))
    _round[(triton.cdiv(n_rows, ROWS),)](
        columns, upper.contiguous(), groups, scale, shift, codes, errors, n_rows, n_columns, float(highest), block, ROWS
    )
    return errors
