"""Write quantized products as DequantizeLinear and MatMul."""

from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from olivine import lazy
from olivine.errors import ModelError
from olivine.exporting.graph_files import open_graph
from olivine.exporting.surgery import all_nodes, constant_of, forget_unused, number, put, replace, stored
from olivine.models import Model
from olivine.models.onnx_files import graph_of
from olivine.passes.graph._graph import Counts, GraphPass, SavingParams
from olivine.work import Context

if TYPE_CHECKING:
    import numpy as np
    import onnx_ir as ir
else:
    np, ir = lazy.module("numpy"), lazy.module("onnx_ir")

OPSET = 21  # the first whose DequantizeLinear knows blocks and 4 bits
LAST_CHANGED = 13  # what an operator of this opset means, it means later too, or it does not load


class NbitsToQdq(GraphPass):
    """Write MatMulNBits as DequantizeLinear and MatMul, operators of ONNX itself that NPUs and other runtimes know.

    The codes and scales stay what they are; the graph is brought to opset 21, which has both.
    """

    class Params(SavingParams):
        """Names are those of Olive's MatMulNBitsToQDQ."""

        use_signed_int: bool = Field(False, description="codes from -8 to 7, or -128 to 127, as signed integers")
        use_int4: bool = Field(False, description="the older name of use_signed_int")
        add_zero_point: bool = Field(False, description="signed codes get zero points of 0 too")
        use_transpose_op: bool = Field(
            False, description="weights stay [outputs, inputs], with a Transpose behind them"
        )
        nodes_to_exclude: list[str] = Field(default_factory=list, description="nodes that stay as they are")

    aliases: ClassVar[tuple[str, ...]] = ("MatMulNBitsToQDQ",)
    nothing: ClassVar[str] = "no MatMulNBits of 4 or 8 bits is in the graph"
    copies: ClassVar[float] = 2.0
    params: Params

    def change(self, model: Model, context: Context) -> "tuple[ir.Model, Counts]":  # noqa: ARG002
        """Rewrite every product with constant weights and groups in their order."""
        graph = open_graph(graph_of(model))
        nodes = [node for node in all_nodes(graph, "MatMulNBits") if self._can(node)]
        if nodes:
            _raise_opset(graph)
            nodes = [node for node in all_nodes(graph, "MatMulNBits") if self._can(node)]
        for node in nodes:
            self._rewrite(graph, node)
        forget_unused(graph)
        return graph, {"MatMulNBits": len(nodes)}

    def _can(self, node: "ir.Node") -> bool:
        zeros = node.inputs[3] if len(node.inputs) > 3 else None
        has_order = len(node.inputs) > 4 and node.inputs[4] is not None
        is_stored = constant_of(node.inputs[1]) is not None and _cast(node.inputs[2]) is not None
        whole = zeros is None or (constant_of(zeros) is not None and constant_of(zeros).dtype == np.uint8)  # type: ignore[union-attr]
        is_meant = node.name not in self.params.nodes_to_exclude and number(node, "bits", 4) in (4, 8)
        return is_meant and is_stored and whole and not has_order

    def _rewrite(self, model: "ir.Model", node: "ir.Node") -> None:
        bits, block, width = number(node, "bits", 4), number(node, "block_size", 32), number(node, "K", 0)
        rows = number(node, "N", 0)
        n_blocks = -(-width // block)
        codes = _unpacked(constant_of(node.inputs[1]).reshape(rows, -1), bits)[:, :width]  # type: ignore[union-attr]
        scales = _cast(node.inputs[2]).reshape(rows, n_blocks)  # type: ignore[union-attr]
        zeros = np.full((rows, n_blocks), 2 ** (bits - 1), np.uint8)
        if len(node.inputs) > 3 and node.inputs[3] is not None:
            zeros = _unpacked(constant_of(node.inputs[3]).reshape(rows, -1), bits)[:, :n_blocks]  # type: ignore[union-attr]
        parts = [self._typed(codes, bits), scales, self._typed(zeros, bits)]
        signed = self.params.use_signed_int or self.params.use_int4
        if signed and not self.params.add_zero_point and not np.asarray(parts[2], np.int16).any():
            del parts[2]
        keeps = self.params.use_transpose_op
        name = str(node.inputs[1].name) if node.inputs[1] is not None else node.name
        values = [
            stored(model.graph, f"{name}_{part}", array if keeps else array.T)
            for part, array in zip(("codes", "scale", "zero"), parts, strict=False)
        ]
        attributes = {"axis": 1 if keeps else 0, "block_size": block}
        weight = put(node, "DequantizeLinear", values, attributes)
        if keeps:
            weight = put(node, "Transpose", [weight], {"perm": [1, 0]})
        result = put(node, "MatMul", [node.inputs[0], weight])
        bias = node.inputs[5] if len(node.inputs) > 5 else None
        replace(node, result if bias is None else put(node, "Add", [result, bias]))

    def _typed(self, codes: Any, bits: int) -> Any:
        """Codes 0 to 2^bits - 1 as integers of that many bits, signed ones less their middle."""
        if self.params.use_signed_int or self.params.use_int4:
            shifted = (codes.astype(np.int16) - 2 ** (bits - 1)).astype(np.int8)
            return shifted.astype(ir.DataType.INT4.numpy()) if bits == 4 else shifted
        return codes.astype(ir.DataType.UINT4.numpy()) if bits == 4 else codes


def _cast(value: "ir.Value | None") -> Any | None:
    """The numbers of a constant, or of the Cast of one, as which ModelBuilder stores scales of 16 bits."""
    maker = value.producer() if value is not None else None
    if maker is None or maker.op_type != "Cast":
        return constant_of(value)
    numbers = constant_of(maker.inputs[0])
    return None if numbers is None else numbers.astype(ir.DataType(number(maker, "to", 1)).numpy())


def _unpacked(packed: Any, bits: int) -> Any:
    """[rows, bytes] -> [rows, codes]; of 4 bits, the lower half of a byte comes first."""
    if bits == 8:
        return packed
    return np.stack([packed & 15, packed >> 4], axis=-1).reshape(packed.shape[0], -1)


def _raise_opset(model: "ir.Model") -> None:
    """Bring the graph to the opset that knows blocks, where it is of an older one."""
    if model.graph.opset_imports.get("", 0) >= OPSET:
        return
    from onnxscript import version_converter

    version = model.graph.opset_imports.get("", 0)
    version_converter.convert_version(model, OPSET, fallback=True)  # of opsets below 18 by onnx's own converter
    if model.graph.opset_imports.get("", 0) < OPSET and version >= LAST_CHANGED:
        version_converter.convert_version(model, OPSET, fallback=False)  # that one knows no operators of onnxruntime
    if model.graph.opset_imports.get("", 0) < OPSET:
        raise ModelError(f"the graph cannot be brought to opset {OPSET}, whose DequantizeLinear knows blocks")
