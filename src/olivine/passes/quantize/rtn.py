"""Rtn: round every weight to the nearest code."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

from olivine.calibration import eight_bits
from olivine.config.schema import DataConfig
from olivine.errors import Problem
from olivine.models import Model
from olivine.models.facts import ModelFacts
from olivine.models.weights import weights
from olivine.passes._base import Context, Estimate, Machine, Pass, PassParams
from olivine.passes.quantize import _quantizer


class Rtn(Pass):
    """Quantize weights by rounding each to the nearest code of its group's range.

    The fastest and least accurate: seconds, no calibration, one tensor in memory at a time. The result is a checkpoint
    in the compressed-tensors form `pack-quantized`; ModelBuilder takes its codes over without rounding again.
    """

    Params: ClassVar[type[PassParams]] = _quantizer.QuantizerParams
    aliases: ClassVar[tuple[str, ...]] = ("Rtn",)
    accepts: ClassVar[frozenset[str]] = frozenset({"hf"})
    produces: ClassVar[str] = "hf"
    libraries: ClassVar[tuple[str, ...]] = ("torch", "transformers", "numba")
    modules: ClassVar[Mapping[str, str]] = {}
    params: _quantizer.QuantizerParams

    @classmethod
    def inherited(cls, earlier: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
        """Keep in 8 bits what was picked."""
        return eight_bits.inherited(earlier, ranks=False)

    def check(self, facts: ModelFacts, machine: Machine, data: Mapping[str, DataConfig]) -> Iterator[Problem]:  # noqa: ARG002
        """Group size, patterns, and what a checkpoint cannot hold."""
        yield from _quantizer.check(self.name, self.params, facts)

    def estimate(self, facts: ModelFacts, machine: Machine, data: Mapping[str, DataConfig]) -> Estimate:  # noqa: ARG002
        """A few tensors."""
        return _quantizer.estimate(facts, self.params, full=False, on_cuda=False)

    def run(self, model: Model, context: Context) -> Model:
        """Write the quantized checkpoint."""
        formats = _quantizer.formats(model, self.params)
        source = weights(model)
        made = _quantizer.quantized(source, formats, "rtn")
        return _quantizer.finish(model, source, made, context, scales="float32")
