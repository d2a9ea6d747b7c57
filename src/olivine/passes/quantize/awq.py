"""AWQ: fold scales into the model that protect the inputs that matter, then quantize (arXiv:2306.00978)."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

from pydantic import model_validator

from olivine.calibration.eight_bits import promoted
from olivine.models import Model
from olivine.models.blockwise import WHOLE_ROW
from olivine.models.opened import Opened
from olivine.passes.quantize import _calibration
from olivine.passes.quantize._checkpoint import quantized, write
from olivine.passes.quantize._formats import formats
from olivine.passes.quantize._params import CalibratedParams
from olivine.passes.quantize._quantizer import Quantizer
from olivine.work import Context

# names of the AutoAWQ package -> ours
_NAMES = {"w_bit": "bits", "q_group_size": "group_size"}


class Awq(Quantizer):
    """Quantize with AWQ: scales that protect the inputs that matter are folded into norms and neighbours beforehand.

    1. For every input whose source can take the inverse (a norm, `up_proj`, `v_proj`) the scales with the least error
    are chosen over calibration tokens; the float model stays what it was, and each folded layer is checked for that.
    2. Then scales and zero points of the groups are searched, weighted by importance. 3. Nothing is left to compute at
    run time. The result is a checkpoint in the compressed-tensors form `pack-quantized`.
    """

    class Params(CalibratedParams):
        """Names are those of Olive's passes; those of AutoAWQ are understood as well."""

        @model_validator(mode="before")
        @classmethod
        def _autoawq_names(cls, values: Any) -> Any:
            if not isinstance(values, Mapping):
                return values
            plain = {_NAMES.get(key, key): value for key, value in values.items()}
            if "zero_point" in plain and "sym" not in plain:
                plain["sym"] = not plain.pop("zero_point")
            return plain

    aliases: ClassVar[tuple[str, ...]] = ("AutoAWQQuantizer",)
    example: ClassVar[Mapping[str, Any]] = {"bits": 4, "group_size": 128, "data_config": "rows"}
    version: ClassVar[int] = 2
    params: Params

    def run(self, model: Model, context: Context) -> Model:
        """Calibrate, fold, search and write the quantized checkpoint."""
        from olivine.calibration.folding import find_folds
        from olivine.kernels.blockwise import Format

        by_weight = formats(model, self.params)
        opened = Opened(model)
        tokens = _calibration.tokens(opened, self.params, context)
        usual = next(iter(by_weight.values()), Format(self.params.bits, 32, self.params.sym))
        if self.params.group_size == WHOLE_ROW:
            usual = replace(usual, group=WHOLE_ROW)
        device, report = context.machine.device, context.report
        folding = find_folds(model, tokens, usual, device=device, report=report, source=opened.weights)
        context.report.record(n_folded=len(folding.folds))
        source = folding.apply(opened.weights)
        if self.params.int8_share:
            by_weight = promoted(by_weight, source, folding.importances, self.params.int8_share)
        return write(model, source, quantized(source, by_weight, "search", folding.importances), context)
