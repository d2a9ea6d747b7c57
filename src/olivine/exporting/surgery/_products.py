"""Products and norms in other operators."""

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


class GemmToMatMulAdd(Surgeon):
    """A B + C as MatMul and Add, where nothing else is asked of the Gemm."""

    def operate(self, model: "ir.Model") -> int:
        """See Surgeon; transposed constants are stored as they are used, others get a Transpose."""
        n_places = 0
        for node in all_nodes(model, "Gemm"):
            if number(node, "alpha", 1.0) != 1 or number(node, "beta", 1.0) != 1 or number(node, "transA", 0):
                continue
            weight = _transposed(model, node) if number(node, "transB", 0) else node.inputs[1]
            result = put(node, "MatMul", [node.inputs[0], weight])
            bias = node.inputs[2] if len(node.inputs) > 2 else None
            replace(node, put(node, "Add", [result, bias]) if bias is not None else result)
            n_places += 1
        forget_unused(model)
        return n_places


def _transposed(model: "ir.Model", node: "ir.Node") -> "ir.Value":
    weight = node.inputs[1]
    array = constant_of(weight)
    if array is None or weight is None:
        return put(node, "Transpose", [weight], {"perm": [1, 0]})
    return stored(model.graph, f"{weight.name}_transposed", array.T)


class MatMulAddToGemm(Surgeon):
    """MatMul with a constant matrix of floats and an Add of a constant vector as one Gemm, over two dimensions."""

    def operate(self, model: "ir.Model") -> int:
        """See Surgeon; only where every size of more than two dimensions is known."""
        n_places = 0
        for node in all_nodes(model, "MatMul"):
            uses = list(node.outputs[0].uses())
            add = uses[0].node if len(uses) == 1 and not node.outputs[0].is_graph_output() else None
            weight = constant_of(node.inputs[1])
            is_sum = add is not None and is_a(add, "Add") and add.graph is node.graph
            if add is None or not is_sum or weight is None or weight.ndim != 2 or weight.dtype.kind != "f":
                continue
            bias = next((value for value in add.inputs if value is not node.outputs[0]), None)
            array = constant_of(bias)
            shape = node.inputs[0].shape if node.inputs[0] is not None else None
            if array is None or array.shape != (weight.shape[1],) or shape is None or not _is_usable(shape):
                continue
            _to_gemm(model, node, add, bias, shape, weight.shape[1])
            n_places += 1
        forget_unused(model)
        return n_places


def _is_usable(shape: Any) -> bool:
    return bool(shape.rank() == 2 or (shape.rank() > 2 and shape.is_static()))


def _to_gemm(model: "ir.Model", node: "ir.Node", add: "ir.Node", bias: Any, shape: Any, n_outputs: int) -> None:
    given = node.inputs[0]
    if shape.rank() > 2:
        sizes = stored(model.graph, f"{add.outputs[0].name}_flat", np.array([-1, shape[-1]], np.int64))
        given = put(add, "Reshape", [given, sizes])
    result = put(add, "Gemm", [given, node.inputs[1], bias])
    if shape.rank() > 2:
        full = np.array([*shape.numpy()[:-1], n_outputs], np.int64)
        result = put(add, "Reshape", [result, stored(model.graph, f"{add.outputs[0].name}_shape", full)])
    replace(add, result)
    graph_of(node).remove(node, safe=True)


class ReciprocalMulToDiv(Surgeon):
    """A product with a reciprocal as a division."""

    def operate(self, model: "ir.Model") -> int:
        """See Surgeon."""
        n_places = 0
        for node in all_nodes(model, "Mul"):
            for value, other in ((node.inputs[0], node.inputs[1]), (node.inputs[1], node.inputs[0])):
                source = value.producer() if value is not None else None
                if source is not None and is_a(source, "Reciprocal"):
                    replace(node, put(node, "Div", [other, source.inputs[0]]))
                    n_places += 1
                    break
        forget_unused(model)
        return n_places


class PowReduceSumPowDiv2LpNorm(Surgeon):
    """x / (sum x^2)^(1/2) along one dimension as LpNormalization."""

    def operate(self, model: "ir.Model") -> int:
        """See Surgeon."""
        n_places = 0
        for node in all_nodes(model, "Div"):
            axis = _norm_axis(node)
            if axis is not None:
                replace(node, put(node, "LpNormalization", [node.inputs[0]], {"axis": axis, "p": 2}))
                n_places += 1
        forget_unused(model)
        return n_places


def _norm_axis(node: "ir.Node") -> int | None:
    """The dimension along which a Div normalizes; None where it does not."""
    root = _powered(node.inputs[1], 0.5)
    total = root.producer() if root is not None else None
    if total is None or not is_a(total, "ReduceSum") or not number(total, "keepdims", 1):
        return None
    square = _powered(total.inputs[0], 2.0)
    if square is None or square is not node.inputs[0]:
        return None
    axes = constant_of(total.inputs[1]) if len(total.inputs) > 1 else number(total, "axes", None)
    return int(axes[0]) if axes is not None and len(axes) == 1 else None


def _powered(value: Any, exponent: float) -> "ir.Value | None":
    """What a value is that power of."""
    node = value.producer() if value is not None else None
    if node is None:
        return None
    if is_a(node, "Sqrt") and exponent == 0.5:
        return node.inputs[0]
    power = constant_of(node.inputs[1]) if is_a(node, "Pow") else None
    return node.inputs[0] if power is not None and power.size == 1 and float(power.reshape(-1)[0]) == exponent else None


class SimplifiedLayerNormToL2Norm(Surgeon):
    """x / rms(x) w as LpNormalization and one product with sqrt(n) w: for runtimes without RMS norms.

    x / sqrt(mean x^2 + e) = sqrt(n) x / |x| but for e, which is far below the mean of squares of any row but of zeros.
    """

    def operate(self, model: "ir.Model") -> int:
        """See Surgeon; over the last dimension only. The sum of a SkipSimplifiedLayerNormalization becomes an Add."""
        n_places = 0
        for node in all_nodes(
            model, "SimplifiedLayerNormalization", "SkipSimplifiedLayerNormalization", "RMSNormalization"
        ):
            skips = node.op_type.startswith("Skip")
            weight = constant_of(node.inputs[2 if skips else 1])
            width = _normed_width(node, weight)
            if (
                weight is None
                or width is None
                or any(output.uses() or output.is_graph_output() for output in node.outputs[1:3])
            ):
                continue
            total = _summed(node) if skips else node.inputs[0]
            norm = put(node, "LpNormalization", [total], {"axis": -1, "p": 2})
            scale = stored(model.graph, f"{node.outputs[0].name}_scale", (weight * np.sqrt(width)).astype(weight.dtype))
            if skips and len(node.outputs) > 3:
                _hand_over(node.outputs[3], total)
            replace(node, put(node, "Mul", [norm, scale]))
            n_places += 1
        forget_unused(model)
        return n_places


def _normed_width(node: "ir.Node", weight: Any) -> int | None:
    """How many numbers a norm takes together: the size of the last dimension; None where it is another or unknown."""
    if weight is None or weight.ndim > 1:
        return None
    given = node.inputs[0]
    shape, axis = given.shape if given is not None else None, number(node, "axis", -1)
    if axis != -1 and shape is not None and axis != shape.rank() - 1:
        return None
    if axis != -1 and shape is None and is_a(node, "RMSNormalization"):  # its scale may be of fewer dimensions
        return None
    last = shape[-1] if shape is not None and shape.rank() else None
    if not isinstance(last, int):
        return int(weight.size) if weight.size > 1 else None
    return last if weight.size in (1, last) else None


def _hand_over(value: "ir.Value", total: "ir.Value") -> None:
    """Let the sum stand for the output of a node that gave it too, under its name where the graph gives it."""
    if value.is_graph_output():
        name, total.type, total.shape = value.name, value.type, value.shape
        value.name = f"{name}_replaced"
        total.name = name
    value.replace_all_uses_with(total, replace_graph_outputs=True)


def _summed(node: "ir.Node") -> "ir.Value":
    total = put(node, "Add", node.inputs[:2])
    bias = node.inputs[3] if len(node.inputs) > 3 else None
    return total if bias is None else put(node, "Add", [total, bias], name=f"{node.outputs[0].name}_with_bias")
