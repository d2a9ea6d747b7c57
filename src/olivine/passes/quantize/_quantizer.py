"""What the quantizers of Hugging Face checkpoints have in common as passes."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from olivine.config.schema import DataConfig
from olivine.errors import Problem
from olivine.models.facts import ModelFacts
from olivine.passes._base import CalibrationRows, Pass
from olivine.passes.quantize._params import QuantizerParams
from olivine.work import Estimate, Machine


class Quantizer(Pass):
    """A pass from a Hugging Face checkpoint to one with quantized weights; its params answer what a plan asks.

    A quantizer brings its params, its docstring and `run`. hessians: whether `run` holds the X'X of a layer's inputs,
    not their diagonals alone.
    """

    Params: ClassVar[type[QuantizerParams]] = QuantizerParams
    accepts: ClassVar[frozenset[str]] = frozenset({"hf"})
    produces: ClassVar[str] = "hf"
    libraries: ClassVar[tuple[str, ...]] = ("torch", "transformers", "numba")
    works_with: ClassVar[tuple[str, ...]] = ("torch",)
    hessians: ClassVar[bool] = False
    params: QuantizerParams

    @classmethod
    def inherited(cls, earlier: Sequence[Pass]) -> Mapping[str, Any]:
        """Calibrate with what was trained on; keep in 8 bits what was picked."""
        return cls.Params.inherited(earlier)

    def calibrates_on(self) -> CalibrationRows | None:
        """The rows of that data config."""
        return self.params.rows()

    def data_names(self) -> list[str]:
        """The data config that calibrates, if one does."""
        return self.params.data_names()

    def files(self) -> list[Path]:
        """The text file that calibrates, if one does."""
        return self.params.files()

    def check(self, facts: ModelFacts, machine: Machine, data: Mapping[str, DataConfig]) -> Iterator[Problem]:  # noqa: ARG002
        """Group size, patterns, and what a checkpoint cannot hold."""
        yield from self.params.problems(self.name, facts)

    def notes(self, facts: ModelFacts, machine: Machine, data: Mapping[str, DataConfig]) -> Iterator[str]:  # noqa: ARG002
        """What a checkpoint does not hold quantized."""
        yield from self.params.notes(facts)

    def estimate(self, facts: ModelFacts, machine: Machine, data: Mapping[str, DataConfig]) -> Estimate:  # noqa: ARG002
        """What the params ask for, on the device where calibration runs."""
        return self.params.estimate(facts, hessians=self.hessians, machine=machine)
