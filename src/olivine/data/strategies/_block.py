"""What a strategy makes, and how long it may be."""

from array import array
from typing import NamedTuple

from olivine.config.schema import PreProcess


class Block(NamedTuple):
    """Token ids of one sample; the first `n_masked` of them are read, but not trained on."""

    ids: "array[int]"
    n_masked: int = 0
    is_truncated: bool = False

    @property
    def n_trained(self) -> int:
        """Tokens that enter the loss: the first token of a sample never does, as nothing predicts it."""
        return max(0, len(self.ids) - max(1, self.n_masked))


def longest(settings: PreProcess) -> int:
    """Tokens that a sample holds at most."""
    if settings.strategy == "pair" and (settings.source_max_len or settings.target_max_len):
        return (settings.source_max_len or settings.max_seq_len) + (settings.target_max_len or settings.max_seq_len)
    return settings.max_seq_len
