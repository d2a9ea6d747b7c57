"""What a decoder layer does between its matrix products, as Triton kernels: each wide tensor is read and written once.

LoRA's update of a product is added where the product's result is read next, by a small product in the same kernel; the
wide result is never read and written for the update alone. `fused_ops` has the equations and the same in torch.
"""

# mypy: disable-error-code="import-not-found,untyped-decorator,no-untyped-def,unused-ignore,no-any-return"
# (Triton comes with torch for CUDA only, and its kernels are not typed)
# ruff: noqa: ANN001, ANN202, N803, PLR0917 - kernels name their arguments as the tensors of the equations
# ruff: noqa: C901, PLR0912, PLR0915 - each is one loop over what is read once

import math

import torch
import triton
import triton.language as tl

from olivine.kernels.fused_types import FLOAT8_LARGEST, Rotation, Update

# Sizes of a program, each the fastest of half a dozen on an H200 for the shapes of Phi-3-mini and Qwen3-4B with 8,192
# tokens. Norms: rows, columns of a tile, warps. The matrix units take no fewer than 16 rows.
NORM = (16, 512, 4)
TILE_ROWS, TILE_COLUMNS = 64, 64
# Rows and columns of a tile, warps of a program, tiles of rows that it goes through.
GATE, GATE_SLOPE = (32, 64, 4, 16), (32, 64, 4, 16)
NORM_SLOPE = (64, 128, 8, 4)
# Rows of a tile, warps of a program, heads that it goes through.
ROTATE, ROTATE_SLOPE = (32, 4, 1), (64, 4, 1)
MOST_HELD, QUANTIZE = 8192, 2048  # columns of a row that stays in registers, and of a tile of a longer one
TRANSPOSE = (64, 64, 4)  # words of four rows, columns, warps
SLAB = 256  # tokens over which one program of the slopes sums
PROGRAMS = 256  # of the slopes: enough to fill a large GPU, few enough that the sum of their parts stays short


@triton.jit
def _low_rank(u, b, row, column, n_rows, n_columns, u_stride, b_column, b_rank, rank, RANK: tl.constexpr):
    """The tile u[row, :rank] b[column, :rank]' in float32; what is padded beyond the rank is zero and adds nothing."""
    k = tl.arange(0, RANK)
    left = tl.load(u + row[:, None].to(tl.int64) * u_stride + k, mask=(row[:, None] < n_rows) & (k < rank), other=0.0)
    place = column[:, None] * b_column + k * b_rank
    right = tl.load(b + place, mask=(column[:, None] < n_columns) & (k < rank), other=0.0)
    return tl.dot(left, tl.trans(right))


@triton.jit(do_not_specialize=["n_rows"])
def _add(
    h,
    y,
    u,
    b,
    out,
    n_rows,
    n_columns,
    b_column,
    b_rank,
    rank,
    RANK: tl.constexpr,
    STREAM: tl.constexpr,
    TILE_ROWS: tl.constexpr,
    TILE_COLUMNS: tl.constexpr,
):
    """Write y + u b', and with STREAM h + y + u b'; a tile a program."""
    row = tl.program_id(1) * TILE_ROWS + tl.arange(0, TILE_ROWS)
    column = tl.program_id(0) * TILE_COLUMNS + tl.arange(0, TILE_COLUMNS)
    inside = (row[:, None] < n_rows) & (column < n_columns)
    tile = row[:, None].to(tl.int64) * n_columns + column
    total = tl.load(y + tile, mask=inside, other=0.0).to(tl.float32)
    if STREAM:
        total += tl.load(h + tile, mask=inside, other=0.0).to(tl.float32)
    if RANK > 0:
        total += _low_rank(u, b, row, column, n_rows, n_columns, rank, b_column, b_rank, rank, RANK)
    tl.store(out + tile, total.to(out.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["n_rows"])
def _norm(
    h,
    y,
    u,
    b,
    weight,
    out,
    x,
    inverse_rms,
    codes,
    scales,
    n_rows,
    n_columns,
    rank,
    eps,
    LARGEST: tl.constexpr,
    ADDS: tl.constexpr,
    RANK: tl.constexpr,
    CODES: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """Root mean square norm of h, or of out = h + y + u b'; with CODES also in 8 bits, a scale a row.

    The first pass sums, the second writes; the rows are still in the cache then.
    """
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    first = row[:, None].to(tl.int64) * n_columns
    squares = tl.zeros((ROWS,), dtype=tl.float32)
    largest = tl.zeros((ROWS,), dtype=tl.float32)
    for start in range(0, n_columns, COLUMNS):
        column = start + tl.arange(0, COLUMNS)
        inside = (row[:, None] < n_rows) & (column < n_columns)
        value = tl.load(h + first + column, mask=inside, other=0.0).to(tl.float32)
        if ADDS:
            value += tl.load(y + first + column, mask=inside, other=0.0).to(tl.float32)
            if RANK > 0:
                value += _low_rank(u, b, row, column, n_rows, n_columns, rank, rank, 1, rank, RANK)
            rounded = value.to(out.dtype.element_ty)
            tl.store(out + first + column, rounded, mask=inside)
            value = rounded.to(tl.float32)
        squares += tl.sum(value * value, axis=1)
        if CODES:
            factor = tl.load(weight + column, mask=column < n_columns, other=0.0)
            largest = tl.maximum(largest, tl.max(tl.abs(value * factor), axis=1))
    inverse = tl.rsqrt(squares / n_columns + eps)
    tl.store(inverse_rms + row, inverse, mask=row < n_rows)
    if CODES:
        scale = tl.maximum(largest * inverse, 1e-12) / LARGEST
        tl.store(scales + row, scale, mask=row < n_rows)
    if ADDS:
        tl.debug_barrier()  # other threads of the program read what this one has written
    for start in range(0, n_columns, COLUMNS):
        column = start + tl.arange(0, COLUMNS)
        inside = (row[:, None] < n_rows) & (column < n_columns)
        if ADDS:
            value = tl.load(out + first + column, mask=inside, other=0.0).to(tl.float32)
        else:
            value = tl.load(h + first + column, mask=inside, other=0.0).to(tl.float32)
        factor = tl.load(weight + column, mask=column < n_columns, other=0.0)
        normed = value * inverse[:, None] * factor
        tl.store(x + first + column, normed.to(x.dtype.element_ty), mask=inside)
        if CODES:
            tl.store(codes + first + column, (normed * (1.0 / scale[:, None])).to(codes.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["n_rows"])
def _norm_slope(
    dx,
    du,
    a,
    along,
    h,
    weight,
    inverse_rms,
    stream,
    out,
    n_rows,
    n_columns,
    rank,
    n_tiles,
    STREAM: tl.constexpr,
    RANK: tl.constexpr,
    TILE_ROWS: tl.constexpr,
    TILE_COLUMNS: tl.constexpr,
):
    """The slope by the norm's input, for dx + du a behind the norm and `stream` beside it; a's part is read once.

    along: what the slope has in the direction of the norm's result, which the caller knows: nothing is summed here.
    """
    column = tl.program_id(0) * TILE_COLUMNS + tl.arange(0, TILE_COLUMNS)
    factor = tl.load(weight + column, mask=column < n_columns, other=0.0)
    if RANK > 0:
        of_columns = _columns_of(a, column, n_columns, 1, n_columns, rank, RANK)
    for tile in range(n_tiles):
        row = (tl.program_id(1) * n_tiles + tile) * TILE_ROWS + tl.arange(0, TILE_ROWS)
        inside = (row[:, None] < n_rows) & (column < n_columns)
        place = row[:, None].to(tl.int64) * n_columns + column
        inverse = tl.load(inverse_rms + row, mask=row < n_rows, other=1.0)
        share = tl.load(along + row, mask=row < n_rows, other=0.0) * inverse * inverse / n_columns
        slope = tl.load(dx + place, mask=inside, other=0.0).to(tl.float32)
        value = tl.load(h + place, mask=inside, other=0.0).to(tl.float32)
        if RANK > 0:
            slope += tl.dot(_ranks_of(du, row, n_rows, rank, rank, RANK), of_columns)
        result = slope * factor * inverse[:, None] - value * share[:, None]
        if STREAM:
            result += tl.load(stream + place, mask=inside, other=0.0).to(tl.float32)
        tl.store(out + place, result.to(out.dtype.element_ty), mask=inside)


@triton.jit
def _sigmoid(z):
    return 1.0 / (1.0 + tl.exp(-z))


@triton.jit
def _activated(z, GELU: tl.constexpr):
    """SiLU, or GELU in its form with a hyperbolic tangent: z sigmoid(2 c (z + 0.044715 z^3)), c = sqrt(2 / pi)."""
    if GELU:
        return z * _sigmoid(1.5957691216057308 * (z + 0.044715 * z * z * z))
    return z * _sigmoid(z)


@triton.jit
def _activation_slope(z, GELU: tl.constexpr):
    if GELU:
        s = _sigmoid(1.5957691216057308 * (z + 0.044715 * z * z * z))
        return s + z * s * (1.0 - s) * 1.5957691216057308 * (1.0 + 3 * 0.044715 * z * z)
    s = _sigmoid(z)
    return s + z * s * (1.0 - s)


@triton.jit
def _columns_of(b, column, n_columns, b_column, b_rank, rank, RANK: tl.constexpr):
    """The rows of b that belong to a tile's columns, transposed: [RANK, columns]; zeros beyond the rank."""
    k = tl.arange(0, RANK)
    place = column[None, :] * b_column + k[:, None] * b_rank
    return tl.load(b + place, mask=(column[None, :] < n_columns) & (k[:, None] < rank), other=0.0)


@triton.jit
def _ranks_of(u, row, n_rows, u_stride, rank, RANK: tl.constexpr):
    """The reduced inputs [rows, RANK] of a tile's rows; zeros beyond the rank."""
    k = tl.arange(0, RANK)
    return tl.load(u + row[:, None].to(tl.int64) * u_stride + k, mask=(row[:, None] < n_rows) & (k < rank), other=0.0)


@triton.jit(do_not_specialize=["n_rows"])
def _gate(
    gu,
    u,
    b,
    out,
    n_rows,
    n_inner,
    u_stride,
    up_rank,
    rank,
    n_tiles,
    GELU: tl.constexpr,
    RANK: tl.constexpr,
    TILE_ROWS: tl.constexpr,
    TILE_COLUMNS: tl.constexpr,
):
    """Columns of the activation for some tiles of rows; the columns' part of b is read once."""
    column = tl.program_id(0) * TILE_COLUMNS + tl.arange(0, TILE_COLUMNS)
    if RANK > 0:
        b_gate = _columns_of(b, column, n_inner, rank, 1, rank, RANK)
        b_up = _columns_of(b + n_inner * rank, column, n_inner, rank, 1, rank, RANK)
    for tile in range(n_tiles):
        row = (tl.program_id(1) * n_tiles + tile) * TILE_ROWS + tl.arange(0, TILE_ROWS)
        inside = (row[:, None] < n_rows) & (column < n_inner)
        place = gu + row[:, None].to(tl.int64) * (2 * n_inner) + column
        gate = tl.load(place, mask=inside, other=0.0).to(tl.float32)
        up = tl.load(place + n_inner, mask=inside, other=0.0).to(tl.float32)
        if RANK > 0:
            gate += tl.dot(_ranks_of(u, row, n_rows, u_stride, rank, RANK), b_gate)
            up += tl.dot(_ranks_of(u + up_rank, row, n_rows, u_stride, rank, RANK), b_up)
        result = (_activated(gate, GELU) * up).to(out.dtype.element_ty)
        tl.store(out + row[:, None].to(tl.int64) * n_inner + column, result, mask=inside)


@triton.jit(do_not_specialize=["n_rows"])
def _gate_slope(
    gu,
    u,
    b,
    dact,
    du,
    a,
    bias,
    dgu,
    da,
    along,
    n_rows,
    n_inner,
    u_stride,
    up_rank,
    rank,
    a_rank,
    n_tiles,
    GELU: tl.constexpr,
    BIAS: tl.constexpr,
    RANK: tl.constexpr,
    A_RANK: tl.constexpr,
    TILE_ROWS: tl.constexpr,
    TILE_COLUMNS: tl.constexpr,
):
    """The slopes by both halves, for dact + du a, and partial sums of du' act over the program's rows.

    along: of each row the program's part of the slope's product with what it is a slope by, without the bias.
    """
    column = tl.program_id(0) * TILE_COLUMNS + tl.arange(0, TILE_COLUMNS)
    if RANK > 0:
        b_gate = _columns_of(b, column, n_inner, rank, 1, rank, RANK)
        b_up = _columns_of(b + n_inner * rank, column, n_inner, rank, 1, rank, RANK)
    if A_RANK > 0:
        a_down = _columns_of(a, column, n_inner, 1, n_inner, a_rank, A_RANK)
        total = tl.zeros((A_RANK, TILE_COLUMNS), dtype=tl.float32)
    if BIAS:
        gate_bias = tl.load(bias + column, mask=column < n_inner, other=0.0).to(tl.float32)
        up_bias = tl.load(bias + n_inner + column, mask=column < n_inner, other=0.0).to(tl.float32)
    for tile in range(n_tiles):
        row = (tl.program_id(1) * n_tiles + tile) * TILE_ROWS + tl.arange(0, TILE_ROWS)
        inside = (row[:, None] < n_rows) & (column < n_inner)
        long_row = row[:, None].to(tl.int64)
        wide = long_row * (2 * n_inner) + column
        gate = tl.load(gu + wide, mask=inside, other=0.0).to(tl.float32)
        up = tl.load(gu + wide + n_inner, mask=inside, other=0.0).to(tl.float32)
        slope = tl.load(dact + long_row * n_inner + column, mask=inside, other=0.0).to(tl.float32)
        if RANK > 0:
            gate += tl.dot(_ranks_of(u, row, n_rows, u_stride, rank, RANK), b_gate)
            up += tl.dot(_ranks_of(u + up_rank, row, n_rows, u_stride, rank, RANK), b_up)
        active = _activated(gate, GELU)
        if A_RANK > 0:
            reduced = _ranks_of(du, row, n_rows, a_rank, a_rank, A_RANK)
            slope += tl.dot(reduced, a_down)
            total += tl.dot(tl.trans(reduced), (active * up).to(reduced.dtype))
        tl.debug_barrier()  # all of a tile is read before any of it is written over
        gate_slope = slope * up * _activation_slope(gate, GELU)
        up_slope = slope * active
        tl.store(dgu + wide, gate_slope.to(dgu.dtype.element_ty), mask=inside)
        tl.store(dgu + wide + n_inner, up_slope.to(dgu.dtype.element_ty), mask=inside)
        if BIAS:
            gate -= gate_bias
            up -= up_bias
        product = tl.sum(gate_slope * gate + up_slope * up, axis=1)
        tl.store(along + tl.program_id(0).to(tl.int64) * n_rows + row, product, mask=row < n_rows)
    if A_RANK > 0:
        k = tl.arange(0, A_RANK)[:, None]
        target = da + (tl.program_id(1) * a_rank + k) * n_inner + column
        tl.store(target, total, mask=(k < a_rank) & (column < n_inner))


@triton.jit
def _part(x, u, b, row, n_rows, start, width, x_stride, u_stride, rank, RANK: tl.constexpr, SIZE: tl.constexpr):
    """Columns start to start + width of a projection's result with its update, float32 [rows, SIZE]; zeros beyond."""
    within = tl.arange(0, SIZE)
    inside = (row[:, None] < n_rows) & (within < width)
    tile = tl.load(x + row[:, None].to(tl.int64) * x_stride + start + within, mask=inside, other=0.0).to(tl.float32)
    if RANK > 0:
        tile += _low_rank(u, b + start * rank, row, within, n_rows, width, u_stride, rank, 1, rank, RANK)
    return tile


@triton.jit(do_not_specialize=["n_rows"])
def _rotate(
    qkv,
    u,
    b,
    cos,
    sin,
    q_weight,
    k_weight,
    out,
    n_rows,
    n_queries,
    n_keys,
    n_heads,
    stride,
    out_stride,
    u_stride,
    rank,
    k_rank,
    v_rank,
    eps,
    WIDTH: tl.constexpr,
    HALF: tl.constexpr,
    SIZE: tl.constexpr,
    REST: tl.constexpr,
    NORMS: tl.constexpr,
    RANK: tl.constexpr,
    TILE_ROWS: tl.constexpr,
    HEADS: tl.constexpr,
):
    """Add the update, norm and rotate: rows of some heads a program; values have their update added in place.

    Features of a head: HALF that turn with HALF others (padded: SIZE), and WIDTH - 2 HALF that do not (padded: REST).
    """
    row = tl.program_id(0) * TILE_ROWS + tl.arange(0, TILE_ROWS)
    long_row = row[:, None].to(tl.int64)
    padded_rest: tl.constexpr = REST if REST > 0 else 16
    one, beyond = tl.arange(0, SIZE), tl.arange(0, padded_rest)
    inside = (row[:, None] < n_rows) & (one < HALF)
    inside_rest = (row[:, None] < n_rows) & (beyond < WIDTH - 2 * HALF)
    cosine = tl.load(cos + long_row * HALF + one, mask=inside, other=0.0).to(tl.float32)
    sine = tl.load(sin + long_row * HALF + one, mask=inside, other=0.0).to(tl.float32)
    for number in range(HEADS):
        head = tl.program_id(1) * HEADS + number
        if head < n_heads:
            start = head * WIDTH
            offset = tl.where(head < n_queries, 0, tl.where(head < n_queries + n_keys, k_rank, v_rank))
            first = _part(qkv, u + offset, b, row, n_rows, start, HALF, stride, u_stride, rank, RANK, SIZE)
            second = _part(qkv, u + offset, b, row, n_rows, start + HALF, HALF, stride, u_stride, rank, RANK, SIZE)
            if REST > 0:
                rest = _part(
                    qkv,
                    u + offset,
                    b,
                    row,
                    n_rows,
                    start + 2 * HALF,
                    WIDTH - 2 * HALF,
                    stride,
                    u_stride,
                    rank,
                    RANK,
                    REST,
                )
            is_value = head >= n_queries + n_keys
            if NORMS:  # noqa: SIM102 - one is known when the kernel is compiled, the other is not
                if not is_value:
                    squares = tl.sum(first * first, axis=1) + tl.sum(second * second, axis=1)
                    if REST > 0:
                        squares += tl.sum(rest * rest, axis=1)
                    inverse = tl.rsqrt(squares / WIDTH + eps)[:, None]
                    weight = q_weight if head < n_queries else k_weight
                    first = first * inverse * tl.load(weight + one, mask=one < HALF, other=0.0)
                    second = second * inverse * tl.load(weight + HALF + one, mask=one < HALF, other=0.0)
                    if REST > 0:
                        factor = tl.load(weight + 2 * HALF + beyond, mask=beyond < WIDTH - 2 * HALF, other=0.0)
                        rest = rest * inverse * factor
            tl.debug_barrier()  # all of a head is read before any of it is written over
            if is_value:
                target = qkv + long_row * stride + start
                turned, other = first, second
            else:
                target = out + long_row * out_stride + start
                turned, other = first * cosine - second * sine, second * cosine + first * sine
            tl.store(target + one, turned.to(out.dtype.element_ty), mask=inside)
            tl.store(target + HALF + one, other.to(out.dtype.element_ty), mask=inside)
            if REST > 0:
                tl.store(target + 2 * HALF + beyond, rest.to(out.dtype.element_ty), mask=inside_rest)


@triton.jit
def _head_product(
    slope1,
    slope2,
    rest_slope,
    source,
    row_mask,
    HALF: tl.constexpr,
    WIDTH: tl.constexpr,
    SIZE: tl.constexpr,
    REST: tl.constexpr,
):
    """Of each row the product of a head's slope with what lies at `source`: pointers [rows or 1, 1]."""
    one = tl.arange(0, SIZE)
    known = row_mask & (one[None, :] < HALF)
    product = slope1 * tl.load(source + one, mask=known, other=0.0).to(tl.float32)
    product += slope2 * tl.load(source + HALF + one, mask=known, other=0.0).to(tl.float32)
    total = tl.sum(product, axis=1)
    if REST > 0:
        beyond = tl.arange(0, REST)
        inside = row_mask & (beyond[None, :] < WIDTH - 2 * HALF)
        total += tl.sum(rest_slope * tl.load(source + 2 * HALF + beyond, mask=inside, other=0.0).to(tl.float32), axis=1)
    return total


@triton.jit
def _head_norm_slope(
    slope1,
    slope2,
    rest_slope,
    first,
    second,
    rest,
    weight,
    eps,
    WIDTH: tl.constexpr,
    HALF: tl.constexpr,
    SIZE: tl.constexpr,
    REST: tl.constexpr,
):
    """The slopes by the three stretches of a head before its norm; the last is of no meaning without a rest."""
    one = tl.arange(0, SIZE)
    squares = tl.sum(first * first, axis=1) + tl.sum(second * second, axis=1)
    slope1 = slope1 * tl.load(weight + one, mask=one < HALF, other=0.0)
    slope2 = slope2 * tl.load(weight + HALF + one, mask=one < HALF, other=0.0)
    along = tl.sum(slope1 * first, axis=1) + tl.sum(slope2 * second, axis=1)
    if REST > 0:
        beyond = tl.arange(0, REST)
        squares += tl.sum(rest * rest, axis=1)
        rest_slope = rest_slope * tl.load(weight + 2 * HALF + beyond, mask=beyond < WIDTH - 2 * HALF, other=0.0)
        along += tl.sum(rest_slope * rest, axis=1)
    inverse = tl.rsqrt(squares / WIDTH + eps)
    along = (along * inverse * inverse / WIDTH)[:, None]
    inverse = inverse[:, None]
    slope1 = inverse * (slope1 - first * along)
    slope2 = inverse * (slope2 - second * along)
    if REST > 0:
        rest_slope = inverse * (rest_slope - rest * along)
    return slope1, slope2, rest_slope


@triton.jit(do_not_specialize=["n_rows"])
def _rotate_slope(
    dq,
    dk,
    dv,
    qkv,
    u,
    b,
    cos,
    sin,
    q_weight,
    k_weight,
    bias,
    out,
    along,
    n_rows,
    n_queries,
    n_keys,
    n_heads,
    dq_head,
    dq_row,
    dk_head,
    dk_row,
    dv_head,
    dv_row,
    stride,
    out_stride,
    u_stride,
    rank,
    k_rank,
    eps,
    WIDTH: tl.constexpr,
    HALF: tl.constexpr,
    SIZE: tl.constexpr,
    REST: tl.constexpr,
    NORMS: tl.constexpr,
    BIAS: tl.constexpr,
    RANK: tl.constexpr,
    TILE_ROWS: tl.constexpr,
    HEADS: tl.constexpr,
):
    """Back through rotation and norm into one tensor; with NORMS what the norm has read is computed again.

    along: of each row the program's part of the slope's product with what it is a slope by, without the bias. Turning
    changes no such product, so that turned queries and keys serve where they lie in the place of what was turned.
    """
    row = tl.program_id(0) * TILE_ROWS + tl.arange(0, TILE_ROWS)
    long_row = row[:, None].to(tl.int64)
    padded_rest: tl.constexpr = REST if REST > 0 else 16
    one, beyond = tl.arange(0, SIZE), tl.arange(0, padded_rest)
    inside = (row[:, None] < n_rows) & (one < HALF)
    inside_rest = (row[:, None] < n_rows) & (beyond < WIDTH - 2 * HALF)
    cosine = tl.load(cos + long_row * HALF + one, mask=inside, other=0.0).to(tl.float32)
    sine = tl.load(sin + long_row * HALF + one, mask=inside, other=0.0).to(tl.float32)
    known = row[:, None] < n_rows
    first_as_it_lies = n_queries + n_keys if NORMS else 0  # heads whose turned form lies in qkv
    total = tl.zeros((TILE_ROWS,), dtype=tl.float32)
    for number in range(HEADS):
        head = tl.program_id(1) * HEADS + number
        if head < n_heads:
            start = head * WIDTH
            if head < n_queries:
                source = dq + head * dq_head + long_row * dq_row
            elif head < n_queries + n_keys:
                source = dk + (head - n_queries) * dk_head + long_row * dk_row
            else:
                source = dv + (head - n_queries - n_keys) * dv_head + long_row * dv_row
            slope1 = tl.load(source + one, mask=inside, other=0.0).to(tl.float32)
            slope2 = tl.load(source + HALF + one, mask=inside, other=0.0).to(tl.float32)
            if REST > 0:
                rest_slope = tl.load(source + 2 * HALF + beyond, mask=inside_rest, other=0.0).to(tl.float32)
            if head >= first_as_it_lies:
                there = qkv + long_row * stride + start
                rest_or_any = rest_slope if REST > 0 else slope1
                total += _head_product(slope1, slope2, rest_or_any, there, known, HALF, WIDTH, SIZE, REST)
            if head < n_queries + n_keys:
                turned = slope1 * cosine + slope2 * sine
                slope2 = slope2 * cosine - slope1 * sine
                slope1 = turned
                if NORMS:
                    offset = tl.where(head < n_queries, 0, k_rank)
                    first = _part(qkv, u + offset, b, row, n_rows, start, HALF, stride, u_stride, rank, RANK, SIZE)
                    second = _part(
                        qkv, u + offset, b, row, n_rows, start + HALF, HALF, stride, u_stride, rank, RANK, SIZE
                    )
                    weight = q_weight if head < n_queries else k_weight
                    rest, rest_before = first, slope1  # of no use without a rest
                    if REST > 0:
                        rest_before = rest_slope
                        rest = _part(
                            qkv,
                            u + offset,
                            b,
                            row,
                            n_rows,
                            start + 2 * HALF,
                            WIDTH - 2 * HALF,
                            stride,
                            u_stride,
                            rank,
                            RANK,
                            REST,
                        )
                    slope1, slope2, rest_slope = _head_norm_slope(
                        slope1, slope2, rest_before, first, second, rest, weight, eps, WIDTH, HALF, SIZE, REST
                    )
                    total += tl.sum(slope1 * first + slope2 * second, axis=1)
                    if REST > 0:
                        total += tl.sum(rest_slope * rest, axis=1)
            if BIAS:
                rest_or_any = rest_slope if REST > 0 else slope1
                total -= _head_product(slope1, slope2, rest_or_any, bias + start, known, HALF, WIDTH, SIZE, REST)
            target = out + long_row * out_stride + start
            tl.store(target + one, slope1.to(out.dtype.element_ty), mask=inside)
            tl.store(target + HALF + one, slope2.to(out.dtype.element_ty), mask=inside)
            if REST > 0:
                tl.store(target + 2 * HALF + beyond, rest_slope.to(out.dtype.element_ty), mask=inside_rest)
    tl.store(along + tl.program_id(1).to(tl.int64) * n_rows + row, total, mask=row < n_rows)


@triton.jit(do_not_specialize=["n_rows"])
def _slopes(
    g,
    u,
    b,
    du,
    db,
    n_rows,
    n_columns,
    u_stride,
    rank,
    second,
    third,
    n_stripes,
    SLAB: tl.constexpr,
    STRIPE: tl.constexpr,
    RANK: tl.constexpr,
):
    """Partial sums of g b and g' u over a slab of tokens and a share of the columns; a tile of g is read once.

    second, third: the shares that begin the second and the third part of the columns, which have their own ranks of u.
    """
    slab, share = tl.program_id(0), tl.program_id(1)
    row, k = slab * SLAB + tl.arange(0, SLAB), tl.arange(0, RANK)
    offset = tl.where(share >= third, 2 * rank, tl.where(share >= second, rank, 0))
    known = (row[:, None] < n_rows) & (k < rank)
    reduced = tl.load(u + row[:, None].to(tl.int64) * u_stride + offset + k, mask=known, other=0.0)
    total = tl.zeros((SLAB, RANK), dtype=tl.float32)
    for stripe in range(n_stripes):
        column = (share * n_stripes + stripe) * STRIPE + tl.arange(0, STRIPE)
        inside = (row[:, None] < n_rows) & (column < n_columns)
        tile = tl.load(g + row[:, None].to(tl.int64) * n_columns + column, mask=inside, other=0.0)
        within = (column[:, None] < n_columns) & (k < rank)
        total += tl.dot(tile, tl.load(b + column[:, None] * rank + k, mask=within, other=0.0))
        part = tl.dot(tl.trans(tile), reduced)
        tl.store(db + (slab.to(tl.int64) * n_columns + column[:, None]) * rank + k, part, mask=within)
    of_share = du + (share.to(tl.int64) * n_rows + row[:, None]) * rank + k
    tl.store(of_share, total, mask=known)


@triton.jit(do_not_specialize=["n_rows"])
def _sum_shares(
    partial,
    out,
    scaled,
    inverse,
    n_rows,
    rank,
    out_stride,
    second,
    third,
    n_shares,
    scaling,
    SCALED: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Add up what the shares of each part have of g b, times the scaling; out [n_rows, parts * rank].

    scaled: the same, each row times its `inverse`.
    """
    part = tl.program_id(1)
    begin = tl.where(part == 0, 0, tl.where(part == 1, second, third))
    end = tl.where(part == 0, tl.minimum(second, n_shares), tl.where(part == 1, tl.minimum(third, n_shares), n_shares))
    index = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = index < n_rows * rank
    total = tl.zeros((BLOCK,), dtype=tl.float32)
    of_share = partial + begin.to(tl.int64) * n_rows * rank + index
    for _ in range(begin, end):
        total += tl.load(of_share, mask=inside, other=0.0)
        of_share += n_rows * rank
    total *= scaling
    place = (index // rank) * out_stride + part * rank + index % rank
    tl.store(out + place, total.to(out.dtype.element_ty), mask=inside)
    if SCALED:
        total *= tl.load(inverse + index // rank, mask=inside, other=0.0)
        tl.store(scaled + place, total.to(out.dtype.element_ty), mask=inside)


@triton.jit
def _quantize(
    x,
    column_scales,
    codes,
    scales,
    n_columns,
    LARGEST: tl.constexpr,
    SCALED: tl.constexpr,
    HELD: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """A row a program: its largest magnitude becomes the largest number of 8 bits.

    HELD: the row is one block, which stays in registers; else a second pass reads it again, from the cache.
    """
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK)
    if HELD:
        inside = column < n_columns
        value = tl.load(x + row * n_columns + column, mask=inside, other=0.0).to(tl.float32)
        if SCALED:
            value *= tl.load(column_scales + column, mask=inside, other=0.0)
        scale = tl.maximum(tl.max(tl.abs(value), axis=0), 1e-12) / LARGEST
        tl.store(codes + row * n_columns + column, (value * (1.0 / scale)).to(codes.dtype.element_ty), mask=inside)
    else:
        largest = tl.zeros((BLOCK,), dtype=tl.float32)
        for start in range(0, n_columns, BLOCK):
            inside = start + column < n_columns
            value = tl.load(x + row * n_columns + start + column, mask=inside, other=0.0).to(tl.float32)
            if SCALED:
                value *= tl.load(column_scales + start + column, mask=inside, other=0.0)
            largest = tl.maximum(largest, tl.abs(value))
        scale = tl.maximum(tl.max(largest, axis=0), 1e-12) / LARGEST
        inverse = 1.0 / scale
        for start in range(0, n_columns, BLOCK):
            inside = start + column < n_columns
            value = tl.load(x + row * n_columns + start + column, mask=inside, other=0.0).to(tl.float32)
            if SCALED:
                value *= tl.load(column_scales + start + column, mask=inside, other=0.0)
            target = codes + row * n_columns + start + column
            tl.store(target, (value * inverse).to(codes.dtype.element_ty), mask=inside)
    tl.store(scales + row, scale)


@triton.jit
def _transpose(x, out, n_rows, n_columns, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Four rows of bytes become one of words, whose columns turn: bytes by themselves turn at half of the speed.

    x: uint8 [n_rows, n_columns], n_rows a multiple of 4; out: int32 [n_columns, n_rows / 4]. ROWS: of words in a tile.
    """
    word = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    inside = (word[:, None] * 4 < n_rows) & (column < n_columns)
    first = x + word[:, None].to(tl.int64) * 4 * n_columns + column
    words = tl.load(first, mask=inside, other=0).to(tl.int32)
    words |= tl.load(first + n_columns, mask=inside, other=0).to(tl.int32) << 8
    words |= tl.load(first + 2 * n_columns, mask=inside, other=0).to(tl.int32) << 16
    words |= tl.load(first + 3 * n_columns, mask=inside, other=0).to(tl.int32) << 24
    turned = (column[:, None] < n_columns) & (word * 4 < n_rows)
    tl.store(out + column[:, None].to(tl.int64) * (n_rows // 4) + word, tl.trans(words), mask=turned)


@triton.jit
def _head_slope(
    raw, targets, losses, n_columns, scale, softcap, IGNORED: tl.constexpr, CAPPED: tl.constexpr, BLOCK: tl.constexpr
):
    """The loss of a position, and its slope by the head's output, written over it; a row a program.

    The first pass keeps for each lane the largest logit and the sum of exponentials below it; the second writes.
    """
    row = tl.program_id(0)
    base = raw + row.to(tl.int64) * n_columns
    target = tl.load(targets + row)
    trained = target != IGNORED
    most = tl.full((BLOCK,), -1e30, dtype=tl.float32)
    total = tl.zeros((BLOCK,), dtype=tl.float32)
    for start in range(0, n_columns, BLOCK):
        column = start + tl.arange(0, BLOCK)
        z = tl.load(base + column, mask=column < n_columns, other=0.0).to(tl.float32) * scale
        if CAPPED:
            z = softcap * (2.0 * _sigmoid(2.0 * z / softcap) - 1.0)
        z = tl.where(column < n_columns, z, -1e30)
        larger = tl.maximum(most, z)
        total = total * tl.exp(most - larger) + tl.exp(z - larger)
        most = larger
    largest = tl.max(most, axis=0)
    sum_exp = tl.sum(total * tl.exp(most - largest), axis=0)
    z_target = tl.load(base + tl.where(trained, target, 0)).to(tl.float32) * scale
    if CAPPED:
        z_target = softcap * (2.0 * _sigmoid(2.0 * z_target / softcap) - 1.0)
    tl.store(losses + row, tl.where(trained, tl.log(sum_exp) + largest - z_target, 0.0))
    tl.debug_barrier()  # the target's logit is read before it is written over
    factor = tl.where(trained, scale, 0.0)
    for start in range(0, n_columns, BLOCK):
        column = start + tl.arange(0, BLOCK)
        inside = column < n_columns
        z = tl.load(base + column, mask=inside, other=0.0).to(tl.float32) * scale
        if CAPPED:
            z = softcap * (2.0 * _sigmoid(2.0 * z / softcap) - 1.0)
        slope = tl.exp(z - largest) / sum_exp - tl.where(column == target, 1.0, 0.0)
        if CAPPED:
            slope *= 1.0 - (z / softcap) * (z / softcap)
        tl.store(base + column, (slope * factor).to(raw.dtype.element_ty), mask=inside)


def _padded(rank: int) -> int:
    """The rank as the matrix units take it: a power of two, at least 16; 0 for no update."""
    return max(16, triton.next_power_of_2(rank)) if rank else 0


def add(y: torch.Tensor, update: Update | None, stream: torch.Tensor | None) -> torch.Tensor:
    """The sum of y and its update, over y; with a stream, their sum with it in a tensor of its own."""
    n_rows, n_columns = y.shape
    out = y if stream is None else torch.empty_like(stream)
    u, b, rank = _of(update, y)
    strides = b.stride() if rank else (0, 0)
    grid = (triton.cdiv(n_columns, TILE_COLUMNS), triton.cdiv(n_rows, TILE_ROWS))
    _add[grid](
        y if stream is None else stream, y, u, b, out, n_rows, n_columns, *strides, rank,
        RANK=_padded(rank), STREAM=stream is not None, TILE_ROWS=TILE_ROWS, TILE_COLUMNS=TILE_COLUMNS, num_warps=4,
    )  # fmt: skip
    return out


def _of(update: Update | None, other: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, int]:
    """Tensors and rank of an update; any tensor and 0 where there is none."""
    return (other, other, 0) if update is None else (update.u, update.b, update.rank)


def norm(
    h: torch.Tensor, y: torch.Tensor | None, update: Update | None, weight: torch.Tensor, eps: float, *, codes: bool
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, tuple[torch.Tensor, torch.Tensor] | None]:
    """The stream (h, or h + y and its update), its norm, the inverse root mean squares, and the norm in 8 bits."""
    n_rows, n_columns = h.shape
    out = h if y is None else torch.empty_like(h)
    x, inverse = torch.empty_like(h), h.new_empty(n_rows, dtype=torch.float32)
    eight = (torch.empty_like(h, dtype=torch.float8_e4m3fn), h.new_empty(n_rows, 1, dtype=torch.float32))
    if not codes:
        eight = (x, inverse)
    u, b, rank = _of(update, h)
    _norm[(triton.cdiv(n_rows, NORM[0]),)](
        h, h if y is None else y, u, b, weight, out, x, inverse, *eight, n_rows, n_columns, rank, eps,
        LARGEST=FLOAT8_LARGEST, ADDS=y is not None, RANK=_padded(rank), CODES=codes,
        ROWS=NORM[0], COLUMNS=NORM[1], num_warps=NORM[2],
    )  # fmt: skip
    return out, x, inverse, eight if codes else None


def norm_slope(
    dx: torch.Tensor,
    update: Update | None,
    h: torch.Tensor,
    weight: torch.Tensor,
    inverse: torch.Tensor,
    stream: torch.Tensor | None,
    along: torch.Tensor,
) -> torch.Tensor:
    """See `fused_ops.norm_slope`; update: u is the slope of the ranks, b is A' as a view of A."""
    n_rows, n_columns = h.shape
    out = torch.empty_like(h)
    u, b, rank = _of(update, h)
    rows, columns, warps, n_tiles = NORM_SLOPE
    _norm_slope[(triton.cdiv(n_columns, columns), triton.cdiv(n_rows, rows * n_tiles))](
        dx, u, b.t() if rank else b, along, h, weight, inverse, dx if stream is None else stream, out,
        n_rows, n_columns, rank, n_tiles,
        STREAM=stream is not None, RANK=_padded(rank), TILE_ROWS=rows, TILE_COLUMNS=columns, num_warps=warps,
    )  # fmt: skip
    return out


def gate(gu: torch.Tensor, update: Update | None, *, gelu: bool) -> torch.Tensor:
    """See `fused_ops.gate`."""
    n_rows, n_inner = gu.shape[0], gu.shape[1] // 2
    out = gu.new_empty(n_rows, n_inner)
    u, b, rank = _of(update, gu)
    rows, columns, warps, n_tiles = GATE
    grid = (triton.cdiv(n_inner, columns), triton.cdiv(n_rows, rows * n_tiles))
    _gate[grid](
        gu, u, b, out, n_rows, n_inner, u.shape[1], update.offsets[-1] if update else 0, rank, n_tiles,
        GELU=gelu, RANK=_padded(rank), TILE_ROWS=rows, TILE_COLUMNS=columns, num_warps=warps,
    )  # fmt: skip
    return out


def gate_slope(
    gu: torch.Tensor,
    update: Update | None,
    dact: torch.Tensor,
    slope: Update | None,
    bias: torch.Tensor | None,
    *,
    gelu: bool,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """See `fused_ops.gate_slope`; each tile of the slope is written over what was read for it."""
    n_rows, n_inner = dact.shape
    u, b, rank = _of(update, gu)
    du, a, a_rank = _of(slope, dact)
    rows, columns, warps, n_tiles = GATE_SLOPE
    grid = (triton.cdiv(n_inner, columns), triton.cdiv(n_rows, rows * n_tiles))
    da = torch.empty(grid[1], a_rank, n_inner, dtype=torch.float32, device=gu.device)
    along = torch.empty(grid[0], n_rows, dtype=torch.float32, device=gu.device)
    _gate_slope[grid](
        gu, u, b, dact, du, a.t() if a_rank else a, gu if bias is None else bias, gu, da, along,
        n_rows, n_inner, u.shape[1], update.offsets[-1] if update else 0, rank, a_rank, n_tiles,
        GELU=gelu, BIAS=bias is not None, RANK=_padded(rank), A_RANK=_padded(a_rank),
        TILE_ROWS=rows, TILE_COLUMNS=columns, num_warps=warps,
    )  # fmt: skip
    return gu, along.sum(0), da.sum(0) if a_rank else None


def _rotation_sizes(rotation: Rotation) -> dict[str, int | bool]:
    half = rotation.cos.shape[-1]
    rest = rotation.width - 2 * half
    return {
        "WIDTH": rotation.width,
        "HALF": half,
        "SIZE": max(16, triton.next_power_of_2(half)),
        "REST": max(16, triton.next_power_of_2(rest)) if rest else 0,
        "NORMS": rotation.q_weight is not None,
    }


def _offsets(update: Update | None) -> tuple[int, int]:
    """Where in u the ranks of the keys and of the values begin."""
    return (update.offsets[1], update.offsets[2]) if update is not None and len(update.offsets) > 1 else (0, 0)


def rotate(qkv: torch.Tensor, update: Update | None, rotation: Rotation) -> torch.Tensor:
    """See `fused_ops.rotate`: the values in place, queries and keys too unless they are normed."""
    n_rows, n_heads = qkv.shape[0], qkv.shape[1] // rotation.width
    normed = rotation.n_queries + rotation.n_keys
    out = qkv if rotation.q_weight is None else qkv.new_empty(n_rows, normed * rotation.width)
    u, b, rank = _of(update, qkv)
    weights = (qkv, qkv) if rotation.q_weight is None else (rotation.q_weight, rotation.k_weight)
    rows, warps, heads = ROTATE
    _rotate[(triton.cdiv(n_rows, rows), triton.cdiv(n_heads, heads))](
        qkv, u, b, rotation.cos, rotation.sin, *weights, out, n_rows, rotation.n_queries, rotation.n_keys, n_heads,
        qkv.shape[1], out.shape[1], u.shape[1], rank, *_offsets(update), rotation.eps,
        **_rotation_sizes(rotation), RANK=_padded(rank), TILE_ROWS=rows, HEADS=heads, num_warps=warps,
    )  # fmt: skip
    return out


def rotate_slope(
    slopes: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
    qkv: torch.Tensor,
    update: Update | None,
    bias: torch.Tensor | None,
    rotation: Rotation,
) -> tuple[torch.Tensor, torch.Tensor]:
    """See `fused_ops.rotate_slope`; slopes: [n_heads, n_rows, width] with any strides but the last."""
    slopes = tuple(slope if slope.stride(2) == 1 else slope.contiguous() for slope in slopes)
    n_rows, n_heads = slopes[0].shape[1], sum(slope.shape[0] for slope in slopes)
    out = slopes[0].new_empty(n_rows, n_heads * rotation.width)
    u, b, rank = _of(update if rotation.q_weight is not None else None, out)
    weights = (out, out) if rotation.q_weight is None else (rotation.q_weight, rotation.k_weight)
    strides = [stride for slope in slopes for stride in slope.stride()[:2]]
    rows, warps, heads = ROTATE_SLOPE
    grid = (triton.cdiv(n_rows, rows), triton.cdiv(n_heads, heads))
    along = torch.empty(grid[1], n_rows, dtype=torch.float32, device=out.device)
    _rotate_slope[grid](
        *slopes, qkv, u, b, rotation.cos, rotation.sin, *weights, qkv if bias is None else bias, out, along,
        n_rows, rotation.n_queries, rotation.n_keys, n_heads, *strides, qkv.shape[1], out.shape[1], u.shape[1], rank,
        _offsets(update)[0], rotation.eps, **_rotation_sizes(rotation),
        BIAS=bias is not None, RANK=_padded(rank), TILE_ROWS=rows, HEADS=heads, num_warps=warps,
    )  # fmt: skip
    return out, along.sum(0)


def shares_of(columns: tuple[int, ...], n_slabs: int) -> tuple[int, int]:
    """Columns of a stripe and stripes of a share, so that no share reaches over two parts; 0, 0 when none can."""
    stripe = next((size for size in (64, 32, 16) if len(columns) == 1 or not any(n % size for n in columns)), 0)
    if not stripe:
        return 0, 0
    n_stripes = [-(-n // stripe) for n in columns]
    common = math.gcd(*n_stripes)
    wished = max(1, sum(n_stripes) * n_slabs // PROGRAMS)
    if len(columns) == 1:
        return stripe, min(wished, common)
    return stripe, max(n for n in range(1, common + 1) if common % n == 0 and n <= max(1, wished))


def slopes(
    g: torch.Tensor, update: Update, scaling: float, inverse: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """See `fused_ops.slopes`. Partial sums are added up in a fixed order: the same inputs give the same bits."""
    (n_rows, n_columns), rank = g.shape, update.rank
    n_slabs = triton.cdiv(n_rows, SLAB)
    stripe, n_stripes = shares_of(update.columns, n_slabs)
    n_shares = triton.cdiv(n_columns, stripe * n_stripes)
    starts = [sum(update.columns[:part]) // (stripe * n_stripes) for part in range(1, len(update.columns))]
    second, third = [*starts, n_shares, n_shares][:2]
    du = torch.empty((n_shares, n_rows, rank), dtype=torch.float32, device=g.device)
    db = torch.empty((n_slabs, n_columns, rank), dtype=torch.float32, device=g.device)
    _slopes[(n_slabs, n_shares)](
        g, update.u, update.b, du, db, n_rows, n_columns, update.u.shape[1], rank, second, third, n_stripes,
        SLAB=SLAB, STRIPE=stripe, RANK=_padded(rank), num_warps=8,
    )  # fmt: skip
    total = g.new_empty(n_rows, update.u.shape[1])
    scaled = total if inverse is None else torch.empty_like(total)
    _sum_shares[(triton.cdiv(n_rows * rank, 1024), len(update.columns))](
        du, total, scaled, du if inverse is None else inverse, n_rows, rank, total.shape[1], second, third, n_shares,
        scaling, SCALED=inverse is not None, BLOCK=1024, num_warps=4,
    )  # fmt: skip
    return total, db.sum(0), scaled


def quantize(x: torch.Tensor, column_scales: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
    """See `fused_ops.quantize`."""
    n_rows, n_columns = x.shape
    codes, scales = torch.empty_like(x, dtype=torch.float8_e4m3fn), x.new_empty(n_rows, 1, dtype=torch.float32)
    held = n_columns <= MOST_HELD
    _quantize[(n_rows,)](
        x, scales if column_scales is None else column_scales, codes, scales, n_columns,
        LARGEST=FLOAT8_LARGEST, SCALED=column_scales is not None, HELD=held,
        BLOCK=triton.next_power_of_2(n_columns) if held else QUANTIZE, num_warps=4,
    )  # fmt: skip
    return codes, scales


def transpose(codes: torch.Tensor) -> torch.Tensor:
    """A matrix of bytes with its rows, a multiple of 4, as columns."""
    n_rows, n_columns = codes.shape
    out = codes.new_empty(n_columns, n_rows)
    rows, columns, warps = TRANSPOSE
    grid = (triton.cdiv(n_rows // 4, rows), triton.cdiv(n_columns, columns))
    _transpose[grid](
        codes.view(torch.uint8), out.view(torch.int32), n_rows, n_columns, ROWS=rows, COLUMNS=columns, num_warps=warps
    )
    return out


def head_slope(
    raw: torch.Tensor, targets: torch.Tensor, scale: float, softcap: float | None, ignored: int
) -> torch.Tensor:
    """The losses of all rows [n_rows]; the slope by the raw logits [n_rows, n_vocabulary] is written over them."""
    losses = raw.new_empty(raw.shape[0], dtype=torch.float32)
    _head_slope[(raw.shape[0],)](
        raw, targets, losses, raw.shape[1], scale, softcap or 0.0,
        IGNORED=ignored, CAPPED=softcap is not None, BLOCK=4096, num_warps=8,
    )  # fmt: skip
    return losses
