"""AWQ: fold scales into the model that protect the inputs that matter, then quantize (arXiv:2306.00978)."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from pydantic import model_validator

from olivine.config.schema import DataConfig
from olivine.errors import Problem
from olivine.models import Model
from olivine.models.facts import ModelFacts
from olivine.models.weights import weights
from olivine.passes._base import Context, Estimate, Machine, Pass
from olivine.passes.quantize import _quantizer

# names of the AutoAWQ package -> ours
_NAMES = {"w_bit": "bits", "q_group_size": "group_size"}


class Awq(Pass):
    """Quantize with AWQ: scales that protect the inputs that matter are folded into norms and neighbours beforehand.

    1. For every input whose source can take the inverse (a norm, `up_proj`, `v_proj`) the scales with the least error
    are chosen over calibration tokens; the float model stays what it was, and each folded layer is checked for that.
    2. Then scales and zero points of the groups are searched, weighted by importance. 3. Nothing is left to compute at
    run time. The result is a checkpoint in the compressed-tensors form `pack-quantized`.
    """

    class Params(_quantizer.CalibratedParams):
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
    version: ClassVar[int] = 2
    accepts: ClassVar[frozenset[str]] = frozenset({"hf"})
    produces: ClassVar[str] = "hf"
    libraries: ClassVar[tuple[str, ...]] = ("torch", "transformers", "numba")
    modules: ClassVar[Mapping[str, str]] = {}
    params: Params

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
        """Calibrate, fold, search and write the quantized checkpoint."""
        from olivine.calibration.folding import find_folds
        from olivine.kernels.blockwise import Format

        formats = _quantizer.formats(model, self.params)
        tokens = _quantizer.tokens(model, self.params, context)
        usual = next(iter(formats.values()), Format(self.params.bits, 32, self.params.sym))
        folding = find_folds(model, tokens, usual, device=context.machine.device, report=context.report)
        context.report.record(n_folded=len(folding.folds))
        source = folding.apply(weights(model))
        if self.params.int8_share:
            formats = _quantizer.promoted(formats, source, folding.importances, self.params.int8_share)
        made = _quantizer.quantized(source, formats, "search", folding.importances)
        return _quantizer.finish(model, source, made, context)
