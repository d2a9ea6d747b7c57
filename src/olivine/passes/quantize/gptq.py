"""GPTQ: second-order rounding against calibration data (Frantar et al. 2022, arXiv:2210.17323)."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field

from olivine.config.schema import DataConfig
from olivine.errors import Problem
from olivine.models import Model
from olivine.models.facts import ModelFacts
from olivine.models.weights import weights
from olivine.passes._base import Context, Estimate, Machine, Pass
from olivine.passes.quantize import _quantizer


class Gptq(Pass):
    """Quantize with GPTQ: columns are rounded one by one, and those still to come make up for each error.

    1. Scales and zero points are searched beforehand, weighted by importance, in groups that lie together. 2. Columns
    are visited by falling importance (`desc_act`); as the groups stay, the result needs no `g_idx`, which would make it
    slow. 3. Layer by layer: each sees what the quantized layers before it give, one layer is in memory, and an
    interrupted run goes on from its last layer. 4. The result is a checkpoint in the compressed-tensors form
    `pack-quantized`.
    """

    class Params(_quantizer.CalibratedParams):
        """Names are those of Olive's GPTQ passes."""

        desc_act: bool = Field(True, description="visit columns by falling importance; costs nothing at run time")
        damp_percent: float = Field(0.01, gt=0, lt=1, description="share of the mean diagonal added to each Hessian")
        static_groups: bool = Field(True, description="groups lie together whatever the order, in any case")
        true_sequential: bool = Field(False, description="within a layer, too, calibrate on quantized weights; slower")

    aliases: ClassVar[tuple[str, ...]] = ("Gptq", "GptqQuantizer", "GptqModel", "AutoGPTQQuantizer")
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
        """One layer, its Hessians and the activations."""
        return _quantizer.estimate(facts, self.params, full=True, on_cuda=machine.device == "cuda")

    def run(self, model: Model, context: Context) -> Model:
        """Calibrate, quantize layer by layer and write the quantized checkpoint."""
        from olivine.calibration.gptq_layers import Sweep, gptq_layers
        from olivine.calibration.layer_stream import LayerStream

        formats = _quantizer.formats(model, self.params)
        tokens = _quantizer.tokens(model, self.params, context)
        source = weights(model)
        if self.params.int8_share:
            importances = _quantizer.importances(model, tokens, context)
            formats = _quantizer.promoted(formats, source, importances, self.params.int8_share)
        stream = LayerStream(model, tokens, device=context.machine.device, report=context.report)
        sweep = Sweep(self.params.damp_percent, self.params.desc_act, self.params.true_sequential)
        made = gptq_layers(stream, formats, sweep, context.scratch / "layers")
        return _quantizer.finish(model, source, made, context)
