"""Embeddings and heads: stored once, or in fewer bits."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from olivine import lazy
from olivine.exporting.surgery._base import Surgeon, all_nodes, constant_of, forget_unused, number, put, replace, stored

if TYPE_CHECKING:
    import numpy as np
    import onnx_ir as ir
else:
    np, ir = lazy.module("numpy"), lazy.module("onnx_ir")

_ROWS = 4096  # of a table that is computed with at once


class TieWordEmbeddings(Surgeon):
    """Store once what embedding and head both hold: as floats, or in the same blocks."""

    def operate(self, model: "ir.Model") -> int:
        """See Surgeon; only where the two are equal, number for number."""
        n_places = 0
        for gather in [*all_nodes(model, "Gather", "GatherBlockQuantized")]:
            table = gather.inputs[0]
            if table is None or table.const_value is None or len(table.const_value.shape) != 2:
                continue
            kinds = ("MatMul",) if gather.op_type == "Gather" else ("MatMulNBits",)
            for head in all_nodes(model, *kinds):
                tied = (
                    _tie_floats(model, table, head) if gather.op_type == "Gather" else _tie_blocks(model, gather, head)
                )
                n_places += int(tied)
        forget_unused(model)
        return n_places


def _tie_floats(model: "ir.Model", table: "ir.Value", head: "ir.Node") -> bool:
    """The head reads the table itself, by a Gemm that transposes it."""
    weight, given = head.inputs[1], head.inputs[0]
    if weight is None or weight is table or weight.const_value is None or table.const_value is None or given is None:
        return False
    if table.dtype != weight.dtype or not _is_seen_everywhere(model, table):
        return False
    rows, width = table.const_value.shape.numpy()
    if list(weight.const_value.shape) != [width, rows]:
        return False
    whole, other = table.const_value.numpy(), weight.const_value.numpy()
    if not all(np.array_equal(whole[at : at + _ROWS], other[:, at : at + _ROWS].T) for at in range(0, rows, _ROWS)):
        return False
    graph = model.graph
    flat = put(head, "Reshape", [given, stored(graph, "head_flat", np.array([-1, width], np.int64))])
    product = put(head, "Gemm", [flat, table], {"transB": 1})
    ends = [stored(graph, f"head_{name}", np.array([at], np.int64)) for name, at in (("first", 0), ("last", -1))]
    sizes = put(head, "Slice", [put(head, "Shape", [given]), *ends])
    full = put(head, "Concat", [sizes, stored(graph, "head_rows", np.array([rows], np.int64))], {"axis": 0})
    replace(head, put(head, "Reshape", [product, full], name=f"{head.outputs[0].name}_shaped"))
    return True


def _is_seen_everywhere(model: "ir.Model", value: "ir.Value") -> bool:
    """Whether a weight is one of the outermost graph, which all others may read."""
    return model.graph.initializers.get(str(value.name)) is value


def _tie_blocks(model: "ir.Model", gather: "ir.Node", head: "ir.Node") -> bool:
    """The embedding reads the bytes of the head."""
    names = ("bits", "block_size")
    if any(number(gather, name, None) != number(head, name, None) for name in names):
        return False
    pairs = [
        (gather.inputs[place], head.inputs[other])
        for place, other in ((0, 1), (2, 2), (3, 3))
        if len(gather.inputs) > place
    ]
    arrays = [(constant_of(one), constant_of(two)) for one, two in pairs if one is not None]
    if any(one is None or two is None or one.tobytes() != two.tobytes() or one is two for one, two in arrays):
        return False
    if pairs[0][0] is pairs[0][1]:
        return False
    if not all(two is None or _is_seen_everywhere(model, two) for _, two in pairs):
        return False
    for place, (one, two) in zip((0, 2, 3), pairs, strict=False):
        if one is None or two is None:
            continue
        shape = [int(size) for size in one.shape.numpy()] if one.shape is not None else []
        sizes = stored(model.graph, f"{one.name}_sizes", np.array(shape, np.int64))
        gather.replace_input_with(place, put(gather, "Reshape", [two, sizes], name=f"{one.name}_tied"))
    return True


def _embeddings(model: "ir.Model") -> "Iterator[tuple[ir.Node, Any]]":
    """The nodes that pick rows of a stored matrix, each with the matrix."""
    for gather in all_nodes(model, "Gather"):
        table = gather.inputs[0]
        if table is None or table.const_value is None or number(gather, "axis", 0):
            continue
        if len(table.const_value.shape) == 2:
            yield gather, table


class ShareEmbeddingLmHead(Surgeon):
    """Let a float embedding read the blocks of the quantized head that is the same matrix."""

    def operate(self, model: "ir.Model") -> int:
        """See Surgeon; only where the head, dequantized, is the embedding but for rounding."""
        n_places = 0
        for gather, table in _embeddings(model):
            for head in all_nodes(model, "MatMulNBits"):
                if _is_seen_everywhere(model, head.inputs[1]) and _is_same(table.const_value, head):
                    _read_head(model, gather, head)
                    n_places += 1
                    break
        forget_unused(model)
        return n_places


def _is_same(table: Any, head: "ir.Node") -> bool:
    """Whether the rows of a head are those of a table, each within a step of its block."""
    rows, width = table.shape.numpy()
    if [number(head, "N", 0), number(head, "K", 0)] != [rows, width] or len(head.inputs) > 4:
        return False
    bits, block = number(head, "bits", 4), number(head, "block_size", 32)
    packed, scales = constant_of(head.inputs[1]), constant_of(head.inputs[2])
    if packed is None or scales is None or bits not in (4, 8) or width % block:
        return False
    if scales.dtype != table.numpy().dtype:  # what is picked has the type of the scales
        return False
    zeros = constant_of(head.inputs[3]) if len(head.inputs) > 3 else None
    if zeros is not None and zeros.dtype != np.uint8:
        return False
    n_blocks = width // block
    codes = _unpacked(packed.reshape(rows, n_blocks, -1), bits).astype(np.float32)
    middle = 2.0 ** (bits - 1)
    if zeros is not None:
        middle = _unpacked(zeros.reshape(rows, -1), bits)[:, :n_blocks, None].astype(np.float32)
    steps = scales.reshape(rows, n_blocks, 1).astype(np.float32)
    difference = np.abs((codes - middle) * steps - table.numpy().reshape(rows, n_blocks, block).astype(np.float32))
    return bool((difference <= 1.01 * np.abs(steps) + 1e-6).all())


def _unpacked(packed: Any, bits: int) -> Any:
    if bits == 8:
        return packed
    return np.stack([packed & 15, packed >> 4], axis=-1).reshape(*packed.shape[:-1], -1)


def _read_head(model: "ir.Model", gather: "ir.Node", head: "ir.Node") -> None:
    bits, block = number(head, "bits", 4), number(head, "block_size", 32)
    rows, width = number(head, "N", 0), number(head, "K", 0)
    name = gather.outputs[0].name
    shapes = (
        (1, [rows, width * bits // 8]),
        (2, [rows, width // block]),
        (3, [rows, (width // block * bits + 7) // 8]),
    )
    values = []
    for place, shape in shapes:
        value = head.inputs[place] if len(head.inputs) > place else None
        if value is not None:
            sizes = stored(model.graph, f"{name}_sizes_{place}", np.array(shape, np.int64))
            value = put(gather, "Reshape", [value, sizes], name=f"{name}_head_{place}")
        values.append(value)
    inputs = [values[0], gather.inputs[1], values[1], *([values[2]] if values[2] is not None else [])]
    attributes = {"bits": bits, "block_size": block, "gather_axis": 0, "quantize_axis": 1}
    model.graph.opset_imports.setdefault("com.microsoft", 1)
    replace(gather, put(gather, "GatherBlockQuantized", inputs, attributes, domain="com.microsoft"))


class QuantizeEmbeddingInt8(Surgeon):
    """Store embeddings in 8 bits, with a scale for every word; tables of rotary positions stay."""

    def operate(self, model: "ir.Model") -> int:
        """See Surgeon; words are picked in 8 bits, and multiplied by their scales."""
        n_places = 0
        for gather, table in _embeddings(model):
            if (
                table.const_value.dtype not in (ir.DataType.FLOAT, ir.DataType.FLOAT16)
                or table.const_value.shape[1] < 2
            ):
                continue
            if _is_rotary(table.const_value.numpy()):
                continue
            _quantize(model, gather, table)
            n_places += 1
        forget_unused(model)
        return n_places


def _is_rotary(array: Any) -> bool:
    """Whether a table [positions, angles] is f cos(position angle) or f sin(position angle) for one factor f.

    Of the first rows, cos 2a = 2 cos^2 a - 1, and (sin 2a)^2 = 4 sin^2 a (1 - sin^2 a); the largest angle of a table
    of sines is 1, which tells its factor.
    """
    if len(array) < 3:
        return False
    zero, one, two = array[:3].astype(np.float64)
    if zero[0] > 0 and np.allclose(zero, zero[0], rtol=1e-3):
        cosine = one / zero[0]
        return bool(np.allclose(two / zero[0], 2 * cosine**2 - 1, atol=5e-3))
    if zero.any() or not one[0] > 0:
        return False
    sine = one * (np.sin(1.0) / one[0])
    return bool(np.allclose((two * (np.sin(1.0) / one[0])) ** 2, 4 * sine**2 * (1 - sine**2), atol=5e-3))


def _quantize(model: "ir.Model", gather: "ir.Node", table: "ir.Value") -> None:
    array = table.const_value.numpy() if table.const_value is not None else None
    if array is None:
        raise ValueError("an embedding has numbers")
    codes = np.empty(array.shape, np.int8)
    scales = np.empty((len(array), 1), array.dtype)
    for at in range(0, len(array), _ROWS):
        rows = array[at : at + _ROWS].astype(np.float32)
        scales[at : at + _ROWS] = np.abs(rows).max(axis=1, keepdims=True) / 127
        step = np.maximum(scales[at : at + _ROWS].astype(np.float32), 1e-30)  # as it is stored
        codes[at : at + _ROWS] = np.rint(rows / step).clip(-127, 127)
    picked = [
        put(
            gather,
            "Gather",
            [stored(model.graph, f"{table.name}_{name}", one), gather.inputs[1]],
            name=f"{gather.outputs[0].name}_{name}",
        )
        for name, one in (("int8", codes), ("scale", scales))
    ]
    dtype = ir.DataType.FLOAT16 if array.dtype == np.float16 else ir.DataType.FLOAT
    floats = put(gather, "Cast", [picked[0]], {"to": int(dtype)})
    replace(gather, put(gather, "Mul", [floats, picked[1]]))


class RemoveGidxFromMatMulNBits(Surgeon):
    """Drop the group numbers of quantized products that count up block by block, as they do without."""

    def operate(self, model: "ir.Model") -> int:
        """See Surgeon; others, of GPTQ with an order of its own, stay: without them the product would be another."""
        n_places = 0
        for node in all_nodes(model, "MatMulNBits"):
            groups = constant_of(node.inputs[4]) if len(node.inputs) > 4 else None
            if groups is None or not np.array_equal(groups, np.arange(groups.size) // number(node, "block_size", 32)):
                continue
            if len(node.inputs) == 5:
                node.resize_inputs(4 if node.inputs[3] is not None else 3)
            else:
                node.replace_input_with(4, None)
            n_places += 1
        forget_unused(model)
        return n_places
