"""The checkpoint that quantizers write, each weight quantized when it is written."""

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from olivine.errors import ModelError
from olivine.models import Model
from olivine.models.tensors import LazyTensor, Weights
from olivine.work import Context

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch

    from olivine.calibration.gptq_layers import Quantized
    from olivine.kernels.blockwise import Blockwise, Format, Method
    from olivine.models.quantized.write import ScaleType


def quantized(
    source: Weights,
    formats: "Mapping[str, Format]",
    method: "Method",
    importances: "Mapping[str, torch.Tensor] | None" = None,
) -> "Quantized":
    """The weights that have a format, quantized when they are asked for; importances [n_inputs] by weight."""
    return {name: _lazily(source[name], fmt, method, (importances or {}).get(name)) for name, fmt in formats.items()}


def _lazily(
    tensor: LazyTensor, fmt: "Format", method: "Method", importance: "torch.Tensor | None"
) -> "Callable[[], Blockwise]":
    from olivine.kernels.blockwise import Blockwise, quantize

    def blockwise() -> Blockwise:
        try:
            return quantize(tensor.read(), fmt, method, importance, half_scales=method == "search")
        except ValueError as error:
            raise ModelError(f"'{tensor.name}' cannot be quantized: {error}") from error

    return blockwise


def write(
    model: Model, source: Weights, blocks: "Quantized", context: Context, *, scales: "ScaleType" = "float16"
) -> Model:
    """Write the checkpoint: `blocks` quantized, with scales of that type, everything else as `source` has it."""
    from olivine.models.quantized.write import write_quantized

    tensors = {name: replace(tensor, blockwise=blocks.get(name)) for name, tensor in source.items()}
    written: Model = write_quantized(model, context.output, tensors, scale_dtype=scales)
    size = sum(file.stat().st_size for file in context.output.rglob("*") if file.is_file())
    context.report.record(n_quantized=len(blocks), size_bytes=size)
    return written
