"""Write an ONNX graph in another version of ONNX's operators."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from olivine.config.schema import DataConfig
from olivine.errors import ModelError, Problem
from olivine.exporting.graph_files import open_graph
from olivine.models import Model
from olivine.models.facts import ModelFacts
from olivine.models.onnx_files import graph_of
from olivine.passes.graph._graph import Counts, GraphPass, SavingParams
from olivine.work import Context, Machine

if TYPE_CHECKING:
    import onnx_ir as ir

LEAST, NEWEST = 7, 23


class Opset(GraphPass):
    """Write a graph in another version of ONNX's operators.

    Versions from 18 on are changed by onnxscript, older ones by onnx, which has the whole graph in memory. Operators
    of other domains stay as they are. A graph that a version cannot express is an error.
    """

    class Params(SavingParams):
        """Names are those of Olive's OnnxOpVersionConversion."""

        target_opset: int = Field(20, ge=LEAST, le=NEWEST, description="version of ONNX's operators in the result")

    aliases: ClassVar[tuple[str, ...]] = ("OnnxOpVersionConversion",)
    nothing: ClassVar[str] = "the graph was in that version already"
    copies: ClassVar[float] = 3.0
    params: Params

    def check(self, facts: ModelFacts, machine: Machine, data: Mapping[str, DataConfig]) -> Iterator[Problem]:  # noqa: ARG002
        """Decoders for onnxruntime-genai are made in the version that it takes."""
        if facts.decoder is not None and facts.kind != "graph":
            message = "the graph of a decoder for onnxruntime-genai has the version that it takes."
            yield Problem("invalid-value", self.name, message, "Remove this pass.", ("target_opset",))

    def change(self, model: Model, context: Context) -> "tuple[ir.Model, Counts]":  # noqa: ARG002
        """Convert, and hold the result to what was asked for."""
        from onnxscript import version_converter

        graph, target = open_graph(graph_of(model)), self.params.target_opset
        before = graph.opset_imports.get("", 0)
        if before == target:
            return graph, {}
        try:
            version_converter.convert_version(graph, target, fallback=True)
        except Exception as error:  # both converters raise whatever an operator without a rule leads to
            raise ModelError(
                f"the graph has no form in opset {target}: {' '.join(str(error).split())[:200]}"
            ) from error
        after = graph.opset_imports.get("", 0)
        if after != target:
            raise ModelError(f"the graph of opset {before} has no form in opset {target}: no converter knows one")
        return graph, {"versions of operators": abs(target - before)}
