"""What a config says of a model's inputs and outputs, put over what the model itself tells."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from olivine.errors import ModelError
from olivine.models.signature import Signature, Size, TensorSpec

IoConfig = Mapping[str, Any]
"""As `olivine.config.schema.IoConfig` dumps it, or as a script gives it."""


@dataclass(frozen=True)
class Example:
    """One input of an example: its shape and numpy's name of its type."""

    shape: tuple[int, ...]
    dtype: str


def examples(given: Any, names: Sequence[str]) -> dict[str, Example]:
    """The inputs of what a script gives as an example: a mapping, a tuple in the order of `names`, or one tensor."""
    if hasattr(given, "items"):
        pairs = list(given.items())
    else:
        values = list(given) if isinstance(given, tuple | list) else [given]
        pairs = list(zip(names or [f"input_{number}" for number in range(len(values))], values, strict=False))
    tensors = [(str(name), value) for name, value in pairs if hasattr(value, "shape") and hasattr(value, "dtype")]
    return {name: Example(tuple(map(int, one.shape)), str(one.dtype).removeprefix("torch.")) for name, one in tensors}


def signature_by(
    base: Signature | None, io_config: IoConfig | None, example: Mapping[str, Example] | None = None
) -> Signature | None:
    """What goes in and comes out, by example, config and model, in that order; None where none of them tells.

    A size is open where the config names it in dynamic_axes; without dynamic_axes, what the model itself leaves open
    is, unless the config gives its shape. Raises ModelError for an input of which nothing tells the shape.
    """
    io, known = io_config or {}, {spec.name: spec for spec in base.inputs} if base is not None else {}
    if not io and not example:
        return base
    names = list(io.get("input_names") or example or known)
    shapes = dict(zip(names, io.get("input_shapes") or (), strict=False))
    types = dict(zip(names, io.get("input_types") or (), strict=False))
    inputs = []
    for name in names:
        spec, shown = known.get(name), (example or {}).get(name)
        shape: Sequence[Size] | None = shown.shape if shown else shapes.get(name) or (spec.shape if spec else None)
        dtype = shown.dtype if shown else types.get(name) or (spec.dtype if spec else "float32")
        if shape is None:
            raise ModelError(f"nothing tells the shape of the input '{name}': write input_shapes, or dummy_inputs_func")
        sizes = _open(shape, (io.get("dynamic_axes") or {}).get(name))
        inputs.append(replace(spec or TensorSpec(name, dtype, None), dtype=dtype, shape=sizes))
    outputs = io.get("output_names")
    given = tuple(TensorSpec(str(name), "float32", None) for name in outputs) if outputs else ()
    return Signature(tuple(inputs), given or (base.outputs if base is not None else ()))


def _open(shape: Sequence[Size], axes: Any) -> tuple[Size, ...]:
    """The shape with the names of sizes that stay open."""
    named = axes if isinstance(axes, Mapping) else {axis: f"size_{axis}" for axis in axes or ()}
    by_axis = {int(axis): str(name) for axis, name in named.items()}
    return tuple(by_axis.get(axis, size) for axis, size in enumerate(shape))


def sizes_by(signature: Signature, io_config: IoConfig | None, example: Mapping[str, Example]) -> dict[str, int]:
    """How large the sizes that stay open are in the example, or in the shapes of the config."""
    io = io_config or {}
    shapes = dict(zip(io.get("input_names") or (), io.get("input_shapes") or (), strict=False))
    shapes |= {name: one.shape for name, one in example.items()}
    return {
        size: int(told)
        for spec in signature.inputs
        for size, told in zip(spec.shape or (), shapes.get(spec.name) or (), strict=False)
        if isinstance(size, str)
    }
