"""The params that quantizers share, and what follows from them alone: data, problems, memory and disk."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import AliasChoices, BaseModel, ConfigDict, Field

from olivine.calibration import eight_bits
from olivine.calibration.sizes import FEWEST, GENERAL, N_TOKENS, OWN, Text
from olivine.errors import Problem
from olivine.models.blockwise import GROUPS, WHOLE_ROW
from olivine.models.facts import ModelFacts
from olivine.passes._base import CalibrationRows, Pass, PassParams, last_selection, last_training
from olivine.patterns import compiles
from olivine.work import Estimate, Machine

GroupSize = Literal[-1, 16, 32, 64, 128, 256]  # models.blockwise.WHOLE_ROW and GROUPS, spelled out for the schema
FRAMEWORK_BYTES = 0.9e9  # resident memory of torch, transformers and numba before any work
FLOAT_BYTES = 4


class Override(BaseModel):
    """What differs for the modules of one name or pattern."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    bits: Literal[4, 8] | None = Field(None, description="of these modules; else those of the others")
    group_size: GroupSize | None = Field(None, description="of these modules; else that of the others")
    symmetric: bool | None = Field(
        None, validation_alias=AliasChoices("symmetric", "sym"), description="of these modules; else as the others"
    )


class QuantizerParams(PassParams):
    """Names are those of Olive's quantizers."""

    bits: Literal[4, 8] = Field(4, description="what a weight is stored in")
    group_size: GroupSize | None = Field(
        None,
        description="weights that share one scale; -1: all inputs of an output; by default 128, or the widest below it "
        "that divides every layer's width",
    )
    sym: bool = Field(False, description="no zero points; a little smaller and less accurate")
    lm_head: bool = Field(False, description="quantize the head as well, where it is not the embedding")
    embeds: bool = Field(False, description="quantize the embedding: ModelBuilder does, a checkpoint keeps it")
    modules_to_not_convert: list[str] | None = Field(
        None, description="modules to leave as they are: a part of their names, or 're:' and a pattern for all of it"
    )
    overrides: Mapping[str, Override] = Field(
        default_factory=dict,
        description="bits, group_size and symmetric for modules by their full name, or 're:' and a pattern",
    )
    mixed_precision: str | None = Field(
        None, description="algorithm of a SelectiveMixedPrecision before this pass, which picks weights for 8 bits"
    )

    @classmethod
    def inherited(cls, earlier: Sequence[Pass]) -> dict[str, Any]:
        """Keep in 8 bits what an earlier SelectiveMixedPrecision picked."""
        selective = last_selection(earlier)
        if selective is None:
            return {}
        others = {key: selective[key] for key in ("bits", "group_size", "sym") if selective.get(key) is not None}
        return others | cls._picked(selective)

    @classmethod
    def _picked(cls, selective: Mapping[str, Any]) -> dict[str, Any]:
        """The param by which this pass picks weights for 8 bits as `selective` says: by what they are."""
        return {"mixed_precision": selective["algorithm"]}

    def data_names(self) -> list[str]:
        """The data configs that calibrate: none where nothing is calibrated."""
        return []

    def rows(self) -> CalibrationRows | None:
        """The rows that calibrate: none where nothing is calibrated."""
        return None

    def files(self) -> list[Path]:
        """The text files that calibrate."""
        return []

    def problems(self, name: str, facts: ModelFacts) -> Iterator[Problem]:
        """What can be known to fail from the params of the step `name` and the model's facts alone."""
        yield from self._group_problems(name, facts)
        if self.mixed_precision not in (None, *eight_bits.BY_PLACE):
            message = f"'{self.mixed_precision}' of SelectiveMixedPrecision ranks weights, and its ratio says how many."
            yield Problem("invalid-value", name, message, "Set its ratio.", ("mixed_precision",))
        yield from self._pattern_problems(name)

    def notes(self, facts: ModelFacts) -> Iterator[str]:
        """What a checkpoint does not hold quantized, and who does it instead."""
        is_tied = facts.as_decoder.tied_embeddings
        if self.embeds:
            yield "embeds: a checkpoint keeps its embedding as it is, and ModelBuilder after it stores it in 8 bits"
        if self.lm_head and is_tied:
            yield "lm_head: this model's head is its embedding; ModelBuilder after it quantizes the two together"

    def _group_problems(self, name: str, facts: ModelFacts) -> Iterator[Problem]:
        decoder = facts.as_decoder
        size = None if self.group_size == WHOLE_ROW else self.group_size
        for key, width in (("hidden_size", decoder.hidden_size), ("intermediate_size", decoder.intermediate_size)):
            if size is not None and width % size:
                fitting = [str(other) for other in GROUPS if width % other == 0]
                fix = f"Use {' or '.join(fitting)}." if fitting else "This model cannot be quantized in groups."
                message = f"group_size {size} does not divide the model's {key} {width}."
                yield Problem("invalid-value", name, message, fix, ("group_size",))

    def _pattern_problems(self, name: str) -> Iterator[Problem]:
        for key in ("modules_to_not_convert", "overrides"):
            for pattern in getattr(self, key) or ():
                if pattern.startswith("re:") and not compiles(pattern[3:]):
                    message = f"the module pattern {pattern!r} is no regular expression."
                    yield Problem("invalid-value", name, message, "Mend or remove it.", (key,))

    def estimate(self, facts: ModelFacts, *, hessians: bool, machine: Machine) -> Estimate:  # noqa: ARG002 - see below
        """A few tensors in memory, the result on the disk; hessians and machine matter where inputs are measured."""
        memory = FRAMEWORK_BYTES + 4 * layer_bytes(facts)
        return Estimate(memory_bytes=int(memory), disk_bytes=int(self._result_bytes(facts)))

    def _result_bytes(self, facts: ModelFacts) -> float:
        """Embedding and head in two bytes a weight; codes, scales and zero points of all else."""
        return 2 * embedding_size(facts) * 2 + facts.n_parameters * (0.63 if self.bits == 4 else 1.13)


class CalibratedParams(QuantizerParams):
    """What a pass takes that has to see what reaches each layer."""

    data_config: str | None = Field(
        None, description="data to calibrate with; else the training data of an earlier step, else calibration_text"
    )
    calibration_text: Text = Field(
        GENERAL,
        description="without data: general (pages that come with olivine), own (what the model writes, for which "
        "all of it is in memory), or a text file",
    )
    calibration_tokens: int = Field(N_TOKENS, ge=FEWEST, description="tokens to calibrate with")
    calibration_seed: int = Field(0, description="of the split, the order of rows, and the text that the model writes")
    calibration_held_out: float | None = Field(
        None, gt=0, description="rows of the data that are left out, as eval_dataset_size of the training step"
    )
    calibration_may_be_short: bool = Field(
        False, description="with too little of that data, calibrate with calibration_text, and say so"
    )
    int8_share: float = Field(
        0.0, ge=0, le=1, description="share of the weights that go up to 8 bits, those with the largest error first"
    )

    @classmethod
    def inherited(cls, earlier: Sequence[Pass]) -> dict[str, Any]:
        """Calibrate with what was trained on, without the rows that were held out; keep in 8 bits what was picked."""
        picked = super().inherited(earlier)
        rows = last_training(earlier)
        return picked if rows is None else picked | rows.to_calibrate("data_config")

    @classmethod
    def _picked(cls, selective: Mapping[str, Any]) -> dict[str, Any]:
        """A share of the weights by their error, where `selective` names a score; else by what they are."""
        share = eight_bits.share(selective)
        return {"int8_share": share} if share else super()._picked(selective)

    def rows(self) -> CalibrationRows | None:
        """The rows that calibrate, where a data config is named."""
        if self.data_config is None:
            return None
        return CalibrationRows(
            self.data_config,
            "data_config",
            self.calibration_held_out,
            self.calibration_seed,
            self.calibration_may_be_short,
        )

    def data_names(self) -> list[str]:
        """The data config that calibrates, where one is named."""
        return [self.data_config] if self.data_config else []

    def files(self) -> list[Path]:
        """The text file that calibrates, where one is named."""
        return [self.calibration_text] if isinstance(self.calibration_text, Path) else []

    def estimate(self, facts: ModelFacts, *, hessians: bool, machine: Machine) -> Estimate:
        """One layer, its statistics, and the activations of all tokens before and after it; the result on the disk.

        hessians: whether a layer's X'X are held, not their diagonals alone, and each layer's codes written on the way.
        A model that writes its own text is in memory whole, in float32 where the device does not compute in bfloat16.
        """
        decoder = facts.as_decoder
        on_cuda = machine.device == "cuda"
        layer = layer_bytes(facts)
        activations = 3 * self.calibration_tokens * decoder.hidden_size * FLOAT_BYTES
        # four inputs a layer: that of q, k and v; of o; of gate and up; of down
        hessian = max(decoder.hidden_size, decoder.intermediate_size) ** 2 * FLOAT_BYTES
        writes = self.data_config is None and self.calibration_text == OWN
        written = _written_bytes(facts, machine) if writes else 0
        measured = 2 * layer + activations + (4 * hessian if hessians else 0) + FLOAT_BYTES * embedding_size(facts)
        needed = max(measured, written)
        return Estimate(
            memory_bytes=int(FRAMEWORK_BYTES + (layer if on_cuda else needed)),
            device_memory_bytes=int(needed) if on_cuda else 0,
            disk_bytes=int(self._result_bytes(facts) * (3 if hessians else 1)),
        )


def _written_bytes(facts: ModelFacts, machine: Machine) -> float:
    """What a model takes that writes its own text."""
    from olivine.runtimes.own_text import own_text_bytes

    return own_text_bytes(facts, in_bf16=machine.device == "cuda" or machine.multiplies_bf16)


def embedding_size(facts: ModelFacts) -> int:
    """Weights of the embedding; the head has as many."""
    return facts.as_decoder.embedding_size


def layer_bytes(facts: ModelFacts) -> float:
    """A decoder layer in float32."""
    return (facts.n_parameters - embedding_size(facts)) / max(1, facts.as_decoder.n_layers) * FLOAT_BYTES
