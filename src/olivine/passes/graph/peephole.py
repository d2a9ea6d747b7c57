"""Simplify an ONNX graph: fold constants, drop what nothing uses, share what is the same."""

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from olivine.exporting.graph_files import has_strings, name_outer_outputs, open_graph, operators
from olivine.models import Model
from olivine.models.onnx_files import graph_of
from olivine.passes.graph._graph import Counts, GraphPass, SavingParams
from olivine.work import Context

if TYPE_CHECKING:
    import onnx_ir as ir

MAX_ROUNDS = 5  # of all rules; graphs of exporters are at rest after two


class Peephole(GraphPass):
    """Simplify a graph: constants folded, chains of casts, shapes and transposes shortened, the same computed once.

    The rules are those of onnxscript and onnx-ir, applied until nothing changes. Large weights are neither folded nor
    copied.
    """

    class Params(SavingParams):
        """Names are those of Olive's OnnxPeepholeOptimizer."""

        onnxscript: bool = Field(
            True, description="constant folding and rewriting; else only what is the same or unused"
        )

    aliases: ClassVar[tuple[str, ...]] = ("OnnxPeepholeOptimizer", "OnnxModelOptimizer")
    nothing: ClassVar[str] = "there was nothing to simplify"
    params: Params

    def change(self, model: Model, context: Context) -> "tuple[ir.Model, Counts]":  # noqa: ARG002
        """Apply all rules until the graph rests; counts the nodes that are gone by their operator."""
        graph = open_graph(graph_of(model))
        before = operators(graph)
        size = -1
        for _ in range(MAX_ROUNDS):
            if size == (size := len(list(graph.graph.all_nodes()))):
                break
            self._simplify(graph)
        return graph, dict((before - operators(graph)).most_common())

    def _simplify(self, graph: "ir.Model") -> None:
        from onnx_ir.passes import common
        from onnxscript import optimizer

        names = [str(value.name) for value in graph.graph.inputs]
        if self.params.onnxscript and not has_strings(graph):  # which it folds to what cannot be written
            optimizer.optimize(graph)
        for one in (
            common.CommonSubexpressionEliminationPass(),
            common.DeduplicateInitializersPass(),
            common.IdentityEliminationPass(),
            common.RemoveUnusedNodesPass(),
            common.RemoveUnusedFunctionsPass(),
            common.OutputFixPass(),
        ):
            one(graph)
        name_outer_outputs(graph)
        _give_inputs_their_names(graph.graph, names)


def _give_inputs_their_names(graph: "ir.Graph", names: list[str]) -> None:
    """Undo the Identity that the rules put between an input and the output that is the same, under another name."""
    for value, name in zip(graph.inputs, names, strict=True):
        if value.name == name:
            continue
        for output in list(graph.outputs):
            producer = output.producer()
            if output.name == name and producer is not None and producer.op_type == "Identity":
                output.replace_all_uses_with(value, replace_graph_outputs=True)
                graph.remove(producer, safe=True)
        value.name = name
