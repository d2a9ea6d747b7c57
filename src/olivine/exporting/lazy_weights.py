"""Parameters that the model builder can make a graph of before any of them is read.

The builder asks a module for its parameters, transposes, slices, joins and casts them, and keeps the results for the
file. A `LazyWeight` answers with shapes and types and notes what was done; the numbers are computed when the file is
written, and a matrix that is still rows of the checkpoint's tensors can be read a few rows at a time.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils._pytree import tree_map

from olivine.models.tensors import LazyTensor

aten = torch.ops.aten


@dataclass(frozen=True)
class Piece:
    """The rows [start, stop) of a tensor of the checkpoint, as `dtype`."""

    source: LazyTensor
    start: int
    stop: int
    dtype: torch.dtype

    def rows(self, start: int, stop: int) -> torch.Tensor:
        """Some of these rows, counted from the first of them."""
        return self.source.rows(self.start + start, self.start + stop).to(self.dtype)


@dataclass(frozen=True)
class Rows:
    """A matrix [N, K] that is pieces of the checkpoint one below the other, then cast as `casts` says."""

    pieces: tuple[Piece, ...]
    casts: tuple[torch.dtype, ...] = ()

    @property
    def n_rows(self) -> int:
        """N: the rows of all pieces together."""
        return sum(piece.stop - piece.start for piece in self.pieces)

    @property
    def names(self) -> list[str]:
        """The checkpoint's names of the tensors."""
        return [piece.source.name for piece in self.pieces]

    def read(self, start: int, stop: int) -> torch.Tensor:
        """The rows [start, stop) [stop - start, K], in the last type that they are cast to."""
        stretches = [piece.rows(low, high) for piece, low, high in self._within(start, stop)]
        return _cast(stretches[0] if len(stretches) == 1 else torch.cat(stretches), self.casts)

    def read_into(self, out: torch.Tensor, start: int, stop: int) -> None:
        """Put the rows [start, stop) into `out`, whose type is the last that they are cast to."""
        casts = self.casts[:-1] if self.casts[-1:] == (out.dtype,) else self.casts
        place = 0
        for piece, low, high in self._within(start, stop):
            out[place : place + high - low].copy_(_cast(piece.rows(low, high), casts))
            place += high - low

    def announce(self, start: int, stop: int) -> None:
        """Let the system read the rows [start, stop) while others are computed, where it can."""
        for piece, low, high in self._within(start, stop):
            if piece.source.announce is not None:
                piece.source.announce(piece.start + low, piece.start + high)

    def part(self, start: int, stop: int) -> "Rows":
        """The rows [start, stop) as a matrix of their own."""
        parts = self._within(start, stop)
        pieces = (Piece(piece.source, piece.start + low, piece.start + high, piece.dtype) for piece, low, high in parts)
        return Rows(tuple(pieces), self.casts)

    def _within(self, start: int, stop: int) -> Iterator[tuple[Piece, int, int]]:
        """The pieces that hold the rows [start, stop), each with which of its own rows these are."""
        first = 0
        for piece in self.pieces:
            size = piece.stop - piece.start
            low, high = max(start - first, 0), min(stop - first, size)
            if low < high:
                yield piece, low, high
            first += size


def _cast(rows: torch.Tensor, casts: Sequence[torch.dtype]) -> torch.Tensor:
    """One cast after the other: each rounds."""
    for dtype in casts:
        rows = rows.to(dtype)
    return rows


class LazyWeight(torch.Tensor):  # type: ignore[misc] # torch is Any to the type checker
    """A tensor of known shape and type that is computed when asked.

    rows: what it is made of while it still is a matrix of the checkpoint's rows; flipped: whether it is that matrix
    transposed.
    """

    compute: Callable[[], torch.Tensor]
    rows: Rows | None
    flipped: bool

    @staticmethod
    def __new__(
        cls: Any,
        like: torch.Tensor,
        compute: Callable[[], torch.Tensor],
        rows: Rows | None = None,
        flipped: bool = False,
    ) -> Any:
        """A tensor of that shape and type without any storage; what it holds is computed when asked for."""
        tensor = torch.Tensor._make_wrapper_subclass(  # noqa: SLF001 - torch's documented way to make a tensor subclass
            cls, like.shape, strides=like.stride(), dtype=like.dtype, device="cpu"
        )
        tensor.compute, tensor.rows, tensor.flipped = compute, rows, flipped
        return tensor

    def __repr__(self) -> str:
        return f"LazyWeight({list(self.shape)}, {self.dtype})"

    @classmethod
    def __torch_dispatch__(
        cls, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Do to shapes and types what `func` does, and note it for the numbers."""
        kwargs = kwargs or {}
        if func is aten._local_scalar_dense.default:  # noqa: SLF001 - item(): the builder decides by a value
            return args[0].compute().item()
        shapes = func(*tree_map(_to_meta, args), **tree_map(_to_meta, {**kwargs, **_on_meta(kwargs)}))

        def compute() -> Any:
            return func(*tree_map(_to_value, args), **tree_map(_to_value, kwargs))

        if isinstance(shapes, (list, tuple)):
            parts = _split_rows(func, args, kwargs, shapes)
            return [
                LazyWeight(shape, lambda index=index: compute()[index], part)  # type: ignore[misc]
                for index, (shape, part) in enumerate(zip(shapes, parts, strict=True))
            ]
        if not isinstance(shapes, torch.Tensor):
            return compute()
        return LazyWeight(shapes, compute, *_followed(func, args, kwargs, shapes))


def lazy_weight(tensor: LazyTensor, dtype: torch.dtype) -> LazyWeight:
    """A tensor of the checkpoint as a parameter of `dtype`."""
    own = getattr(torch, tensor.dtype)
    kind = dtype if own.is_floating_point else own
    like = torch.empty(tensor.shape, dtype=kind, device="meta")
    rows = Rows((Piece(tensor, 0, tensor.shape[0], kind),)) if len(tensor.shape) == 2 else None
    weight: LazyWeight = LazyWeight(like, lambda: tensor.read().to(kind), rows)
    return weight


def _to_meta(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device="meta")
    return value


def _on_meta(kwargs: dict[str, Any]) -> dict[str, Any]:
    return {"device": torch.device("meta")} if kwargs.get("device") is not None else {}


def _to_value(value: Any) -> Any:
    return value.compute() if isinstance(value, LazyWeight) else value


_SAME = {
    aten.detach.default,
    aten.alias.default,
    aten.clone.default,
    aten._to_copy.default,  # noqa: SLF001
    aten.lift_fresh.default,
}
_FLIPS = {aten.t.default, aten.transpose.int, aten.permute.default}
_VIEWS = {aten.view.default, aten._unsafe_view.default, aten.expand.default}  # noqa: SLF001


def _followed(func: Any, args: Any, kwargs: Any, result: torch.Tensor) -> tuple[Rows | None, bool]:
    """The rows that a result is made of, and whether they are transposed; (None, False) when it is computed."""
    if func is aten.cat.default:
        return _joined(args[0], args[1] if len(args) > 1 else kwargs.get("dim", 0)), False
    first = args[0]
    if not isinstance(first, LazyWeight) or first.rows is None:
        return None, False
    rows: Rows | None = first.rows
    flipped = first.flipped
    if func in _SAME:
        casts = first.rows.casts if result.dtype == first.dtype else (*first.rows.casts, result.dtype)
        rows = Rows(first.rows.pieces, casts)
    elif func in _FLIPS:
        swapped = tuple(result.shape) == tuple(first.shape)[::-1] and result.stride() == first.stride()[::-1]
        rows, flipped = (rows, not flipped) if swapped else (None, False)
    elif func is aten.slice.Tensor and not flipped:
        rows = _sliced(first, args, kwargs, result)
    elif func not in _VIEWS or tuple(result.shape) != tuple(first.shape):
        rows, flipped = None, False
    return rows, flipped


def _joined(parts: Sequence[Any], dim: int) -> Rows | None:
    if dim != 0 or not all(isinstance(part, LazyWeight) and part.rows and not part.flipped for part in parts):
        return None
    if len({part.rows.casts for part in parts}) != 1:
        return None
    return Rows(tuple(piece for part in parts for piece in part.rows.pieces), parts[0].rows.casts)


def _sliced(first: LazyWeight, args: Any, kwargs: Any, result: torch.Tensor) -> Rows | None:
    if first.rows is None:
        return None
    named: dict[str, Any] = dict(zip(("dim", "start", "end", "step"), args[1:], strict=False)) | kwargs
    if named.get("step", 1) != 1:
        return None
    if named.get("dim", 0) != 0:
        return first.rows if result.shape == first.shape else None
    start = named.get("start") or 0
    start = start + first.shape[0] if start < 0 else min(start, first.shape[0])
    return first.rows.part(start, start + result.shape[0])


def _split_rows(func: Any, args: Any, kwargs: Any, shapes: Sequence[torch.Tensor]) -> list[Rows | None]:
    """The rows of each part of a split along the rows."""
    first = args[0]
    splits = (aten.split.Tensor, aten.split_with_sizes.default)
    dim = args[2] if len(args) > 2 else kwargs.get("dim", 0)
    if func not in splits or dim != 0 or not isinstance(first, LazyWeight) or not first.rows or first.flipped:
        return [None] * len(shapes)
    ends = [0]
    for shape in shapes:
        ends.append(ends[-1] + shape.shape[0])
    return [first.rows.part(low, high) for low, high in itertools.pairwise(ends)]
