"""Learning rates that differ between the parts of an adapter."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class LoraPlus:
    """LoRA+ (Hayou et al. 2024, arXiv:2402.12354): B learns `ratio` times as fast as A, adapted embeddings at a rate of
    their own. Magnitudes of DoRA and biases go with B, as in PEFT.
    """  # noqa: D205 - the names of the fields stand where they are explained

    ratio: float
    embedding: float

    def optimizer(self, model: Any, kind: type[Any], named: Mapping[str, Any], weight_decay: float) -> Any:
        """An optimizer of that class over the model's trained parameters in groups; named: its other arguments."""
        from peft.optimizers import create_loraplus_optimizer

        return create_loraplus_optimizer(
            model,
            kind,
            loraplus_lr_ratio=self.ratio,
            loraplus_lr_embedding=self.embedding,
            loraplus_weight_decay=weight_decay,
            **named,
        )
