"""Nodes and constants that are the same, of no use, or too large for what comes after."""

from typing import TYPE_CHECKING, Any

from blake3 import blake3

from olivine import lazy
from olivine.exporting.mask_constants import replace_masks
from olivine.exporting.surgery._base import Surgeon, all_nodes, forget_unused, free, graph_of, names_in

if TYPE_CHECKING:
    import onnx_ir as ir
else:
    ir = lazy.module("onnx_ir")


class DeduplicateNodes(Surgeon):
    """Compute once what several nodes compute of the same inputs."""

    def operate(self, model: "ir.Model") -> int:
        """See Surgeon."""
        from onnx_ir.passes import common

        before = len(list(model.graph.all_nodes()))
        common.CommonSubexpressionEliminationPass()(model)
        return before - len(list(model.graph.all_nodes()))


class DeduplicateSubgraphInitializers(Surgeon):
    """Store once the weights of inner graphs that are the same in the outermost one, or in another."""

    def operate(self, model: "ir.Model") -> int:
        """See Surgeon; a weight that an inner graph gives as its output stays."""
        known: dict[Any, ir.Value] = {}
        n_shared = 0
        for graph in model.graphs():
            for name, value in list(graph.initializers.items()):
                tensor = value.const_value
                if tensor is None or value.is_graph_output() or value.is_graph_input():
                    continue
                if tensor.dtype == ir.DataType.STRING:
                    continue
                key = (tensor.dtype, tuple(tensor.shape.numpy()), blake3(tensor.tobytes()).digest())
                other = known.setdefault(key, value) if graph is model.graph else known.get(key)
                if graph is model.graph:
                    continue
                if other is None:
                    del graph.initializers[name]
                    value.name = free(name, names_in(*model.graphs()))
                    model.graph.register_initializer(value)
                    known[key] = value
                    continue
                value.replace_all_uses_with(other)
                del graph.initializers[name]
                n_shared += 1
        return n_shared


class RemoveMemcpy(Surgeon):
    """Drop copies between devices, which a runtime puts where it needs them."""

    def operate(self, model: "ir.Model") -> int:
        """See Surgeon."""
        nodes = list(all_nodes(model, "MemcpyToHost", "MemcpyFromHost"))
        for node in nodes:
            source, result = node.inputs[0], node.outputs[0]
            if source is None:
                continue
            if result.is_graph_output():
                same = ir.node("Identity", inputs=[source], num_outputs=1)
                graph_of(node).insert_before(node, same)
                name = result.name
                result.name, same.outputs[0].name = f"{name}_copied", name
                same.outputs[0].type, same.outputs[0].shape = result.type, result.shape
                source = same.outputs[0]
            result.replace_all_uses_with(source, replace_graph_outputs=True)
            graph_of(node).remove(node, safe=True)
        forget_unused(model)
        return len(nodes)


class ReplaceAttentionMaskValue(Surgeon):
    """Replace constants near minus infinity by a number that a softmax takes alike and integers can span."""

    threshold: float = -3e30
    replacement: float = -1e4

    def operate(self, model: "ir.Model") -> int:
        """See Surgeon; only constants that reach nothing but a softmax."""
        return replace_masks(model, self.threshold, self.replacement)
