"""Inputs of a model that are made up from its signature, and the sizes that only a config tells."""

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from olivine import lazy
from olivine.errors import ModelError
from olivine.models.signature import Signature, Size, TensorSpec

if TYPE_CHECKING:
    import numpy as np
else:
    np = lazy.module("numpy")

Inputs = Mapping[str, Any]  # arrays by the names of inputs
SIZE, IMAGE_SIZE = 8, 32  # of dimensions that nothing tells: tokens of a text, pixels of a side
N_SAMPLES = 4000  # of a wave: a quarter of a second, which the convolutions of any model of speech can read


def made_up(signature: Signature, n_rows: int, seed: int, sizes: Mapping[str, int] | None = None) -> list[Inputs]:
    """Rows of numbers of the right types and shapes, the same ones for the same seed and name of an input.

    Sizes that only have a name are those of `sizes`, else 1 along the first dimension (a row at a time), 0 for a past,
    else some. Token ids are drawn from those that there are, masks are ones, other numbers come from a normal
    distribution. Raises ModelError for an input that is no tensor of numbers.
    """
    return [
        {spec.name: _made_up(spec, _random(seed, row, spec.name), sizes or {}) for spec in signature.inputs}
        for row in range(n_rows)
    ]


def _random(seed: int, row: int, name: str) -> Any:
    """What an input is drawn from, whatever others there are: a graph may lack one, or have another order."""
    return np.random.default_rng([seed, row, *name.encode()])


def _made_up(spec: TensorSpec, random: Any, sizes: Mapping[str, int]) -> Any:
    if spec.shape is None or spec.dtype in ("string", "sequence", "map", "optional", "sparse", "unknown"):
        raise ModelError(f"the input '{spec.name}' ({spec.dtype}) cannot be made up; name rows in quality.data_config")
    shape = [_size(size, axis, len(spec.shape), sizes) for axis, size in enumerate(spec.shape)]
    kind = _kind(spec)
    if kind == "floats":
        return random.standard_normal(shape).astype(dtype_of(spec))
    if kind == "ones":
        return np.ones(shape, dtype_of(spec))
    if kind == "positions":
        return np.broadcast_to(np.arange(shape[-1] if shape else 1), shape).astype(dtype_of(spec))
    return random.integers(0, spec.n_choices or 1, shape).astype(dtype_of(spec))


def _kind(spec: TensorSpec) -> str:
    if "mask" in spec.name.lower():
        return "ones"
    if "float" in spec.dtype:
        return "floats"
    if "position" in spec.name.lower():
        return "positions"
    return "choices"


def dtype_of(spec: TensorSpec) -> Any:
    """The type of numbers of an input; ModelError for one that numpy does not have."""
    try:
        return np.dtype(spec.dtype)
    except TypeError:
        raise ModelError(f"the input '{spec.name}' has the type {spec.dtype}, which numpy does not have") from None


def _size(size: Size, axis: int, n_dimensions: int, sizes: Mapping[str, int]) -> int:
    """A size that only has a name, or not even that; exporters write sums such as "past_length + length"."""
    if isinstance(size, int):
        return size
    if size is not None and size in sizes:
        return sizes[size]
    if size is not None and "+" in size:
        parts = [part.strip() for part in size.split("+")]
        return sum(int(part) if part.isdecimal() else _size(part, 1, 0, sizes) for part in parts)
    if axis == 0:
        return 1
    return _usual(size or "", axis, n_dimensions)


def _usual(name: str, axis: int, n_dimensions: int) -> int:
    """A size that is no row, by its name and where it stands."""
    if "past" in name.lower():
        return 0
    if name == "samples":
        return N_SAMPLES
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
    return replace(spec, shape=shape, n_choices=min((n for n in (spec.n_choices, told.n_choices) if n), default=None))
