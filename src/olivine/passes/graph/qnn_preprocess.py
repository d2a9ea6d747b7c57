"""Prepare an ONNX graph for quantization for Qualcomm's execution provider."""

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from olivine.exporting.graph_files import Saving, open_graph, operators, save_graph
from olivine.models import Model
from olivine.models.onnx_files import graph_of
from olivine.passes.graph._graph import Counts, GraphPass, SavingParams
from olivine.work import Context

if TYPE_CHECKING:
    import onnx_ir as ir


class QnnPreprocess(GraphPass):
    """Prepare a graph for quantization for QNN: activations and norms as the single operators that it has.

    It is onnxruntime's own function, and needs no software of Qualcomm.
    """

    class Params(SavingParams):
        """Names are those of Olive's QNNPreprocess."""

        fuse_layernorm: bool = Field(False, description="layer norms become one operator each, too")
        inputs_to_make_channel_last: list[str] | None = Field(
            None, description="inputs whose channels become the last dimension"
        )
        outputs_to_make_channel_last: list[str] | None = Field(
            None, description="outputs whose channels become the last dimension"
        )

    aliases: ClassVar[tuple[str, ...]] = ("QNNPreprocess",)
    nothing: ClassVar[str] = "nothing in the graph had to be prepared"
    copies: ClassVar[float] = 3.0
    params: Params

    def change(self, model: Model, context: Context) -> "tuple[ir.Model, Counts]":
        """Let onnxruntime prepare it; counts the nodes of operators that became more."""
        from onnxruntime.quantization.execution_providers.qnn import qnn_preprocess_model

        given = open_graph(graph_of(model))
        before, path = operators(given), context.scratch / "given" / "model.onnx"
        path.parent.mkdir(exist_ok=True)
        metadata = dict(given.metadata_props)
        given.metadata_props.clear()  # onnxruntime's function fails on a graph that has some
        save_graph(given, path, Saving())
        prepared = context.scratch / "prepared.onnx"
        is_changed = qnn_preprocess_model(
            str(path),
            str(prepared),
            fuse_layernorm=self.params.fuse_layernorm,
            inputs_to_make_channel_last=self.params.inputs_to_make_channel_last,
            outputs_to_make_channel_last=self.params.outputs_to_make_channel_last,
            save_as_external_data=any(path.parent.glob("*.data")),
            all_tensors_to_one_file=True,
        )
        graph = open_graph(prepared if is_changed else path)
        graph.metadata_props.update(metadata)
        return graph, dict((operators(graph) - before).most_common())
