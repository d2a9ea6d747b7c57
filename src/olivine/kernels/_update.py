"""LoRA's two wide products as Triton kernels: each reads the wide matrix once, which is all of their cost.

A product with a rank of 16 does no work to speak of; cuBLAS takes 1.5 times as long as the bytes do for adding the
update, and reads the gradient twice for its two products.
"""

# mypy: disable-error-code="import-not-found,untyped-decorator,no-untyped-def,unused-ignore,no-any-return"
# (Triton comes with torch for CUDA only, and its kernels are not typed)
# ruff: noqa: ANN001, ANN202, N803, PLR0917 - kernels name their arguments as the tensors of the equations

import torch
import triton
import triton.language as tl

ROWS, COLUMNS = 64, 256  # of a tile of the sum
SLAB, STRIPE = 256, 64  # tokens of a program and columns of a tile of the two products
# Programs of the two products: enough to fill the multiprocessors of a large GPU, few enough that the sum over their
# partial results stays short.
PROGRAMS = 256


@triton.jit
def _add(y, u, b, n_rows, n_columns, rank, ROWS: tl.constexpr, COLUMNS: tl.constexpr, RANK: tl.constexpr):
    """Add u [n_rows, rank] @ b [n_columns, rank]^T to y [n_rows, n_columns], a tile a program.

    RANK: the rank, padded; what is loaded beyond it is zero and adds nothing.
    """
    row = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    column = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    k = tl.arange(0, RANK)
    left = tl.load(u + row[:, None] * rank + k, mask=(row[:, None] < n_rows) & (k < rank), other=0.0)
    right = tl.load(b + column[:, None] * rank + k, mask=(column[:, None] < n_columns) & (k < rank), other=0.0)
    # 64 bits: rows times columns of a long batch are more than 2**31
    tile = y + row[:, None].to(tl.int64) * n_columns + column
    inside = (row[:, None] < n_rows) & (column < n_columns)
    total = tl.dot(left, tl.trans(right)) + tl.load(tile, mask=inside, other=0.0)
    tl.store(tile, total.to(y.dtype.element_ty), mask=inside)


@triton.jit
def _reduce(
    g,  # [n_rows, n_columns]: the gradient of the layer's output
    u,  # [n_rows, rank]: the layer's input in the update's low rank
    b,  # [n_columns, rank]
    du,  # [n_shares, n_rows, rank] float32, written: each share's part of g b
    db,  # [n_slabs, n_columns, rank] float32, written: each slab's part of g' u
    n_rows,
    n_columns,
    rank,
    n_stripes,  # tiles of columns in one share
    SLAB: tl.constexpr,
    STRIPE: tl.constexpr,
    RANK: tl.constexpr,
):
    """Partial sums of g @ b and g^T @ u over one slab of tokens and a share of the columns; a tile is read once."""
    slab, share = tl.program_id(0), tl.program_id(1)
    row, k = slab * SLAB + tl.arange(0, SLAB), tl.arange(0, RANK)
    reduced = tl.load(u + row[:, None] * rank + k, mask=(row[:, None] < n_rows) & (k < rank), other=0.0)
    total = tl.zeros((SLAB, RANK), dtype=tl.float32)
    for stripe in range(n_stripes):
        column = (share * n_stripes + stripe) * STRIPE + tl.arange(0, STRIPE)
        inside = (row[:, None] < n_rows) & (column < n_columns)
        tile = tl.load(g + row[:, None].to(tl.int64) * n_columns + column, mask=inside, other=0.0)
        within = (column[:, None] < n_columns) & (k < rank)
        total += tl.dot(tile, tl.load(b + column[:, None] * rank + k, mask=within, other=0.0))
        part = tl.dot(tl.trans(tile), reduced)
        tl.store(db + (slab.to(tl.int64) * n_columns + column[:, None]) * rank + k, part, mask=within)
    of_share = du + (share * n_rows + row[:, None]) * rank + k
    tl.store(of_share, total, mask=(row[:, None] < n_rows) & (k < rank))


def _padded_rank(rank: int) -> int:
    return max(16, triton.next_power_of_2(rank))  # the least that the matrix units take


def add_update(y: torch.Tensor, u: torch.Tensor, b: torch.Tensor) -> None:
    """Add u b' to y in place; y [n_rows, n_columns], u [n_rows, rank], b [n_columns, rank], contiguous, of one type."""
    n_rows, n_columns = y.shape
    grid = (triton.cdiv(n_columns, COLUMNS), triton.cdiv(n_rows, ROWS))
    _add[grid](y, u, b, n_rows, n_columns, u.shape[1], ROWS, COLUMNS, _padded_rank(u.shape[1]), num_warps=8)


def two_products(g: torch.Tensor, u: torch.Tensor, b: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The products g b [n_rows, rank] and g' u [n_columns, rank], with g [n_rows, n_columns] read once.

    Partial sums are added up in a fixed order: the same inputs give the same bits.
    """
    (n_rows, n_columns), rank = g.shape, u.shape[1]
    n_slabs = triton.cdiv(n_rows, SLAB)
    n_tiles = triton.cdiv(n_columns, STRIPE)
    n_shares = max(1, min(n_tiles, PROGRAMS // n_slabs))
    n_stripes = triton.cdiv(n_tiles, n_shares)
    du = torch.zeros((n_shares, n_rows, rank), dtype=torch.float32, device=g.device)
    db = torch.empty((n_slabs, n_columns, rank), dtype=torch.float32, device=g.device)
    _reduce[(n_slabs, n_shares)](
        g, u, b, du, db, n_rows, n_columns, rank, n_stripes, SLAB, STRIPE, _padded_rank(rank), num_warps=8
    )
    return du.sum(0).to(g.dtype), db.sum(0).to(g.dtype)
