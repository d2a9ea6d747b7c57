"""QLoRA: LoRA on a base whose weights are kept in 4 bits (Dettmers et al. 2023, arXiv:2305.14314)."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field

from olivine.config.schema import DataConfig
from olivine.errors import Problem
from olivine.models.facts import ModelFacts
from olivine.models.nf4 import BLOCK, BLOCKS, Rounding
from olivine.passes.finetune import _adapters
from olivine.passes.finetune.lora import Lora
from olivine.training.adapter_starts import Starts
from olivine.work import Estimate, Machine


class Qlora(Lora):
    """Fine-tune with QLoRA: as LoRA, with the decoder's linear layers of the base in 4 bits while it trains.

    1. Layers are packed as they are loaded: the base never is in memory in 16 bits. 2. Each product unpacks its weight,
    forwards and backwards, and forgets it. 3. The adapter remembers how its base was stored: it is scored on that base,
    and MergeAdapterWeights scores the merge into either base and takes the better.
    """

    class Params(Lora.Params):
        """Names are those of Olive's QLoRA and LoftQ passes."""

        quant_type: Literal["nf4", "fp4"] = Field(
            "nf4", description="the 16 values: of a normal distribution, or floats"
        )
        double_quant: bool = Field(True, description="store the magnitudes of blocks in 8 bits as well")
        compute_dtype: Literal["bfloat16", "float16", "float32"] | None = Field(
            None, description="what products are computed in; else torch_dtype's"
        )
        loftq_iter: int = Field(
            1, gt=0, description="turns of rounding and decomposing, where init_lora_weights is loftq"
        )
        save_quant_config: bool = Field(True, description="accepted; the adapter's record always says it")

    aliases: ClassVar[tuple[str, ...]] = ("QLoRA",)
    example: ClassVar[Mapping[str, Any]] = {"r": 16, "train_data_config": "rows", "eval_dataset_size": 0.2}
    is_usual_way: ClassVar[bool] = False
    params: Params

    def check(self, facts: ModelFacts, machine: Machine, data: Mapping[str, DataConfig]) -> Iterator[Problem]:
        """As LoRA's; a base in 4 bits is not spread over devices."""
        yield from super().check(facts, machine, data)
        if self.params.base_precision != "auto":
            message = f"base_precision '{self.params.base_precision}' is not that of a base in 4 bits."
            yield Problem("unsupported", self.name, message, "Remove it, or use LoRA.", ("base_precision",))
        if self.params.sharding != "none":
            message = "a base in 4 bits is not sharded: every device keeps all of it."
            yield Problem("unsupported", self.name, message, "Remove sharding, or use LoRA.", ("sharding",))

    def estimate(self, facts: ModelFacts, machine: Machine, data: Mapping[str, DataConfig]) -> Estimate:
        """LoRA's, with the weights of the layers in 4 bits and one of them unpacked."""
        size = 2 if machine.device == "cuda" else 4
        magnitude = (1 + 4 / BLOCKS) if self.params.double_quant else 4
        saved = int(facts.n_in_layers * (size - 0.5 - magnitude / BLOCK))
        dora = self.params.use_dora
        return _adapters.estimate(
            self.params,
            facts,
            machine,
            data,
            saved_bytes=saved,
            writes_update=dora,
            scales_outputs=dora,
            fused=self._fuses(facts),
        )

    @property
    def _rounding(self) -> Rounding:
        return Rounding(self.params.quant_type, self.params.double_quant)

    @property
    def _n_iterations(self) -> int:
        return self.params.loftq_iter

    def _stored_layer(self, starts: Starts | None = None) -> Callable[[str, Any], None]:
        from olivine.kernels.linear4bit import pack_layer

        def pack(name: str, layer: Any) -> None:
            pack_layer(layer, self._rounding, starts.take(name, layer) if starts is not None else None)

        return pack

    def _dtype(self, model: Any, machine: Machine) -> str:
        return self.params.compute_dtype or super()._dtype(model, machine)
