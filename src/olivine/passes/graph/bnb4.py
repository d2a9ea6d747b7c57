"""Store the weights of an ONNX graph's products as 4-bit floats."""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import AliasChoices, Field

from olivine.passes.graph._weight_only import WeightOnlyParams, WeightOnlyPass

BLOCK = 64  # weights that share a scale: bitsandbytes' own, which QLoRA trains on


class Bnb4(WeightOnlyPass):
    """Store the weights of products as 4-bit floats, in blocks of 64 as bitsandbytes does (Dettmers et al. 2023).

    An adapter that was trained on a base in NF4 (QLoRA) finds the same base in the graph. Without such an adapter,
    OnnxBlockWiseRtnQuantization is as accurate, and the runtime is faster at it.
    """

    class Params(WeightOnlyParams):
        """Names are those of Olive's OnnxBnb4Quantization."""

        precision: Literal["nf4", "fp4"] = Field(
            "nf4",
            validation_alias=AliasChoices("precision", "quant_type"),
            description="nf4: levels of a normal distribution",
        )
        quantized_modules: list[str] | None = Field(
            None, description="names of layers: only products whose name holds one are quantized; else all"
        )

    aliases: ClassVar[tuple[str, ...]] = ("OnnxBnb4Quantization",)
    spellings: ClassVar[Mapping[str, str]] = {"quant_type": "precision"}
    operator: ClassVar[str] = "MatMulBnb4"
    params: Params

    def quantized(self, proto: Any, excluded: list[str]) -> Any:
        """By onnxruntime's own quantizer."""
        from onnxruntime.quantization.matmul_bnb4_quantizer import MatMulBnb4Quantizer

        kind = MatMulBnb4Quantizer.NF4 if self.params.precision == "nf4" else MatMulBnb4Quantizer.FP4
        kept = [*excluded, *(name for name in _products(proto.graph) if not self._is_meant(name))]
        quantizer = MatMulBnb4Quantizer(proto, kind, BLOCK, kept)
        quantizer.process()
        return quantizer.model.model

    def _is_meant(self, name: str) -> bool:
        modules = self.params.quantized_modules
        return modules is None or any(part in modules for part in name.replace("/", ".").split("."))


def _products(graph: Any) -> list[str]:
    """Names of the products of a graph."""
    return [node.name for node in graph.node if node.op_type == "MatMul"]
