"""Rows as inputs of a graph: columns that have the names of inputs, text through a tokenizer, or made-up numbers."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from olivine import lazy
from olivine.errors import DataError, ModelError
from olivine.models.signature import Signature, Size, TensorSpec, is_derived

if TYPE_CHECKING:
    import numpy as np
else:
    np = lazy.module("numpy")

Inputs = Mapping[str, Any]  # arrays by the names of inputs
Tokenize = Callable[[Mapping[str, Any]], Mapping[str, Sequence[int]]]
SIZE, IMAGE_SIZE = 8, 32  # of dimensions that nothing tells: tokens of a text, pixels of a side


def made_up(signature: Signature, n_rows: int, seed: int) -> list[Inputs]:
    """Rows of numbers of the right types and shapes, the same ones for the same seed.

    Sizes that only have a name are 1 along the first dimension (a row at a time), 0 for a past, else some. Token ids
    are drawn from those that there are, masks are ones, other numbers come from a normal distribution. Raises
    ModelError for an input that is no tensor of numbers.
    """
    random = np.random.default_rng(seed)
    return [{spec.name: _made_up(spec, random) for spec in signature.inputs} for _ in range(n_rows)]


def _made_up(spec: TensorSpec, random: Any) -> Any:
    if spec.shape is None or spec.dtype in ("string", "sequence", "map", "optional", "sparse", "unknown"):
        raise ModelError(f"the input '{spec.name}' ({spec.dtype}) cannot be made up; name rows in quality.data_config")
    shape = [_size(size, axis, len(spec.shape)) for axis, size in enumerate(spec.shape)]
    kind = _kind(spec)
    if kind == "floats":
        return random.standard_normal(shape).astype(_dtype(spec))
    if kind == "ones":
        return np.ones(shape, _dtype(spec))
    if kind == "positions":
        return np.broadcast_to(np.arange(shape[-1] if shape else 1), shape).astype(_dtype(spec))
    return random.integers(0, spec.n_choices or 1, shape).astype(_dtype(spec))


def _kind(spec: TensorSpec) -> str:
    if "mask" in spec.name.lower():
        return "ones"
    if "float" in spec.dtype:
        return "floats"
    if "position" in spec.name.lower():
        return "positions"
    return "choices"


def _dtype(spec: TensorSpec) -> Any:
    try:
        return np.dtype(spec.dtype)
    except TypeError:
        raise ModelError(f"the input '{spec.name}' has the type {spec.dtype}, which numpy does not have") from None


def _size(size: Size, axis: int, n_dimensions: int) -> int:
    """A size that only has a name, or not even that; exporters write sums such as "past_length + length"."""
    if isinstance(size, int):
        return size
    if size is not None and "+" in size:
        parts = [part.strip() for part in size.split("+")]
        return sum(int(part) if part.isdecimal() else _size(part, 1, 0) for part in parts)
    if axis == 0:
        return 1
    if size is not None and "past" in size.lower():
        return 0
    return IMAGE_SIZE if n_dimensions == 4 and axis > 1 else SIZE


def fitted(signature: Signature, told: Signature | None) -> Signature:
    """The signature of a graph, with sizes that it does not tell from that of the config beside it."""
    known = {spec.name: spec for spec in told.inputs} if told is not None else {}
    return replace(signature, inputs=tuple(_fitted(spec, known.get(spec.name)) for spec in signature.inputs))


def _fitted(spec: TensorSpec, told: TensorSpec | None) -> TensorSpec:
    if told is None or spec.shape is None or told.shape is None or len(told.shape) != len(spec.shape):
        return spec
    pairs = zip(spec.shape, told.shape, strict=True)
    shape = tuple(other if isinstance(other, int) and not isinstance(size, int) else size for size, other in pairs)
    return replace(spec, shape=shape, n_choices=spec.n_choices or told.n_choices)


def of_row(signature: Signature, row: Mapping[str, Any], where: str, tokenize: Tokenize | None) -> Inputs:
    """The inputs that a row of data gives; raises DataError, with where it stands, when it does not fit."""
    given: Mapping[str, Any] = row
    if tokenize is not None and any(spec.name not in row for spec in signature.inputs):
        given = {**row, **tokenize(row)}
    arrays = {spec.name: _array(spec, given[spec.name], where) for spec in signature.inputs if spec.name in given}
    for spec in signature.inputs:
        if spec.name not in arrays:
            arrays[spec.name] = _derived(spec, arrays, where)
    return arrays


def _derived(spec: TensorSpec, arrays: Inputs, where: str) -> Any:
    ids = arrays.get("input_ids")
    if ids is None or not is_derived(spec.name):
        raise DataError(f"{where}: the row has no column '{spec.name}', which the model takes")
    if spec.name == "position_ids":
        return np.broadcast_to(np.arange(ids.shape[-1]), ids.shape).astype(_dtype(spec))
    return np.full(ids.shape, int(spec.name == "attention_mask"), _dtype(spec))


def _array(spec: TensorSpec, value: Any, where: str) -> Any:
    """A value of a row as an input, with the row as its first dimension where it lacks one."""
    try:
        array = np.asarray(value, dtype=object if spec.dtype == "string" else _dtype(spec))
    except (TypeError, ValueError, OverflowError):
        raise DataError(f"{where}: the column '{spec.name}' holds no numbers of type {spec.dtype}") from None
    if "float" in spec.dtype and not np.isfinite(array).all():
        raise DataError(f"{where}: the column '{spec.name}' holds NaN or infinity")
    if spec.shape is not None and array.ndim == len(spec.shape) - 1:
        array = array[None]
    if spec.shape is not None and not _fits(array.shape, spec.shape):
        raise DataError(
            f"{where}: the column '{spec.name}' has the shape {list(array.shape)}, but the model takes {spec}"
        )
    return array


def _fits(shape: Sequence[int], told: Sequence[Size]) -> bool:
    pairs = zip(shape, told, strict=False)
    return len(shape) == len(told) and all(not isinstance(size, int) or size == here for here, size in pairs)
