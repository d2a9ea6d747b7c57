"""What decoders are told of lengths and positions, and attention over packed sequences."""

from typing import TYPE_CHECKING, Any

from olivine import lazy
from olivine.exporting.surgery._base import (
    Surgeon,
    all_nodes,
    constant_of,
    forget_unused,
    graph_of,
    is_a,
    number,
    put,
    replace,
    stored,
)

if TYPE_CHECKING:
    import numpy as np
    import onnx_ir as ir
else:
    np, ir = lazy.module("numpy"), lazy.module("onnx_ir")


class AttentionMaskToSequenceLengths(Surgeon):
    """Give GroupQueryAttention its lengths as inputs, past_seq_len and total_seq_len, in place of a mask to count."""

    def operate(self, model: "ir.Model") -> int:
        """See Surgeon: past_seq_len [batch, 1] is the tokens of the row less one, total_seq_len [1] the longest row."""
        nodes = [node for node in all_nodes(model, "GroupQueryAttention") if len(node.inputs) > 6]
        known = {str(value.name): value for value in model.graph.inputs}
        if not nodes or {"past_seq_len", "total_seq_len"} & set(known):
            return 0
        lengths = []
        for name, shape in (("past_seq_len", ["batch_size", 1]), ("total_seq_len", [1])):
            value = ir.Value(name=name, shape=ir.Shape(shape), type=ir.TensorType(ir.DataType.INT32))
            model.graph.inputs.append(value)
            lengths.append(value)
        for node in nodes:
            for place, value in ((5, lengths[0]), (6, lengths[1])):
                node.replace_input_with(place, value)
        forget_unused(model)
        mask = known.get("attention_mask")
        if mask is not None and not mask.uses():
            model.graph.inputs.remove(mask)
        return len(nodes)


class RemoveRopeMultiCache(Surgeon):
    """Keep one table of rotary positions where an If chooses between one for short and one for long contexts."""

    use_large_cache: bool = False

    def operate(self, model: "ir.Model") -> int:
        """See Surgeon; the larger table has more positions. Beyond those of a short table, positions are none."""
        n_places = 0
        for node in all_nodes(model, "If"):
            tables = _tables(node)
            if tables is None:
                continue
            chosen = tables[int(self.use_large_cache)]
            for output, array in zip(list(node.outputs), chosen, strict=True):
                name = str(output.name)
                output.name = f"{name}_chosen"
                output.replace_all_uses_with(stored(model.graph, name, array), replace_graph_outputs=True)
            graph_of(node).remove(node, safe=True)
            n_places += 1
        forget_unused(model)
        return n_places


def _tables(node: "ir.Node") -> "tuple[list[Any], list[Any]] | None":
    """Cosines and sines of the shorter and of the longer table between which an If chooses; None where it does not."""
    short, long = (_constants(number(node, key, None)) for key in ("then_branch", "else_branch"))
    if short is None or long is None or len(short) != 2 or len(long) != 2:
        return None
    if any(array.ndim != 2 or array.dtype.kind != "f" for array in (*short, *long)):
        return None
    if short[0].shape[0] > long[0].shape[0]:
        short, long = long, short
    are_pairs = all(table[0].shape == table[1].shape for table in (short, long))
    grows = short[0].shape[0] < long[0].shape[0] and short[0].shape[1] == long[0].shape[1]
    return (short, long) if are_pairs and grows else None


def _constants(branch: Any) -> list[Any] | None:
    """What a branch gives where it computes nothing."""
    if branch is None:
        return None
    arrays = [_behind(value) for value in branch.outputs]
    return None if any(array is None for array in arrays) else arrays


def _behind(value: Any) -> Any | None:
    """A constant, through Identity."""
    producer = value.producer()
    if producer is not None and is_a(producer, "Identity"):
        return _behind(producer.inputs[0])
    return constant_of(value)


class PackedAttentionToLoopMHA(Surgeon):
    """Attention over sequences that lie one behind the other as a Loop over them of MultiHeadAttention.

    The node PackedAttention takes query, key and value [1, heads, tokens, head size] and the places where sequences
    begin and end [sequences + 1]; it gives [1, tokens, heads, head size]. Domain and layout are those of Olive.
    """

    def operate(self, model: "ir.Model") -> int:
        """See Surgeon."""
        n_places = 0
        for node in [node for graph in model.graphs() for node in graph if node.op_type == "PackedAttention"]:
            heads = number(node, "num_heads", None)
            if node.domain in ("", "com.microsoft") or heads is None or len(node.inputs) < 4:
                continue
            _to_loop(model, node, int(heads))
            n_places += 1
        forget_unused(model)
        return n_places


def _to_loop(model: "ir.Model", node: "ir.Node", heads: int) -> None:
    """[1, heads, tokens, size] -> [1, tokens, heads * size] each; a Loop joins the results of the sequences."""
    graph, name = model.graph, str(node.outputs[0].name)
    flat = stored(graph, f"{name}_flat", np.array([0, 0, -1], np.int64))
    rows = []
    for place, value in enumerate(node.inputs[:3]):
        turned = put(node, "Transpose", [value], {"perm": [0, 2, 1, 3]}, name=f"{name}_turned_{place}")
        rows.append(put(node, "Reshape", [turned, flat], name=f"{name}_row_{place}"))
    bounds = put(node, "Cast", [node.inputs[3]], {"to": int(ir.DataType.INT64)}, name=f"{name}_bounds")
    n_bounds = put(node, "Size", [bounds], name=f"{name}_n_bounds")
    n_rows = put(node, "Sub", [n_bounds, stored(graph, f"{name}_one", np.array(1, np.int64))], name=f"{name}_n_rows")
    start = put(
        node,
        "Slice",
        [
            rows[0],
            *(
                stored(graph, f"{name}_{key}", np.array([at], np.int64))
                for key, at in (("begin", 0), ("end", 0), ("axis", 1))
            ),
        ],
        name=f"{name}_none",
    )
    body = _body(name, rows, bounds, heads, number(node, "scale", None), start.type)
    model.graph.opset_imports.setdefault("com.microsoft", 1)
    loop = ir.node("Loop", inputs=[n_rows, None, start], attributes={"body": body}, num_outputs=1, name=f"{name}_Loop")
    loop.outputs[0].name = f"{name}_joined"
    graph_of(node).insert_before(node, loop)
    parted = stored(graph, f"{name}_parted", np.array([0, 0, heads, -1], np.int64))
    replace(node, put(node, "Reshape", [loop.outputs[0], parted], name=f"{name}_parts"))


def _body(name: str, rows: Any, bounds: Any, heads: int, scale: Any, kind: Any) -> "ir.Graph":
    """One sequence: its tokens cut out, attention among them, the result behind those before."""

    def value(key: str, dtype: Any, shape: Any) -> Any:
        return ir.Value(name=f"{name}_{key}", type=ir.TensorType(dtype), shape=ir.Shape(shape))

    index = value("index", ir.DataType.INT64, [])
    go, before = value("go", ir.DataType.BOOL, []), ir.Value(name=f"{name}_before", type=kind)
    nodes = []

    def make(op: str, key: str, inputs: Any, domain: str = "", **attributes: Any) -> Any:
        made = ir.node(op, inputs=inputs, attributes=attributes, domain=domain, num_outputs=1, name=f"{name}_{key}")
        made.outputs[0].name = f"{name}_{key}_value"
        nodes.append(made)
        return made.outputs[0]

    def constant(key: str, array: Any) -> Any:
        return make("Constant", key, [], value=ir.tensor(array))

    one, axis = constant("step", np.array(1, np.int64)), constant("along", np.array([1], np.int64))
    zero = constant("first", np.array([0], np.int64))
    begin = make("Unsqueeze", "from", [make("Gather", "from_at", [bounds, index]), zero])
    end = make("Unsqueeze", "to", [make("Gather", "to_at", [bounds, make("Add", "next", [index, one])]), zero])
    cut = [make("Slice", f"cut_{place}", [row, begin, end, axis]) for place, row in enumerate(rows)]
    attributes = {"num_heads": heads, **({"scale": float(scale)} if scale is not None else {})}
    seen = make("MultiHeadAttention", "attention", cut, domain="com.microsoft", **attributes)
    joined = make("Concat", "join", [before, seen], axis=1)
    on = make("Identity", "on", [go])
    on.type, joined.type = ir.TensorType(ir.DataType.BOOL), kind
    on.shape = ir.Shape([])
    return ir.Graph([index, go, before], [on, joined], nodes=nodes, name=f"{name}_body", opset_imports={"": 17})
