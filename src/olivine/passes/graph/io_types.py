"""Change the types of a graph's inputs and outputs."""

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field, field_validator

from olivine import lazy
from olivine.exporting.graph_files import open_graph
from olivine.exporting.surgery import free, names_in
from olivine.models import Model
from olivine.models.onnx_files import graph_of
from olivine.models.onnx_header import TYPES
from olivine.passes.graph._graph import Counts, GraphPass, SavingParams
from olivine.work import Context

if TYPE_CHECKING:
    import onnx_ir as ir
else:
    ir = lazy.module("onnx_ir")

_NUMBERS = {name: number for number, (name, _) in TYPES.items()}


class IoTypes(GraphPass):
    """Change the type of inputs and outputs, such as logits from 16 to 32 bits, by a Cast at each of them."""

    class Params(SavingParams):
        """Names are those of Olive's OnnxIODataTypeConverter."""

        name_pattern: str = Field("logits", description="regular expression that a part of the name matches")
        source_dtype: int = Field(10, description="only this type: ONNX number, or name such as float16")
        target_dtype: int = Field(1, description="what it becomes: ONNX number, or name such as float32")

        @field_validator("source_dtype", "target_dtype", mode="before")
        @classmethod
        def _number(cls, value: Any) -> Any:
            value = _NUMBERS.get(value, value) if isinstance(value, str) else value
            if value not in TYPES:
                raise ValueError(
                    f"must be a type of ONNX: {', '.join(f'{n} {name}' for n, (name, _) in TYPES.items())}"
                )
            return value

        @field_validator("name_pattern")
        @classmethod
        def _compiles(cls, value: str) -> str:
            try:
                re.compile(value)
            except re.error as error:
                raise ValueError(f"is no regular expression: {error}") from None
            return value

    aliases: ClassVar[tuple[str, ...]] = ("OnnxIODataTypeConverter",)
    example: ClassVar[Mapping[str, Any]] = {
        "name_pattern": "logits",
        "source_dtype": "float16",
        "target_dtype": "float32",
    }
    nothing: ClassVar[str] = "no input or output has a matching name and that type"
    params: Params

    def change(self, model: Model, context: Context) -> "tuple[ir.Model, Counts]":  # noqa: ARG002
        """Put a Cast at every input and output whose name and type match."""
        graph = open_graph(graph_of(model))
        weights = set(graph.graph.initializers)
        inputs = [value for value in graph.graph.inputs if value.name not in weights and self._is_meant(value)]
        outputs = [value for value in graph.graph.outputs if value not in inputs and self._is_meant(value)]
        for value in inputs:
            self._change_input(graph.graph, value)
        for value in outputs:
            self._change_output(graph.graph, value)
        return graph, {"inputs": len(inputs), "outputs": len(outputs)}

    def _is_meant(self, value: "ir.Value") -> bool:
        is_of_type = isinstance(value.type, ir.TensorType) and value.dtype == self.params.source_dtype
        return is_of_type and bool(re.search(self.params.name_pattern, str(value.name)))

    def _change_input(self, graph: "ir.Graph", value: "ir.Value") -> None:
        """An output that is the input itself changes with it."""
        users = list(value.uses())
        value.type = ir.TensorType(ir.DataType(self.params.target_dtype))
        if users:
            cast = _cast(value, ir.DataType(self.params.source_dtype), _before(graph, value))
            for node, index in users:
                node.replace_input_with(index, cast.outputs[0])
            graph.insert_before(graph[0], cast)

    def _change_output(self, graph: "ir.Graph", value: "ir.Value") -> None:
        name, before = str(value.name), _before(graph, value)
        cast = _cast(value, ir.DataType(self.params.target_dtype), name)
        value.name = before
        graph.append(cast)
        for place, output in enumerate(graph.outputs):
            if output is value:
                graph.outputs[place] = cast.outputs[0]


def _before(graph: "ir.Graph", value: "ir.Value") -> str:
    """A name for a value as it was."""
    return free(f"{value.name}_as_before", names_in(graph, *graph.subgraphs()))


def _cast(value: "ir.Value", target: "ir.DataType", name: str) -> "ir.Node":
    cast = ir.node("Cast", inputs=[value], attributes={"to": int(target)}, num_outputs=1, name=f"{name}_Cast")
    result = cast.outputs[0]
    result.name, result.shape, result.type = name, value.shape, ir.TensorType(target)
    return cast
