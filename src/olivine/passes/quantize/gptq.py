"""GPTQ: second-order rounding against calibration data (Frantar et al. 2022, arXiv:2210.17323)."""

from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import Field

from olivine.calibration.eight_bits import promoted
from olivine.models import Model
from olivine.models.opened import Opened
from olivine.passes.quantize import _calibration
from olivine.passes.quantize._checkpoint import write
from olivine.passes.quantize._formats import formats
from olivine.passes.quantize._params import CalibratedParams
from olivine.passes.quantize._quantizer import Quantizer
from olivine.work import Context


class Gptq(Quantizer):
    """Quantize with GPTQ: columns are rounded one by one, and those still to come make up for each error.

    1. Scales and zero points are searched beforehand, weighted by importance, in groups that lie together. 2. Columns
    are visited by falling importance (`desc_act`); as the groups stay, the result needs no `g_idx`, which would make it
    slow. 3. Layer by layer: each sees what the quantized layers before it give, one layer is in memory, and an
    interrupted run goes on from its last layer. 4. The result is a checkpoint in the compressed-tensors form
    `pack-quantized`.
    """

    class Params(CalibratedParams):
        """Names are those of Olive's GPTQ passes."""

        desc_act: bool = Field(True, description="visit columns by falling importance; costs nothing at run time")
        damp_percent: float = Field(0.01, gt=0, lt=1, description="share of the mean diagonal added to each Hessian")
        static_groups: bool = Field(True, description="groups lie together whatever the order, in any case")
        true_sequential: bool = Field(False, description="within a layer, too, calibrate on quantized weights; slower")

    aliases: ClassVar[tuple[str, ...]] = ("Gptq", "GptqQuantizer", "GptqModel", "AutoGPTQQuantizer")
    example: ClassVar[Mapping[str, Any]] = {"bits": 4, "group_size": 128, "data_config": "rows"}
    version: ClassVar[int] = 2
    hessians: ClassVar[bool] = True
    params: Params

    def run(self, model: Model, context: Context) -> Model:
        """Calibrate, quantize layer by layer and write the quantized checkpoint."""
        from olivine.calibration.gptq_layers import Sweep, gptq_layers
        from olivine.calibration.layer_stream import LayerStream

        by_weight = formats(model, self.params)
        opened = Opened(model)
        tokens = _calibration.tokens(opened, self.params, context)
        source = opened.weights
        if self.params.int8_share:
            importances = _calibration.importances(opened, tokens, context)
            by_weight = promoted(by_weight, source, importances, self.params.int8_share)
        device, report = context.machine.device, context.report
        stream = LayerStream(model, tokens, device=device, report=report, source=source)
        sweep = Sweep(self.params.damp_percent, self.params.desc_act, self.params.true_sequential)
        return write(model, source, gptq_layers(stream, by_weight, sweep, context.scratch / "layers"), context)
