"""Rows as inputs of a model: columns that have the names of inputs, or text through a tokenizer."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from olivine import lazy
from olivine.errors import DataError
from olivine.models.sample_inputs import Inputs, dtype_of
from olivine.models.signature import Signature, Size, TensorSpec, is_derived

if TYPE_CHECKING:
    import numpy as np
else:
    np = lazy.module("numpy")

Tokenize = Callable[[Mapping[str, Any]], Mapping[str, Sequence[int]]]


def of_row(signature: Signature, row: Mapping[str, Any], where: str, tokenize: Tokenize | None) -> Inputs:
    """The inputs that a row of data gives; raises DataError, with where it stands, when it does not fit."""
    given: Mapping[str, Any] = row
    if tokenize is not None and any(spec.name not in row for spec in signature.inputs):
        given = {**row, **_made(tokenize, row, where)}
    arrays = {spec.name: _array(spec, given[spec.name], where) for spec in signature.inputs if spec.name in given}
    for spec in signature.inputs:
        if spec.name not in arrays:
            arrays[spec.name] = _derived(spec, arrays, where)
    return arrays


def of_parts(
    signature: Signature, row: Mapping[str, Any], where: str, tokenize: Tokenize | None, spare: Inputs
) -> Inputs:
    """The inputs of several parts that a row gives: a column is for each part that has an input of its name.

    spare: inputs for those that the row says nothing of, such as what one part would give another.
    """
    parts: dict[str, list[TensorSpec]] = {}
    for spec in signature.inputs:
        part, _, name = spec.name.partition("/")
        parts.setdefault(part, []).append(replace(spec, name=name))
    arrays: dict[str, Any] = {}
    given = {**row, **(_made(tokenize, row, where) if tokenize is not None else {})}
    for part, specs in parts.items():
        known = [spec for spec in specs if spec.name in given or ("input_ids" in given and is_derived(spec.name))]
        own = of_row(Signature(tuple(known), ()), given, where, None)
        arrays |= {f"{part}/{spec.name}": own.get(spec.name, spare[f"{part}/{spec.name}"]) for spec in specs}
    return arrays


def _made(tokenize: Tokenize, row: Mapping[str, Any], where: str) -> Mapping[str, Any]:
    """What a tokenizer or an extractor makes of a row; what it cannot read is told with where it stands."""
    try:
        return tokenize(row)
    except DataError as error:
        raise DataError(f"{where}: {error}") from error


def _derived(spec: TensorSpec, arrays: Inputs, where: str) -> Any:
    ids = arrays.get("input_ids")
    if ids is None or not is_derived(spec.name):
        raise DataError(f"{where}: the row has no column '{spec.name}', which the model takes")
    if spec.name == "position_ids":
        return np.broadcast_to(np.arange(ids.shape[-1]), ids.shape).astype(dtype_of(spec))
    return np.full(ids.shape, int(spec.name == "attention_mask"), dtype_of(spec))


def _array(spec: TensorSpec, value: Any, where: str) -> Any:
    """A value of a row as an input, with the row as its first dimension where it lacks one."""
    try:
        array = np.asarray(value, dtype=object if spec.dtype == "string" else dtype_of(spec))
        is_whole = array.dtype.kind not in "iu" or np.array_equal(array, np.asarray(value))
    except (TypeError, ValueError, OverflowError):
        is_whole = False
    if not is_whole:
        raise DataError(f"{where}: the column '{spec.name}' holds no numbers of type {spec.dtype}")
    if "float" in spec.dtype and not np.isfinite(array).all():
        raise DataError(f"{where}: the column '{spec.name}' holds NaN or infinity")
    if spec.shape is not None and array.ndim == len(spec.shape) - 1:
        array = array[None]
    if spec.shape is not None and not fits(array.shape, spec.shape):
        raise DataError(
            f"{where}: the column '{spec.name}' has the shape {list(array.shape)}, but the model takes {spec}"
        )
    return array


def fits(shape: Sequence[int], told: Sequence[Size]) -> bool:
    """Whether an array of a shape is one of those that a signature tells."""
    pairs = zip(shape, told, strict=False)
    return len(shape) == len(told) and all(not isinstance(size, int) or size == here for here, size in pairs)
