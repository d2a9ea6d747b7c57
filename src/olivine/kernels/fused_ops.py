"""What a decoder layer does between its matrix products, with LoRA's updates added on the way.

Here are the equations, in torch's operators: what a CPU runs, and what the GPU's kernels are compared with. On CUDA in
half precision each function is one kernel (`_fused`).

    update of a product y [n, out]:  y += u B',  u = s x A' [n, parts * rank]
    norm:      x = w h r,  r = 1 / sqrt(mean(h^2) + eps)
    its slope: dh = w dx r - h r^2 mean(dx x),  sum(dx x) = sum(g y) for y = x W' with the slope g
    gate:      act = f(gate) up;  dup = dact f(gate),  dgate = dact up f'(gate)
    rotation:  [q1, q2] -> [q1 cos - q2 sin, q2 cos + q1 sin]
"""

import importlib.util
import math

import torch
from torch.nn import functional

from olivine.kernels.fused_types import Eight, Rotation, Update
from olivine.models.nf4 import float8_rows

HAS_TRITON = importlib.util.find_spec("triton") is not None


def in_triton(wide: torch.Tensor) -> bool:
    """Whether the kernels take this tensor."""
    return HAS_TRITON and wide.is_cuda and wide.dtype in (torch.bfloat16, torch.float16)


def _updated(y: torch.Tensor, update: Update | None) -> torch.Tensor:
    """The product's result with its update, float32 or better."""
    total = y.to(torch.promote_types(y.dtype, torch.float32))
    if update is None:
        return total
    changes = [update.u[:, ranks].to(total) @ update.b[columns].to(total).t() for columns, ranks in update.parts()]
    return total + torch.cat(changes, dim=1)


def add(y: torch.Tensor, update: Update | None, stream: torch.Tensor | None = None) -> torch.Tensor:
    """The result y + u B' [n, out], in the memory of y; with a stream [n, out], stream + y + u B' in its own."""
    if in_triton(y):
        from olivine.kernels import _fused

        return _fused.add(y, update, stream)
    total = _updated(y, update)
    return y.copy_(total) if stream is None else (stream + total).to(y.dtype)


def norm(
    h: torch.Tensor,
    y: torch.Tensor | None,
    update: Update | None,
    weight: torch.Tensor,
    eps: float,
    *,
    codes: bool = False,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, Eight | None]:
    """The stream, its norm x, r [n] in float32, and with `codes` x in 8 bits.

    The stream is h [n, hidden] itself, or h + y + u B' when there is a y. weight: float32 [hidden].
    """
    if in_triton(h):
        from olivine.kernels import _fused

        return _fused.norm(h, y, update, weight, eps, codes=codes)
    stream = h if y is None else add(y, update, h)
    wide = stream.to(weight.dtype)
    inverse = torch.rsqrt(wide.square().mean(-1) + eps)
    normed = wide * inverse[:, None] * weight
    return stream, normed.to(h.dtype), inverse, quantize(normed) if codes else None


def norm_slope(
    dx: torch.Tensor,
    update: Update | None,
    h: torch.Tensor,
    weight: torch.Tensor,
    inverse: torch.Tensor,
    stream: torch.Tensor | None,
    along: torch.Tensor,
) -> torch.Tensor:
    """The slope by the stream h, for dx and its update by the norm, plus the slope that reaches the stream otherwise.

    update: u is the slope by the ranks [n, all ranks], b is A' [hidden, all ranks]; in one part. along: sum(dx x) of
    each row, the update counted, in float32 [n]. The caller has it from the projection behind the norm: for y = x W' it
    is sum(g y), and both lie side by side where the slope g is made.
    """
    if in_triton(h):
        from olivine.kernels import _fused

        return _fused.norm_slope(dx, update, h, weight, inverse, stream, along)
    wide = h.to(weight.dtype)
    slope = _updated(dx, update) * weight * inverse[:, None]
    slope = slope - wide * (along * inverse.square() / h.shape[1])[:, None]
    return (slope if stream is None else slope + stream).to(h.dtype)


def gate(gu: torch.Tensor, update: Update | None, *, gelu: bool = False) -> torch.Tensor:
    """The activation f(gate) up [n, inner] of both halves gu [n, 2 inner]; f is SiLU, or GELU (tanh)."""
    if in_triton(gu):
        from olivine.kernels import _fused

        return _fused.gate(gu, update, gelu=gelu)
    first, second = _updated(gu, update).chunk(2, dim=1)
    return (_activated(first, gelu=gelu) * second).to(gu.dtype)


def _activated(z: torch.Tensor, *, gelu: bool) -> torch.Tensor:
    return functional.gelu(z, approximate="tanh") if gelu else functional.silu(z)


def gate_slope(
    gu: torch.Tensor,
    update: Update | None,
    dact: torch.Tensor,
    slope: Update | None,
    bias: torch.Tensor | None = None,
    *,
    gelu: bool = False,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """The slope by both halves [n, 2 inner] for dact [n, inner] with its update, its sum(g y), and A's own: du' act.

    slope: u is du [n, rank], b is A' [inner, rank]. bias: [2 inner], the part of both halves that is no product; it is
    taken from y (see `norm_slope`). Sums are float32. The activation is computed again and never written. On a GPU the
    slope lies in the place of gu, which nobody reads after it.
    """
    if in_triton(gu):
        from olivine.kernels import _fused

        return _fused.gate_slope(gu, update, dact, slope, bias, gelu=gelu)
    both = _updated(gu, update)
    first, second = both.chunk(2, dim=1)
    back, active = _updated(dact, slope), _activated(first, gelu=gelu)
    dgu = torch.cat([back * second * _activation_slope(first, gelu=gelu), back * active], dim=1)
    along = (dgu * (both if bias is None else both - bias)).sum(1)
    return dgu.to(gu.dtype), along, None if slope is None else slope.u.t().to(active) @ (active * second)


def _activation_slope(z: torch.Tensor, *, gelu: bool) -> torch.Tensor:
    if not gelu:
        s = torch.sigmoid(z)
        return s + z * s * (1 - s)
    c = 2 * math.sqrt(2 / math.pi)
    s = torch.sigmoid(c * (z + 0.044715 * z**3))
    return s + z * s * (1 - s) * c * (1 + 3 * 0.044715 * z.square())


def rotate(qkv: torch.Tensor, update: Update | None, rotation: Rotation) -> torch.Tensor:
    """Queries and keys, normed and turned: [n, their features], or in the place of qkv where heads have no norm.

    The values' update is added in place in any case.
    """
    if in_triton(qkv):
        from olivine.kernels import _fused

        return _fused.rotate(qkv, update, rotation)
    heads = _updated(qkv, update).unflatten(1, (-1, rotation.width))
    n_queries, n_normed = rotation.n_queries, rotation.n_queries + rotation.n_keys
    turned = _turn(_head_norms(heads[:, :n_normed], rotation), rotation.cos, rotation.sin)
    qkv[:, n_normed * rotation.width :] = heads[:, n_normed:].flatten(1).to(qkv.dtype)
    assert n_queries  # noqa: S101 - a layer without queries attends to nothing
    if rotation.q_weight is not None:
        return turned.flatten(1).to(qkv.dtype)
    qkv[:, : n_normed * rotation.width] = turned.flatten(1).to(qkv.dtype)
    return qkv


def _head_norms(heads: torch.Tensor, rotation: Rotation) -> torch.Tensor:
    """Each head [n, heads, width] over its root mean square, times the weight of queries or of keys."""
    weight = _head_weights(rotation)
    if weight is None:
        return heads
    return heads * torch.rsqrt(heads.square().mean(-1, keepdim=True) + rotation.eps) * weight


def _head_weights(rotation: Rotation) -> torch.Tensor | None:
    """[heads, width] of queries and keys."""
    if rotation.q_weight is None or rotation.k_weight is None:
        return None
    return torch.stack([rotation.q_weight] * rotation.n_queries + [rotation.k_weight] * rotation.n_keys)


def _turn(heads: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    half = cos.shape[-1]
    first, second, rest = heads.split([half, half, heads.shape[-1] - 2 * half], dim=-1)
    cos, sin = cos[:, None].to(heads), sin[:, None].to(heads)
    return torch.cat([first * cos - second * sin, second * cos + first * sin, rest], dim=-1)


def rotate_slope(
    slopes_of: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
    qkv: torch.Tensor,
    update: Update | None,
    bias: torch.Tensor | None,
    rotation: Rotation,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The slope by the fused projection's result [n, features], for slopes by queries, keys, values [heads, n, width].

    With it its sum(g y) [n] in float32, y without the bias [features] (see `norm_slope`). qkv: as `rotate` left it;
    turned queries and keys have that sum as well. update: as it went into `rotate`.
    """
    if in_triton(slopes_of[0]):
        from olivine.kernels import _fused

        return _fused.rotate_slope(slopes_of, qkv, update, bias, rotation)
    dq, dk, dv = (slope.transpose(0, 1) for slope in slopes_of)
    wide = torch.promote_types(dq.dtype, torch.float32)
    before, dv = torch.cat([dq, dk], dim=1).to(wide), dv.to(wide)
    heads, weight = _turn(before, rotation.cos, -rotation.sin), _head_weights(rotation)
    left = qkv.to(wide).unflatten(1, (-1, rotation.width))
    n_turned = heads.shape[1]
    if weight is None:
        along = (before * left[:, :n_turned]).sum((1, 2))
    else:
        raw = _updated(qkv, update).unflatten(1, (-1, rotation.width))[:, :n_turned]
        inverse = torch.rsqrt(raw.square().mean(-1, keepdim=True) + rotation.eps)
        heads = heads * weight
        heads = inverse * heads - raw * (heads * raw).mean(-1, keepdim=True) * inverse**3
        along = (heads * raw).sum((1, 2))
    along = along + (dv * left[:, n_turned:]).sum((1, 2))
    slope = torch.cat([heads, dv], dim=1).flatten(1)
    if bias is not None:
        along = along - slope @ bias.to(slope)
    return slope.to(dq.dtype), along


def slopes(
    g: torch.Tensor, update: Update, scaling: float, inverse: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """For the slope g [n, out] by an updated result: s g B [n, all ranks] in its type, and g' u [out, rank] in float32.

    The first is the slope by x A', the second that by B. The third is the first, each row times its r where x was
    normed (inverse, [n]).
    """
    if in_triton(g):
        from olivine.kernels import _fused

        if _fused.shares_of(update.columns, 1)[0]:
            return _fused.slopes(g, update, scaling, inverse)
    du = torch.zeros_like(update.u)
    db = torch.zeros(g.shape[1], update.rank, dtype=torch.promote_types(g.dtype, torch.float32), device=g.device)
    for columns, ranks in update.parts():
        du[:, ranks] += scaling * (g[:, columns] @ update.b[columns])
        db[columns] = (g[:, columns].t() @ update.u[:, ranks]).to(db.dtype)
    return du, db, du if inverse is None else (du * inverse[:, None]).to(du.dtype)


def quantize(x: torch.Tensor, column_scales: torch.Tensor | None = None) -> Eight:
    """The rows of x [n, columns], each column times its scale (float32 [columns]), in 8 bits with a scale a row."""
    if in_triton(x):
        from olivine.kernels import _fused

        return _fused.quantize(x.contiguous(), column_scales)
    wide = x.float() if column_scales is None else x.float() * column_scales
    return float8_rows(wide)


def transpose(codes: torch.Tensor) -> torch.Tensor:
    """A matrix of 8 bits with its rows as columns, in memory of its own."""
    if HAS_TRITON and codes.is_cuda:
        from olivine.kernels import _fused

        return _fused.transpose(codes)
    return codes.t().contiguous()
