"""SelectiveMixedPrecision: say which weights the quantizing passes after it keep in 8 bits."""

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from olivine.calibration import eight_bits
from olivine.config.schema import DataConfig
from olivine.errors import Problem
from olivine.models import Model
from olivine.models.blockwise import BITS, GROUPS, WHOLE_ROW
from olivine.models.facts import ModelFacts
from olivine.passes._base import UNCHANGED, Pass, PassParams
from olivine.work import Context, Machine

HIGH_BITS = 8  # what picked weights are stored in


class SelectiveMixedPrecision(Pass):
    """Say which weights the quantizing passes after it keep in 8 bits; the model is given back as it came.

    1. `high_precision_lm_head` picks the head; `high_precision_mlp_down` also the MLP's output of the first and last
    eighth of the layers and of every third between; `high_precision_mlp_down_qkv` the q, k and v of these, too.
    2. The scored algorithms (snr, iqe, kld_gradient and their relatives) give a share, 1 - `ratio`: the pass after it
    ranks all weights by the share of their layer's output that 4 bits damage, measured on calibration tokens, whatever
    the score is called. 3. A head that a checkpoint cannot hold quantized gets its 8 bits from ModelBuilder.
    """

    class Params(PassParams):
        """Names are those of Olive's pass."""

        algorithm: Literal[
            "high_precision_lm_head",
            "high_precision_mlp_down",
            "high_precision_mlp_down_qkv",
            "snr",
            "snr_relative",
            "iqe",
            "iqe_relative",
            "kld_gradient",
        ] = Field(description="what gets more bits; k_quant_last, _down and _mixed are older names of the first three")
        bits: int | None = Field(None, description="of all other weights; 4, or 8")
        group_size: int | None = Field(None, description="group size of the quantizing pass, unless it has its own")
        sym: bool | None = Field(None, description="no zero points, unless the quantizing pass has its own say")
        high_bits: int = Field(8, description="of what is picked; 8")
        high_group_size: int | None = Field(None, description="as group_size")
        high_sym: bool | None = Field(None, description="as sym")
        ratio: float | None = Field(None, description="share of the weights that keep few bits; scored algorithms")
        kld_memory_mode: Literal["auto", "full", "multi_gpu", "low_memory", "offload"] = Field(
            "auto", description="changes nothing: one layer at a time is measured"
        )
        moe: bool = Field(False, description="experts; false")

        @model_validator(mode="before")
        @classmethod
        def _newer_names(cls, values: Any) -> Any:
            if not isinstance(values, Mapping):
                return values
            algorithm = values.get("algorithm")
            return {**values, "algorithm": eight_bits.OLDER.get(algorithm, algorithm)} if algorithm else values

    aliases: ClassVar[tuple[str, ...]] = ("SelectiveMixedPrecision",)
    example: ClassVar[Mapping[str, Any]] = {"algorithm": "k_quant_mixed"}
    accepts: ClassVar[frozenset[str]] = frozenset({"hf"})
    produces: ClassVar[str] = UNCHANGED
    libraries: ClassVar[tuple[str, ...]] = ()
    modules: ClassVar[Mapping[str, str]] = {}
    params: Params

    def keeps_in_8_bits(self) -> Mapping[str, Any]:
        """Its params: the algorithm, the share that keeps few bits, and what the other weights get."""
        return self.params.model_dump()

    def check(self, facts: ModelFacts, machine: Machine, data: Mapping[str, DataConfig]) -> Iterator[Problem]:  # noqa: ARG002
        """What no quantizing pass after it could do."""
        params = self.params
        scored = params.algorithm in eight_bits.BY_SCORE
        if scored and not (params.ratio and 0 < params.ratio < 1):
            message = f"the algorithm '{params.algorithm}' needs a ratio between 0 and 1, but got {params.ratio}."
            yield Problem("invalid-value", self.name, message, "0.9 puts a tenth of the weights in 8 bits.", ("ratio",))
        if params.bits not in (None, *BITS):
            message = f"bits {params.bits} is not among what weights are stored in."
            yield Problem("unsupported", self.name, message, "Use 4 or 8.", ("bits",))
        if params.high_bits != HIGH_BITS:
            message = f"high_bits {params.high_bits} is not done."
            fix = "Use 8; what must stay float goes under modules_to_not_convert of the quantizing pass."
            yield Problem("unsupported", self.name, message, fix, ("high_bits",))
        for key in ("group_size", "high_group_size"):
            size = getattr(params, key)
            if size not in (None, WHOLE_ROW, *GROUPS):
                message = f"{key} {size} is not among 16, 32, 64, 128 and 256."
                yield Problem("unsupported", self.name, message, "Name one of these, or leave it out.", (key,))
        for key, usual in (("high_group_size", params.group_size), ("high_sym", params.sym)):
            if getattr(params, key) not in (None, usual):
                message = f"{key} differs from that of the other weights, which is not done."
                fix = "Remove it, or name modules under 'overrides'."
                yield Problem("unsupported", self.name, message, fix, (key,))
        if params.moe:
            message = "moe: true asks for experts in 8 bits, which is not done."
            yield Problem("unsupported", self.name, message, "Remove it.", ("moe",))

    def run(self, model: Model, context: Context) -> Model:
        """Tell how many weights get 8 bits, or by which share the pass after it chooses them."""
        params = self.params
        share = eight_bits.share(params.model_dump())
        if share:
            context.report.warn(
                f"'{params.algorithm}' becomes int8_share {share:g} of the quantizing pass: weights are ranked by the "
                "error that 4 bits make in their outputs"
            )
            context.report.record(int8_share=share)
        else:
            from olivine.calibration.decoder import linear_weights

            chosen = eight_bits.in_8_bits(params.algorithm, list(linear_weights(model, head=True)))
            context.report.record(n_in_8_bits=len(chosen), in_8_bits=sorted(chosen))
        return model
