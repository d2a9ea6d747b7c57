"""Store the weights of an ONNX graph's products in 4 bits by HQQ."""

from typing import Any, ClassVar, Literal

from pydantic import Field

from olivine.passes.graph._weight_only import WeightOnlyParams, WeightOnlyPass


class Hqq(WeightOnlyPass):
    """Store the weights of products in 4 bits by half-quadratic quantization (Badri and Shaji 2023).

    Scales and zero points, which are floats, are chosen for the weights that are far from the others; no text is read.
    """

    class Params(WeightOnlyParams):
        """Names are those of Olive's OnnxHqqQuantization."""

        block_size: Literal[16, 32, 64, 128, 256] = Field(128, description="weights that share a scale")
        axis: Literal[0, 1] = Field(1, description="accepted; blocks lie along what a product sums over")
        accuracy_level: Literal[0, 1, 2, 3, 4] | None = Field(
            None, description="of the runtime's arithmetic; float zero points are computed in floats"
        )
        nodes_to_include: list[str] | None = Field(None, description="when given, all other products stay as they are")

    aliases: ClassVar[tuple[str, ...]] = ("OnnxHqqQuantization",)
    operator: ClassVar[str] = "MatMulNBits"
    libraries: ClassVar[tuple[str, ...]] = (*WeightOnlyPass.libraries, "torch")
    params: Params

    def quantized(self, proto: Any, excluded: list[str]) -> Any:
        """By onnxruntime's own quantizer."""
        from onnxruntime.quantization.matmul_nbits_quantizer import HQQWeightOnlyQuantConfig, MatMulNBitsQuantizer

        quantizer = MatMulNBitsQuantizer(
            proto,
            block_size=self.params.block_size,
            accuracy_level=self.params.accuracy_level,
            nodes_to_exclude=excluded,
            nodes_to_include=self.params.nodes_to_include,
            algo_config=HQQWeightOnlyQuantConfig(block_size=self.params.block_size, bits=4, axis=1),
        )
        quantizer.process()
        return quantizer.model.model
