"""Rtn: round every weight to the nearest code."""

from collections.abc import Mapping
from typing import Any, ClassVar

from olivine.models import Model
from olivine.models.weights import weights
from olivine.passes.quantize._checkpoint import quantized, write
from olivine.passes.quantize._formats import formats
from olivine.passes.quantize._quantizer import Quantizer
from olivine.work import Context


class Rtn(Quantizer):
    """Quantize weights by rounding each to the nearest code of its group's range.

    The fastest and least accurate: seconds, no calibration, one tensor in memory at a time. The result is a checkpoint
    in the compressed-tensors form `pack-quantized`; ModelBuilder takes its codes over without rounding again.
    """

    aliases: ClassVar[tuple[str, ...]] = ("Rtn",)
    example: ClassVar[Mapping[str, Any]] = {"bits": 4, "group_size": 32}

    def run(self, model: Model, context: Context) -> Model:
        """Round tensor by tensor into the quantized checkpoint."""
        by_weight = formats(model, self.params)
        source = weights(model)
        return write(model, source, quantized(source, by_weight, "rtn"), context, scales="float32")
