"""KQuant: scales and zero points searched for the least error, each input weighted by its importance."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from olivine.config.schema import DataConfig
from olivine.errors import Problem
from olivine.models import Model
from olivine.models.facts import ModelFacts
from olivine.models.weights import weights
from olivine.passes._base import Context, Estimate, Machine, Pass, PassParams
from olivine.passes.quantize import _quantizer


class Kquant(Pass):
    """Quantize weights with scales and zero points that are searched for the least error.

    1. Errors count by what reaches a weight: the mean square of each input over calibration tokens. Without that, a
    search hardly beats plain rounding, so this pass calibrates where llama.cpp's k-quants guess. 2. Tokens are the
    user's rows, a text file, or what the model writes. 3. One layer and the activations are in memory at a time. 4. The
    result is a checkpoint in the compressed-tensors form `pack-quantized`.
    """

    Params: ClassVar[type[PassParams]] = _quantizer.CalibratedParams
    aliases: ClassVar[tuple[str, ...]] = ("KQuant",)
    version: ClassVar[int] = 2
    accepts: ClassVar[frozenset[str]] = frozenset({"hf"})
    produces: ClassVar[str] = "hf"
    libraries: ClassVar[tuple[str, ...]] = ("torch", "transformers", "numba")
    modules: ClassVar[Mapping[str, str]] = {}
    params: _quantizer.CalibratedParams

    @classmethod
    def inherited(cls, earlier: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
        """Calibrate with what was trained on."""
        return _quantizer.inherited(earlier)

    def data_names(self) -> list[str]:
        """The calibration data."""
        return [self.params.data_config] if self.params.data_config else []

    def files(self) -> list[Path]:
        """The calibration text."""
        return [self.params.calibration_text] if self.params.calibration_text else []

    def check(self, facts: ModelFacts, machine: Machine, data: Mapping[str, DataConfig]) -> Iterator[Problem]:  # noqa: ARG002
        """Group size, patterns, and what a checkpoint cannot hold."""
        yield from _quantizer.check(self.name, self.params, facts)

    def estimate(self, facts: ModelFacts, machine: Machine, data: Mapping[str, DataConfig]) -> Estimate:  # noqa: ARG002
        """One layer and the activations."""
        return _quantizer.estimate(facts, self.params, full=False, on_cuda=machine.device == "cuda")

    def run(self, model: Model, context: Context) -> Model:
        """Calibrate, search and write the quantized checkpoint."""
        formats = _quantizer.formats(model, self.params)
        tokens = _quantizer.tokens(model, self.params, context)
        importances = _quantizer.importances(model, tokens, context)
        source = weights(model)
        if self.params.int8_share:
            formats = _quantizer.promoted(formats, source, importances, self.params.int8_share)
        made = _quantizer.quantized(source, formats, "search", importances)
        return _quantizer.finish(model, source, made, context)
