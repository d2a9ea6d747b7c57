"""Rtn: round every weight to the nearest code."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from olivine.calibration import eight_bits
from olivine.models import Model
from olivine.models.facts import ModelFacts
from olivine.models.opened import Opened
from olivine.models.weights import weights
from olivine.passes._base import CalibrationRows, Pass, last_selection
from olivine.passes.quantize import _calibration
from olivine.passes.quantize._checkpoint import quantized, write
from olivine.passes.quantize._formats import formats
from olivine.passes.quantize._params import CalibratedParams, QuantizerParams
from olivine.passes.quantize._quantizer import Quantizer
from olivine.work import Context, Estimate, Machine


class RtnParams(CalibratedParams):
    """Names are those of Olive's Rtn; nothing is calibrated but the choice of weights for 8 bits, where one is made."""

    @classmethod
    def inherited(cls, earlier: Sequence[Pass]) -> dict[str, Any]:
        """Keep in 8 bits what was picked; by a score, that is measured on what was trained on."""
        selective = last_selection(earlier)
        if selective is not None and eight_bits.share(selective):
            return super().inherited(earlier)
        picked = super().inherited([one for one in earlier if one.trains_on() is None])
        return {key: value for key, value in picked.items() if not key.startswith("calibration")}

    @property
    def _calibrates(self) -> bool:
        return self.int8_share > 0

    def rows(self) -> CalibrationRows | None:
        """The rows that tell which weights 4 bits damage most."""
        return super().rows() if self._calibrates else None

    def data_names(self) -> list[str]:
        """The data config with those rows."""
        return super().data_names() if self._calibrates else []

    def files(self) -> list[Path]:
        """The text file in their place."""
        return super().files() if self._calibrates else []

    def estimate(self, facts: ModelFacts, *, hessians: bool, machine: Machine) -> Estimate:
        """A few tensors; one layer and its inputs where weights are ranked."""
        kind = CalibratedParams if self._calibrates else QuantizerParams
        return kind.estimate(self, facts, hessians=hessians, machine=machine)


class Rtn(Quantizer):
    """Quantize weights by rounding each to the nearest code of its group's range.

    The fastest and least accurate: seconds, no calibration, one tensor in memory at a time. Only `int8_share`, or a
    score of SelectiveMixedPrecision before it, has weights ranked on calibration tokens. The result is a checkpoint in
    the compressed-tensors form `pack-quantized`; ModelBuilder takes its codes over without rounding again.
    """

    Params: ClassVar[type[RtnParams]] = RtnParams
    version: ClassVar[int] = 2
    params: RtnParams
    aliases: ClassVar[tuple[str, ...]] = ("Rtn",)
    example: ClassVar[Mapping[str, Any]] = {"bits": 4, "group_size": 32}

    def run(self, model: Model, context: Context) -> Model:
        """Round tensor by tensor into the quantized checkpoint."""
        by_weight = formats(model, self.params)
        source = weights(model)
        if self.params.int8_share:
            opened = Opened(model)
            source = opened.weights
            tokens = _calibration.tokens(opened, self.params, context)
            importances = _calibration.importances(opened, tokens, context)
            by_weight = eight_bits.promoted(by_weight, source, importances, self.params.int8_share)
        return write(model, source, quantized(source, by_weight, "rtn"), context, scales="float32")
