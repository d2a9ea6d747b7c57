"""Constants near minus infinity that mask the scores of an attention, known by what becomes of them."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from olivine import lazy
from olivine.exporting.graph_files import initializers

if TYPE_CHECKING:
    import numpy as np
    import onnx_ir as ir
else:
    np, ir = lazy.module("numpy"), lazy.module("onnx_ir")

# What gives 0 for -10000 as it does for minus infinity, beside numbers of a usual size.
_ENDS = frozenset(
    {
        *("Softmax", "Exp", "Sigmoid", "Attention", "MultiHeadAttention", "GroupQueryAttention", "PackedAttention"),
        *("DecoderMaskedMultiHeadAttention", "PackedMultiHeadAttention", "QOrderedAttention", "QAttention"),
    }
)
# What a mask goes through on its way there, and scores with it.
_WAYS = frozenset(
    {
        *("Add", "Sub", "Mul", "Div", "Where", "Max", "Min", "Clip", "ReduceMax", "Trilu", "Identity", "Cast"),
        *("Expand", "Reshape", "Unsqueeze", "Squeeze", "Transpose", "Flatten", "Tile", "Slice", "Concat", "Split"),
        *("Gather", "GatherND", "GatherElements", "ScatterND", "ScatterElements", "Pad", "ConstantOfShape"),
    }
)
_DOMAINS = ("", "ai.onnx", "com.microsoft")
_NUMBERS = ("value_float", "value_floats")  # attributes of a Constant


def replace_masks(model: "ir.Model", threshold: float, replacement: float) -> int:
    """Replace the numbers below the threshold in constants that only ever reach a softmax; gives how many constants.

    A constant that anything else reads as well (an output, a bound of what is no score) stays as it is.
    """
    seen: dict[int, bool] = {}
    n_places = 0
    for value in initializers(model):
        if not value.is_graph_input() and _only_masks(value, seen):
            other = _replaced(value.const_value, threshold, replacement)
            if other is not None:
                value.const_value, n_places = other, n_places + 1
    for node in _constants(model):
        if _only_masks(node.outputs[0], seen):
            n_places += int(_replace_in(node, threshold, replacement))
    return n_places


def _constants(model: "ir.Model") -> "Iterator[ir.Node]":
    for graph in model.graphs():
        yield from (node for node in graph if node.op_type in ("Constant", "ConstantOfShape") and node.domain == "")


def _only_masks(value: "ir.Value", seen: dict[int, bool]) -> bool:
    """Whether every way from a value ends in a softmax or its like, and there is one; seen: what is known already."""
    if id(value) in seen:
        return seen[id(value)]
    uses = value.uses()
    seen[id(value)] = bool(uses) and not value.is_graph_output()
    seen[id(value)] = seen[id(value)] and all(_masks_in(use.node, seen) for use in uses)
    return seen[id(value)]


def _masks_in(node: "ir.Node", seen: dict[int, bool]) -> bool:
    if node.domain not in _DOMAINS:
        return False
    if node.op_type in _ENDS:
        return True
    if node.op_type == "Cast" and node.attributes["to"].value == ir.DataType.BOOL:  # as before: it is not 0
        return True
    read = [value for value in node.outputs if value.uses() or value.is_graph_output()]
    return node.op_type in _WAYS and all(_only_masks(value, seen) for value in read)


def _replace_in(node: "ir.Node", threshold: float, replacement: float) -> bool:
    """The same in the attribute of a Constant or ConstantOfShape."""
    attribute = node.attributes.get("value")
    if attribute is not None:
        other = _replaced(attribute.value, threshold, replacement)
        if other is not None:
            node.attributes["value"] = ir.AttrTensor("value", other)
        return other is not None
    for name in _NUMBERS:
        numbers = node.attributes.get(name)
        if numbers is None or not (np.asarray(numbers.value) < threshold).any():
            continue
        if name == "value_float":
            node.attributes[name] = ir.AttrFloat32(name, replacement)
        else:
            node.attributes[name] = ir.AttrFloat32s(
                name, [replacement if one < threshold else one for one in numbers.value]
            )
        return True
    return False


def _replaced(tensor: Any, threshold: float, replacement: float) -> Any | None:
    """The tensor with the replacement in it; None where no number is below the threshold."""
    if not tensor.dtype.is_floating_point():
        return None
    array = tensor.numpy()
    is_below = array.astype(np.float64) < threshold
    if not is_below.any():
        return None
    return ir.tensor(np.where(is_below, np.asarray(replacement, array.dtype), array), name=tensor.name)
