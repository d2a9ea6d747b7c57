"""Take the weights of an adapter out of an ONNX graph."""

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from olivine.errors import ModelError
from olivine.exporting.graph_files import LEAST_EXTERNAL, open_graph
from olivine.models import Model
from olivine.models.onnx_files import graph_of
from olivine.passes.graph._graph import Counts, GraphPass, SavingParams
from olivine.work import Context

if TYPE_CHECKING:
    import onnx_ir as ir


class ExtractAdapters(GraphPass):
    """Take the weights of an adapter (LoRA, DoRA, LoHa) out of a graph, so that one base serves several of them.

    They become inputs of the graph, or stay in it under names by which onnxruntime replaces them, and lie in a file
    beside it. What is measured afterwards is the model with that adapter. The graph is one that OnnxConversion made of
    an adapter without merging it.
    """

    class Params(SavingParams):
        """Names are those of Olive's ExtractAdapters."""

        adapter_type: Literal["lora", "dora", "loha"] = Field("lora", description="the method it was trained with")
        make_inputs: bool = Field(
            True, description="false: they stay weights, which SessionOptions.add_external_initializers replaces"
        )
        dynamic_lora_r: bool = Field(True, description="as inputs: adapters of any rank fit, not only of this one's")
        optional_inputs: bool = Field(
            True, description="as inputs: the graph is its base model where they are not given; not of DoRA"
        )
        save_format: Literal["onnx_adapter", "numpy", "safetensors"] = Field(
            "onnx_adapter", description="of the file with the weights"
        )
        pack_inputs: bool | None = Field(None, description="accepted; each weight is an input of its own")

    aliases: ClassVar[tuple[str, ...]] = ("ExtractAdapters",)
    growth: ClassVar[float] = 1.1
    needs_apart: ClassVar[str | None] = "adapter"
    params: Params

    def change(self, model: Model, context: Context) -> "tuple[ir.Model, Counts]":
        """Find them, write them beside the graph, and make them inputs; a graph without any is an error."""
        from olivine.exporting.adapters_apart import as_inputs, found_in, unite
        from olivine.runtimes import adapter_inputs

        graph, kind = open_graph(graph_of(model)), self.params.adapter_type
        weights = found_in(graph, kind)
        if not weights:
            raise ModelError(
                f"the graph has no weights of an adapter by {kind}: OnnxConversion keeps those of an adapter that is "
                "not merged (merge_adapter_weights false, no MergeAdapterWeights before it)"
            )
        unite(weights, graph)
        arrays = {one.name: one.tensor.numpy() for one in weights}
        form, are_inputs = self.params.save_format, self.params.make_inputs
        context.output.mkdir(exist_ok=True)
        file = adapter_inputs.write(arrays, context.output, form, are_inputs=are_inputs)
        if are_inputs:
            is_optional = self.params.optional_inputs and kind != "dora"
            is_open = self.params.dynamic_lora_r
            needed = list(as_inputs(weights, graph, is_open=is_open, is_optional=is_optional))
            if needed and self.params.optional_inputs:
                context.report.note(f"{len(needed)} of the inputs have to be given, as no default leaves them out")
        elif small := [name for name, array in arrays.items() if array.nbytes <= LEAST_EXTERNAL]:
            context.report.warn(
                f"{len(small)} weights, '{small[0]}' first, are too small to lie beside the graph: they stay in it"
            )
        n_bytes = sum(array.nbytes for array in arrays.values())
        context.report.note(f"{len(arrays)} weights of the adapter ({n_bytes / 1e6:.1f} MB) lie in {file.name}")
        return graph, {f"{kind} weights taken out": len(arrays)}

    def run(self, model: Model, context: Context) -> Model:
        """As any change; weights that are to be replaced have to lie beside the graph."""
        if self.params.make_inputs:
            return super().run(model, context)
        params = self.params.model_copy(update={"save_as_external_data": True, "size_threshold": 0})
        outside = type(self)(params)
        return super(ExtractAdapters, outside).run(model, context)
