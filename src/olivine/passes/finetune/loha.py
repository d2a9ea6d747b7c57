"""LoHa: an update that is the elementwise product of two of low rank (Hyeon-Woo et al. 2021, arXiv:2108.06098)."""

from collections.abc import Mapping
from typing import Any, ClassVar

from olivine.passes.finetune._lycoris import Lycoris, settings
from olivine.passes.finetune._params import LycorisParams


class Loha(Lycoris):
    """Fine-tune with LoHa: the update of each layer is the elementwise product of two low-rank matrices.

    Its rank goes up to r squared with twice the parameters of LoRA. PEFT computes it: the whole update of a layer is
    written out for every product, which costs memory and time that LoRA does not need.
    """

    class Params(LycorisParams):
        """Names are those of Olive's LoHa pass."""

    aliases: ClassVar[tuple[str, ...]] = ("LoHa",)
    example: ClassVar[Mapping[str, Any]] = {"r": 8, "train_data_config": "rows", "eval_dataset_size": 0.2}
    factors: ClassVar[int] = 4
    params: Params

    def config(self, trained_modules: Mapping[str, Any]) -> Any:
        """PEFT's LoHaConfig with the params."""
        from peft import LoHaConfig

        return LoHaConfig(**settings(self.params), **trained_modules)
