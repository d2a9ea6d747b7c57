"""LoKr: an update that is the Kronecker product of two small matrices (Yeh et al. 2023, arXiv:2309.14859)."""

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

from pydantic import Field

from olivine.config.schema import DataConfig
from olivine.errors import Problem
from olivine.models import Model
from olivine.models.facts import ModelFacts
from olivine.passes._base import Pass, TrainingRows
from olivine.passes.finetune import _checks, _lycoris, _session, _time
from olivine.passes.finetune._params import LycorisParams
from olivine.work import Context, Estimate, Machine


class Lokr(Pass):
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
    accepts: ClassVar[frozenset[str]] = frozenset({"hf"})
    produces: ClassVar[str] = "adapter"
    libraries: ClassVar[tuple[str, ...]] = ("torch", "transformers", "peft", "accelerate")
    modules: ClassVar[Mapping[str, str]] = {}
    spreads: ClassVar[bool] = True
    when_too_large: ClassVar[str] = "Lower max_seq_len or per_device_train_batch_size."
    params: Params

    def data_names(self) -> list[str]:
        """The training data, and the evaluation data where it is its own."""
        return self.params.data_names

    def trains_on(self) -> TrainingRows:
        """The rows that the params name."""
        return self.params.rows

    def check(self, facts: ModelFacts, machine: Machine, data: Mapping[str, DataConfig]) -> Iterator[Problem]:  # noqa: ARG002
        """training_args by name and type, and target modules against the layers that the model has."""
        yield from _checks.check_adapter(self.params, facts, machine, self.name)
        yield from _checks.check_lycoris(self.params, facts, self.name)
        factor = self.params.decompose_factor
        if factor != -1 and factor < 1:
            message = f"decompose_factor must be -1 or at least 1, but is {factor}."
            yield Problem("invalid-value", self.name, message, key=("decompose_factor",))

    def notes(self, facts: ModelFacts, machine: Machine, data: Mapping[str, DataConfig]) -> Iterator[str]:
        """Values that are hardly meant, and about how long it takes."""
        yield from _checks.notes_on(self.params, facts, usual=_checks.ADAPTER_RATES)
        if told := _time.in_words(self.params, facts, machine, data, all_weights=False):
            yield told

    def estimate(self, facts: ModelFacts, machine: Machine, data: Mapping[str, DataConfig]) -> Estimate:
        """As LoRA's, which has more parameters, with the update of every layer as a matrix."""
        return _lycoris.estimate(self.params, facts, machine, data, factors=1)

    def run(self, model: Model, context: Context) -> Model:
        """Train and save the adapter beside the tokenizer it was trained with."""

        def config(places: Mapping[str, Any]) -> Any:
            from peft import LoKrConfig

            return LoKrConfig(
                **_lycoris.settings(self.params),
                **places,
                decompose_both=self.params.decompose_both,
                decompose_factor=self.params.decompose_factor,
                rank_dropout_scale=self.params.rank_dropout_scale,
            )

        return _session.run(self, self.params, model, context, _lycoris.maker(self.params, config))
