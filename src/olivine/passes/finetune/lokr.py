"""LoKr: an update that is the Kronecker product of two small matrices (Yeh et al. 2023, arXiv:2309.14859)."""

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

from pydantic import Field

from olivine.config.schema import DataConfig
from olivine.errors import Problem
from olivine.models.facts import ModelFacts
from olivine.passes.finetune._lycoris import Lycoris, settings
from olivine.passes.finetune._params import LycorisParams
from olivine.work import Machine


class Lokr(Lycoris):
    """Fine-tune with LoKr: the update of each layer is the Kronecker product of a small matrix and a low-rank one.

    It has the fewest parameters of all methods. PEFT computes it: the whole update of a layer is written out for every
    product, which costs memory and time that LoRA does not need.
    """

    class Params(LycorisParams):
        """Names are those of Olive's LoKr pass."""

        decompose_both: bool = Field(False, description="the left matrix is a product of low rank, too")
        decompose_factor: int = Field(-1, description="size of the left matrix; -1 makes both sides about as large")
        rank_dropout_scale: bool = Field(False, description="scale up the rows that rank_dropout leaves")

    aliases: ClassVar[tuple[str, ...]] = ("LoKr",)
    example: ClassVar[Mapping[str, Any]] = {"r": 8, "train_data_config": "rows", "eval_dataset_size": 0.2}
    factors: ClassVar[int] = 1
    params: Params

    def check(self, facts: ModelFacts, machine: Machine, data: Mapping[str, DataConfig]) -> Iterator[Problem]:
        """As for every adapter of its kind, and the size of the left matrix."""
        yield from super().check(facts, machine, data)
        factor = self.params.decompose_factor
        if factor != -1 and factor < 1:
            message = f"decompose_factor must be -1 or at least 1, but is {factor}."
            yield Problem("invalid-value", self.name, message, key=("decompose_factor",))

    def config(self, trained_modules: Mapping[str, Any]) -> Any:
        """PEFT's LoKrConfig with the params."""
        from peft import LoKrConfig

        return LoKrConfig(
            **settings(self.params),
            **trained_modules,
            decompose_both=self.params.decompose_both,
            decompose_factor=self.params.decompose_factor,
            rank_dropout_scale=self.params.rank_dropout_scale,
        )
