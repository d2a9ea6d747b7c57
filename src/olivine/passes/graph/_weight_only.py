"""What the passes share that store the weights of products in 4 bits by a function of onnxruntime."""

from abc import abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from olivine.errors import ModelError
from olivine.exporting.graph_files import from_proto, open_graph, operators, to_proto
from olivine.models import Model
from olivine.models.onnx_files import graph_of
from olivine.passes.graph._graph import Counts, GraphPass, SavingParams
from olivine.work import Context

if TYPE_CHECKING:
    import onnx_ir as ir


class WeightOnlyParams(SavingParams):
    """Which products are left as they are."""

    nodes_to_exclude: list[str] | None = Field(None, description="products that stay as they are, by name")


class WeightOnlyPass(GraphPass):
    """A pass from float products to an operator of onnxruntime that reads weights in 4 bits.

    operator: that one. A subclass brings `quantized`.
    """

    operator: ClassVar[str]
    nothing: ClassVar[str] = "no product with a constant weight was there to quantize"
    growth: ClassVar[float] = 0.3
    copies: ClassVar[float] = 3.0
    params: WeightOnlyParams

    @abstractmethod
    def quantized(self, proto: Any, excluded: list[str]) -> Any:
        """The message of the other graph."""

    def change(self, model: Model, context: Context) -> "tuple[ir.Model, Counts]":  # noqa: ARG002
        """Quantize; a name to leave out that no node has is an error, as it was meant to protect something."""
        graph = open_graph(graph_of(model))
        excluded = self.params.nodes_to_exclude or []
        names = {node.name for node in graph.graph.all_nodes()}
        for name in excluded:
            if name not in names:
                raise ModelError(f"the graph has no node '{name}' to leave out")
        before = operators(graph)[self.operator]
        result = from_proto(self.quantized(to_proto(graph), excluded))
        return result, {self.operator: operators(result)[self.operator] - before}
