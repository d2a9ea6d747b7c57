"""Convert the floats of an ONNX graph from 32 to 16 bits."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, ClassVar, Self

from pydantic import Field, model_validator

from olivine import lazy
from olivine.errors import ModelError
from olivine.exporting.graph_files import from_proto, initializers, open_graph, to_proto
from olivine.models import Model
from olivine.models.onnx_files import graph_of
from olivine.passes.graph._graph import Counts, GraphPass, SavingParams
from olivine.work import Context

if TYPE_CHECKING:
    import numpy as np
    import onnx_ir as ir
    from onnx_ir.passes import common
else:
    np, ir, common = lazy.module("numpy"), lazy.module("onnx_ir"), lazy.module("onnx_ir.passes.common")

HALF_SCALES = 19  # the first opset whose DequantizeLinear has scales of 16 bits
_NEVER_HALF = (
    *("DynamicQuantizeLinear", "DynamicQuantizeMatMul", "DynamicQuantizeLSTM", "MatMulIntegerToFloat", "QAttention"),
    *("Optional", "OptionalGetElement", "OptionalHasElement"),
)
LARGEST_INFERRED = 2**31 - 2**24  # bytes of a message that onnx still infers shapes of


class Float16(GraphPass):
    """Convert the floats of a graph from 32 to 16 bits: half the size, and faster where the hardware computes in them.

    A value that 16 bits do not hold (above 65504, or too near to 0) is clipped, and told. A CPU computes in 32 bits all
    the same.
    """

    class Params(SavingParams):
        """Names are those of Olive's OnnxFloatToFloat16."""

        min_positive_val: float = Field(
            5.96e-08, gt=0, description="the least number above 0 that is kept apart from it"
        )
        max_finite_val: float = Field(65504.0, gt=0, le=65504.0, description="what is larger is clipped to this")
        keep_io_types: bool | list[str] = Field(
            False, description="inputs and outputs, or those named, stay in 32 bits"
        )
        disable_shape_infer: bool = Field(False, description="do not infer types first; graphs of 2 GB never do")
        use_symbolic_shape_infer: bool = Field(True, description="infer types first; the other name of the same")
        op_block_list: list[str] | None = Field(None, description="operators that stay in 32 bits; else the usual ones")
        op_include_list: list[str] | None = Field(None, description="operators to convert; all others stay in 32 bits")
        node_block_list: list[str] | None = Field(None, description="nodes that stay in 32 bits")
        node_include_list: list[str] | None = Field(None, description="nodes to convert; all others stay in 32 bits")

        @model_validator(mode="after")
        def _one_list(self) -> Self:
            for kind in ("op", "node"):
                block, include = f"{kind}_block_list", f"{kind}_include_list"
                if getattr(self, block) is not None and getattr(self, include) is not None:
                    raise ValueError(f"{block} and {include} exclude each other")
            return self

    aliases: ClassVar[tuple[str, ...]] = ("OnnxFloatToFloat16",)
    nothing: ClassVar[str] = "no number of the graph was of 32 bits"
    growth: ClassVar[float] = 0.55
    copies: ClassVar[float] = 2.5
    params: Params

    def change(self, model: Model, context: Context) -> "tuple[ir.Model, Counts]":
        """Convert by onnxruntime's own function; counts the weights, and tells those that were clipped."""
        from onnxruntime.transformers import float16

        graph = open_graph(graph_of(model))
        clipped, n_weights = [], 0
        for value in initializers(graph):
            if value.const_value.dtype == ir.DataType.FLOAT:
                n_weights += 1
                if self._is_clipped(value.const_value):
                    clipped.append(str(value.name))
        n_bytes = sum(value.const_value.nbytes for value in initializers(graph))
        self._check_outputs(graph)
        common.InlinePass()(graph)  # what is inside of functions, the library leaves in 32 bits
        common.RemoveUnusedFunctionsPass()(graph)
        _rename_casts(graph)
        infers = self.params.use_symbolic_shape_infer and not self.params.disable_shape_infer
        converted = float16.convert_float_to_float16(
            to_proto(graph),
            min_positive_val=self.params.min_positive_val,
            max_finite_val=self.params.max_finite_val,
            keep_io_types=self.params.keep_io_types,
            disable_shape_infer=not infers or n_bytes > LARGEST_INFERRED,
            op_block_list=[*self._blocked(graph, float16.DEFAULT_OP_BLOCK_LIST), *_without_half(graph)],
            node_block_list=self._blocked_nodes(graph),
        )
        if clipped:
            names = ", ".join(f"'{name}'" for name in clipped[:3])
            context.report.warn(
                f"{len(clipped)} weights hold numbers above {self.params.max_finite_val:g}, which were clipped: {names}"
            )
        context.report.record(n_clipped=len(clipped), clipped=clipped[:50])
        result = from_proto(converted)
        n_left = sum(value.const_value.dtype == ir.DataType.FLOAT for value in initializers(result))
        return result, {"weights in 16 bits": n_weights - n_left}

    def _check_outputs(self, graph: "ir.Model") -> None:
        """Refuse to keep the type of an output that no node computes: there is no place for a Cast."""
        kept = self.params.keep_io_types
        floats = [value for value in graph.graph.outputs if value.dtype == ir.DataType.FLOAT]
        alone = [value for value in floats if value.producer() is None and (kept is True or value.name in (kept or ()))]
        if alone:
            raise ModelError(
                f"the type of the output '{alone[0].name}' cannot be kept: it is an input or a weight itself; leave "
                "keep_io_types out, or name the others"
            )

    def _is_clipped(self, tensor: Any) -> bool:
        array = tensor.numpy()
        return any(float(np.abs(piece).max(initial=0)) > self.params.max_finite_val for piece in _pieces(array))

    def _blocked(self, graph: "ir.Model", usual: list[str]) -> list[str]:
        """The operators that stay in 32 bits."""
        included = self.params.op_include_list
        if included is not None:
            return sorted({node.op_type for node in graph.graph.all_nodes()} - {*included})
        return usual if self.params.op_block_list is None else self.params.op_block_list

    def _blocked_nodes(self, graph: "ir.Model") -> list[str] | None:
        """The nodes that stay in 32 bits; ModelError for a name that the graph does not have."""
        included = self.params.node_include_list
        if included is None:
            return self.params.node_block_list
        names = [str(node.name) for node in graph.graph.all_nodes()]
        lacking = [name for name in included if name not in names]
        if lacking:
            raise ModelError(f"the graph has no node '{lacking[0]}' of node_include_list")
        return [name for name in names if name not in included]


def _without_half(model: "ir.Model") -> list[str]:
    """Operators that have no form for 16 bits, in the opset of the graph."""
    is_old = model.graph.opset_imports.get("", 0) < HALF_SCALES
    return [*_NEVER_HALF, *(("QuantizeLinear", "DequantizeLinear") if is_old else ())]


def _rename_casts(graph: "ir.Model") -> None:
    """Give the casts of an earlier conversion other names: those of another one are called the same."""
    for node in graph.graph.all_nodes():
        if str(node.name).startswith(_CASTS):
            node.name = f"earlier_{node.name}"
        for value in node.outputs:
            if str(value.name).startswith(_CASTS) and not value.is_graph_output():
                value.name = f"earlier_{value.name}"


_CASTS = ("graph_input_cast", "graph_output_cast")


def _pieces(array: Any) -> "Iterator[Any]":
    """An array in parts that take little memory when something is computed of them; infinities are left out."""
    flat = array.reshape(-1)
    for start in range(0, max(flat.size, 1), 2**22):
        part = flat[start : start + 2**22]
        yield part[np.isfinite(part)]
