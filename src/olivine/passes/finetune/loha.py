"""LoHa: an update that is the elementwise product of two of low rank (Hyeon-Woo et al. 2021, arXiv:2108.06098)."""

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

from olivine.config.schema import DataConfig
from olivine.errors import Problem
from olivine.models import Model
from olivine.models.facts import ModelFacts
from olivine.passes._base import Pass, TrainingRows
from olivine.passes.finetune import _checks, _lycoris, _session, _time
from olivine.passes.finetune._params import LycorisParams
from olivine.work import Context, Estimate, Machine


class Loha(Pass):
    """Fine-tune with LoHa: the update of each layer is the elementwise product of two low-rank matrices.

    Its rank goes up to r squared with twice the parameters of LoRA. PEFT computes it: the whole update of a layer is
    written out for every product, which costs memory and time that LoRA does not need.
    """

    class Params(LycorisParams):
        """Names are those of Olive's LoHa pass."""

    aliases: ClassVar[tuple[str, ...]] = ("LoHa",)
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

    def notes(self, facts: ModelFacts, machine: Machine, data: Mapping[str, DataConfig]) -> Iterator[str]:
        """Values that are hardly meant, and about how long it takes."""
        yield from _checks.notes_on(self.params, facts, usual=_checks.ADAPTER_RATES)
        if told := _time.in_words(self.params, facts, machine, data, all_weights=False):
            yield told

    def estimate(self, facts: ModelFacts, machine: Machine, data: Mapping[str, DataConfig]) -> Estimate:
        """As LoRA's, with four factors a layer and the update of every layer as a matrix."""
        return _lycoris.estimate(self.params, facts, machine, data, factors=4)

    def run(self, model: Model, context: Context) -> Model:
        """Train and save the adapter beside the tokenizer it was trained with."""

        def config(places: Mapping[str, Any]) -> Any:
            from peft import LoHaConfig

            return LoHaConfig(**_lycoris.settings(self.params), **places)

        return _session.run(self, self.params, model, context, _lycoris.maker(self.params, config))
