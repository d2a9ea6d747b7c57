"""What every pass that trains says alike, whatever it trains."""

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any, ClassVar

from olivine.config.schema import DataConfig
from olivine.models.facts import ModelFacts
from olivine.passes._base import Pass, TrainingRows
from olivine.passes.finetune import _checks, _time
from olivine.passes.finetune._params import TrainingParams
from olivine.training import training_arguments
from olivine.work import Machine


class Training(Pass):
    """A pass that trains a Hugging Face checkpoint, or an adapter of it, on the rows that its params name.

    It brings its params, its docstring, `check`, `estimate` and `run`. What differs for whole weights it says anew.
    """

    Params: ClassVar[type[TrainingParams]] = TrainingParams
    accepts: ClassVar[frozenset[str]] = frozenset({"hf"})
    produces: ClassVar[str] = "adapter"
    libraries: ClassVar[tuple[str, ...]] = ("torch", "transformers", "peft", "accelerate")
    # datasets first: the trainer looks for it before it imports it, and what replaces it is asked once
    works_with: ClassVar[tuple[str, ...]] = ("datasets", "peft", "olivine.training.trainer")
    spreads: ClassVar[bool] = True
    when_too_large: ClassVar[str] = "Lower max_seq_len or per_device_train_batch_size."
    defaults: ClassVar[Mapping[str, Any]] = MappingProxyType({})  # training arguments, over those of every training
    params: TrainingParams

    def said(self) -> dict[str, Any]:
        """With the arguments that decide what is trained, where the config is silent."""
        arguments = training_arguments.deciding(self.params.training_args, self.defaults)
        return super().said() | {"training_args": arguments}

    def data_names(self) -> list[str]:
        """The training data, and the evaluation data where it is its own."""
        return self.params.data_names

    def trains_on(self) -> TrainingRows:
        """The rows that the params name."""
        return self.params.rows

    def notes(self, facts: ModelFacts, machine: Machine, data: Mapping[str, DataConfig]) -> Iterator[str]:
        """Values that are hardly meant, and about how long it takes."""
        all_weights = self.produces == "hf"
        rates = _checks.WEIGHT_RATES if all_weights else _checks.ADAPTER_RATES
        yield from _checks.notes_on(self.params, facts, usual=rates)
        if told := _time.in_words(self.params, facts, machine, data, all_weights=all_weights):
            yield told
