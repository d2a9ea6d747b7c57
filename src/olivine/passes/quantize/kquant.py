"""KQuant: scales and zero points searched for the least error, each input weighted by its importance."""

from collections.abc import Mapping
from typing import Any, ClassVar

from olivine.calibration.eight_bits import promoted
from olivine.models import Model
from olivine.models.opened import Opened
from olivine.passes.quantize import _calibration
from olivine.passes.quantize._checkpoint import quantized, write
from olivine.passes.quantize._formats import formats
from olivine.passes.quantize._params import CalibratedParams
from olivine.passes.quantize._quantizer import Quantizer
from olivine.work import Context


class Kquant(Quantizer):
    """Quantize weights with scales and zero points that are searched for the least error.

    1. Errors count by what reaches a weight: the mean square of each input over calibration tokens. Without that, a
    search hardly beats plain rounding, so this pass calibrates where llama.cpp's k-quants guess. 2. Tokens are the
    user's rows, a text file, pages that come with olivine, or what the model writes. 3. One layer and the activations
    are in memory at a time. 4. The result is a checkpoint in the compressed-tensors form `pack-quantized`.
    """

    Params: ClassVar[type[CalibratedParams]] = CalibratedParams
    aliases: ClassVar[tuple[str, ...]] = ("KQuant",)
    example: ClassVar[Mapping[str, Any]] = {"bits": 4, "group_size": 32}
    version: ClassVar[int] = 2
    params: CalibratedParams

    def run(self, model: Model, context: Context) -> Model:
        """Calibrate, search and write the quantized checkpoint."""
        by_weight = formats(model, self.params)
        opened = Opened(model)
        tokens = _calibration.tokens(opened, self.params, context)
        importances = _calibration.importances(opened, tokens, context)
        source = opened.weights
        if self.params.int8_share:
            by_weight = promoted(by_weight, source, importances, self.params.int8_share)
        return write(model, source, quantized(source, by_weight, "search", importances), context)
