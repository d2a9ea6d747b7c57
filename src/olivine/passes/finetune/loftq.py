"""LoftQ: QLoRA that starts at what the 4 bits of the base have lost (Li et al. 2023, arXiv:2310.08659)."""

from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import Field

from olivine.passes.finetune.qlora import Qlora


class Loftq(Qlora):
    """Fine-tune with LoftQ: as QLoRA, starting close to the base in 16 bits instead of at its rounded form.

    The adapter begins at the best low-rank part of what rounding lost; `loftq_iter` above 1 rounds and decomposes by
    turns. Beside the adapter lies where it started, so that its merge into the base in 16 bits adds only what was
    learned. `olivine` merges it; other tools need the base in 4 bits as it was made here.
    """

    class Params(Qlora.Params):
        """Names are those of Olive's LoftQ pass; its magnitudes were kept in 32 bits."""

        init_lora_weights: bool | str = Field(
            "loftq", description="loftq, or pissa: round what is left of the weight without its largest directions"
        )
        double_quant: bool = Field(False, description="store the magnitudes of blocks in 8 bits as well")

    aliases: ClassVar[tuple[str, ...]] = ("LoftQ",)
    example: ClassVar[Mapping[str, Any]] = {"r": 16, "train_data_config": "rows", "eval_dataset_size": 0.2}
    is_usual_way: ClassVar[bool] = False
    params: Params
