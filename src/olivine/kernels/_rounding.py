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
    columns,  # [n_columns, n_rows] float32: the weight's columns, before any correction within the block
    upper,  # [n_columns, n_columns] float32: U of the inverse Hessian U'U, its rows and columns of this block
    groups,  # [n_columns] int64: the row of each column in scale and shift
    scale,  # [n_groups, n_rows] float32: s
    shift,  # [n_groups, n_rows] float32: z, a code
    codes,  # [n_columns, n_rows] uint8, written: q
    errors,  # [n_columns, n_rows] float32, written: e
    n_rows,
    n_columns,
    highest,  # the largest code
    BLOCK: tl.constexpr,  # n_columns, padded to a power of two
    ROWS: tl.constexpr,
):
    """Round n_columns columns of ROWS rows; the errors stay in registers, and each column is corrected by them."""
    row, j = tl.program_id(0) * ROWS + tl.arange(0, ROWS), tl.arange(0, BLOCK)
    inside = row < n_rows
    earlier = tl.zeros((BLOCK, ROWS), dtype=tl.float32)  # e of the columns before k, zero from there on
    for k in range(n_columns):
        offset = k * n_rows + row
        of_earlier = tl.load(upper + j * n_columns + k, mask=j < k, other=0.0)
        # w_k - sum_{j<k} U_jk e_j: what all corrections before k leave of the column
        value = tl.load(columns + offset, mask=inside, other=0.0) - tl.sum(earlier * of_earlier[:, None], axis=0)
        of_group = tl.load(groups + k) * n_rows + row
        s = tl.load(scale + of_group, mask=inside, other=1.0)
        z = tl.load(shift + of_group, mask=inside, other=0.0)
        # div_rn: the division that the processor rounds the same way, so that both give the same codes
        code = tl.floor(tl.div_rn(value, s) + 0.5) + z
        code = tl.minimum(tl.maximum(code, 0.0), highest)
        tl.store(codes + offset, code.to(tl.uint8), mask=inside)
        error = tl.div_rn(value - (code - z) * s, tl.load(upper + k * n_columns + k))
        tl.store(errors + offset, error, mask=inside)
        earlier = tl.where(j[:, None] == k, error[None, :], earlier)


def round_block(
    columns: torch.Tensor,
    upper: torch.Tensor,
    groups: torch.Tensor,
    scale: torch.Tensor,
    shift: torch.Tensor,
    highest: int,
    codes: torch.Tensor,
) -> torch.Tensor:
    """Round columns [n_columns, n_rows] one by one into `codes`; gives their errors, as large, each over its pivot.

    upper: [n_columns, n_columns], the part of the factor that belongs to them. groups: int64 [n_columns], the row of
    each column's scales and zero points in `scale` and `shift` [n_groups, n_rows]. Columns, codes, scale and shift are
    contiguous.
    """
    n_columns, n_rows = columns.shape
    errors = torch.empty_like(columns)
    block = max(16, triton.next_power_of_2(n_columns))
    _round[(triton.cdiv(n_rows, ROWS),)](
        columns, upper.contiguous(), groups, scale, shift, codes, errors, n_rows, n_columns, float(highest), block, ROWS
    )
    return errors
