"""What a graph says of its shapes and inputs, and operators that some runtimes lack in others."""

from collections.abc import Iterator
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

_ERF_AS_TANH = 605 / 503  # erf(x) is near tanh of this times x: within 0.02 everywhere
_QUICK_GELU = 1.702  # alpha of onnxruntime's QuickGelu where the node says none


class InferShapes(Surgeon):
    """Write down the shapes between inputs and outputs, as far as they follow from those of the inputs."""

    def operate(self, model: "ir.Model") -> int:
        """See Surgeon."""
        from onnx_ir.passes import common

        before = _n_shapes(model)
        common.ShapeInferencePass()(model)
        return max(0, _n_shapes(model) - before)


class RemoveShapes(Surgeon):
    """Forget the shapes between inputs and outputs."""

    def operate(self, model: "ir.Model") -> int:
        """See Surgeon."""
        values = [value for value in _inner(model) if value.shape is not None]
        for value in values:
            value.shape = None
            value.type = None
        return len(values)


def _n_shapes(model: "ir.Model") -> int:
    return sum(value.shape is not None for value in _inner(model))


def _inner(model: "ir.Model") -> "Iterator[ir.Value]":
    """What nodes give to others, in the outermost graph and those in it."""
    for node in model.graph.all_nodes():
        yield from (value for value in node.outputs if not value.is_graph_output())


class RemoveInitializerFromInputs(Surgeon):
    """Weights are no inputs, as they were in old graphs: then a runtime may fold what is computed of them."""

    def operate(self, model: "ir.Model") -> int:
        """See Surgeon."""
        from onnx_ir.passes import common

        before = len(model.graph.inputs)
        common.RemoveInitializersFromInputsPass()(model)
        return before - len(model.graph.inputs)


class ExposeOutputs(Surgeon):
    """Give what some nodes compute as outputs of the graph too. names: of nodes."""

    names: list[str]

    def operate(self, model: "ir.Model") -> int:
        """See Surgeon."""
        there = set(map(id, model.graph.outputs))
        nodes = [node for node in model.graph if node.name in self.names]
        new = [value for node in nodes for value in node.outputs if value.name and id(value) not in there]
        model.graph.outputs.extend(new)
        return len(new)

    def lacking(self, model: "ir.Model") -> Iterator[str]:
        """See Surgeon."""
        known = {node.name for node in model.graph}
        yield from (
            f"the graph has no node '{name}' whose outputs could be given" for name in self.names if name not in known
        )


class ReplaceErfWithTanh(Surgeon):
    """Erf as a Tanh of 605/503 times what it takes, which is near it: within 0.02 everywhere."""

    def operate(self, model: "ir.Model") -> int:
        """See Surgeon; only where the type of what it takes is known."""
        n_places = 0
        for node in all_nodes(model, "Erf"):
            dtype = _float_type(node)
            if dtype is None:
                continue
            factor = stored(model.graph, f"{node.outputs[0].name}_scale", np.array(_ERF_AS_TANH, dtype))
            replace(node, put(node, "Tanh", [put(node, "Mul", [node.inputs[0], factor])]))
            n_places += 1
        return n_places


class QuickGeluToSigmoid(Surgeon):
    """onnxruntime's QuickGelu in operators of ONNX: x sigmoid(alpha x)."""

    def operate(self, model: "ir.Model") -> int:
        """See Surgeon; only where the type of what it takes is known."""
        n_places = 0
        for node in all_nodes(model, "QuickGelu"):
            dtype = _float_type(node)
            if dtype is None:
                continue
            alpha = np.array(number(node, "alpha", _QUICK_GELU), dtype)
            factor = stored(model.graph, f"{node.outputs[0].name}_alpha", alpha)
            share = put(node, "Sigmoid", [put(node, "Mul", [node.inputs[0], factor])])
            replace(node, put(node, "Mul", [node.inputs[0], share]))
            n_places += 1
        return n_places


def _float_type(node: "ir.Node") -> Any | None:
    """The type of numpy that a node takes or gives; None where the graph does not tell it."""
    for value in (*node.inputs, *node.outputs):
        if value is not None and value.dtype is not None:
            return value.dtype.numpy()
    return None


class RemoveQDQ(Surgeon):
    """Activations in float again: pairs of QuantizeLinear and DequantizeLinear go, weights stay quantized.

    keep_clip_after_inputs: of an input of the graph, the range that its integers had stays, as a Clip.
    """

    keep_clip_after_inputs: bool = False

    def operate(self, model: "ir.Model") -> int:
        """See Surgeon."""
        pairs = list(_pairs(model))
        for first, second in pairs:
            source = first.inputs[0]
            of_input = source is not None and source.is_graph_input()
            bounds = _bounds(model, first) if self.keep_clip_after_inputs and of_input else None
            _join(second, put(second, "Clip", [source, *bounds]) if bounds is not None else source)
        forget_unused(model)
        return len(pairs)


class QDQToClip(Surgeon):
    """Activations in float again, within the range that their integers had: each pair of QDQ becomes a Clip."""

    def operate(self, model: "ir.Model") -> int:
        """See Surgeon; only where one scale is that of the whole tensor."""
        n_places = 0
        for first, second in list(_pairs(model)):
            bounds = _bounds(model, first)
            if bounds is not None:
                _join(second, put(second, "Clip", [first.inputs[0], *bounds]))
                n_places += 1
        forget_unused(model)
        return n_places


def _pairs(model: "ir.Model") -> "Iterator[tuple[ir.Node, ir.Node]]":
    """QuantizeLinear of what is no constant, with each DequantizeLinear that reads it."""
    for node in all_nodes(model, "QuantizeLinear"):
        if constant_of(node.inputs[0]) is None:
            others = [use.node for use in node.outputs[0].uses()]
            yield from ((node, other) for other in others if is_a(other, "DequantizeLinear"))


def _bounds(model: "ir.Model", node: "ir.Node") -> "tuple[ir.Value, ir.Value] | None":
    """The least and the largest number that a QuantizeLinear's integers stand for; None where these are several."""
    scale = constant_of(node.inputs[1])
    zero = constant_of(node.inputs[2]) if len(node.inputs) > 2 else np.zeros((), np.uint8)
    if scale is None or zero is None or scale.size != 1 or zero.dtype.kind not in "iu":
        return None
    limits = np.iinfo(zero.dtype)
    name, first = node.outputs[0].name, float(scale.reshape(-1)[0])
    ends = [(end - int(zero.reshape(-1)[0])) * first for end in (limits.min, limits.max)]
    low, high = (
        stored(model.graph, f"{name}_{side}", np.array(end, scale.dtype))
        for side, end in zip(("least", "largest"), ends, strict=True)
    )
    return low, high


def _join(node: "ir.Node", source: "ir.Value | None") -> None:
    """Let a value stand for the output of a node; an output of the graph keeps its name."""
    result = node.outputs[0]
    if source is None:
        return
    if result.is_graph_output():
        replace(node, put(node, "Identity", [source]))
        return
    result.replace_all_uses_with(source)
    graph_of(node).remove(node, safe=True)
