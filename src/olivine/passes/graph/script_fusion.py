"""Fuse the nodes of graphs that the newer exporter made, by onnxscript's rules."""

from typing import TYPE_CHECKING, ClassVar

from olivine.exporting.graph_files import name_outer_outputs, open_graph
from olivine.models import Model
from olivine.models.onnx_files import graph_of
from olivine.passes.graph._graph import Counts, GraphPass, SavingParams
from olivine.work import Context

if TYPE_CHECKING:
    import onnx_ir as ir


class ScriptFusion(GraphPass):
    """Fuse attention, norms and activations into onnxruntime's operators, by onnxscript's rules.

    The rules are written for graphs of the newer exporter (use_dynamo_exporter true), of which
    OrtTransformersOptimization fuses nothing; for graphs of the older one it is the other way round.
    """

    class Params(SavingParams):
        """Olive's OnnxScriptFusion has no others."""

    aliases: ClassVar[tuple[str, ...]] = ("OnnxScriptFusion",)
    nothing: ClassVar[str] = (
        "no node was fused: onnxscript's rules know graphs of the newer exporter (use_dynamo_exporter true); those of "
        "the older one are fused by OrtTransformersOptimization"
    )
    params: Params

    def change(self, model: Model, context: Context) -> "tuple[ir.Model, Counts]":  # noqa: ARG002
        """Apply onnxscript's rules for onnxruntime; counts what each of them fused."""
        from onnxscript.rewriter.ort_fusions import optimize_for_ort

        graph, counts = optimize_for_ort(open_graph(graph_of(model)))
        name_outer_outputs(graph)
        return graph, counts
