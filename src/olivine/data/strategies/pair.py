"""`pair`: a prompt and a target a row, each with a length of its own; only the target is trained on."""

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from olivine import lazy
from olivine.config.schema import PreProcess
from olivine.data.strategies._base import Strategy
from olivine.data.strategies._layout import Block, Layout, RowLayout, Source

if TYPE_CHECKING:
    import numpy as np

    from olivine.data.strategies._layout import Flags, Integers
else:
    np = lazy.module("numpy")


class PairStrategy(Strategy):
    """A prompt and a target a row, each with a length of its own; only the target is trained on."""

    @classmethod
    def longest(cls, settings: PreProcess) -> int:
        """Both lengths together, where one is said."""
        if settings.source_max_len is None and settings.target_max_len is None:
            return settings.max_seq_len
        return (settings.source_max_len or settings.max_seq_len) + (settings.target_max_len or settings.max_seq_len)

    def layout(self, source: Source, settings: PreProcess) -> Layout:
        """One sample for each row, in order.

        `source_max_len` and `target_max_len` cut the end of the prompt and of the target; without them, `max_seq_len`
        cuts the end of the whole. With `train_on: all` the prompt is trained on too.
        """
        n_source, n_target = settings.source_max_len, settings.target_max_len
        if n_source is None and n_target is None:
            return RowLayout(source, settings.max_seq_len)
        return _Pairs(source, n_source or settings.max_seq_len, n_target or settings.max_seq_len)


@dataclass(frozen=True)
class _Pairs:
    """The first `n_source` tokens of each prompt and the first `n_target` of its target."""

    source: Source
    n_source: int
    n_target: int

    @property
    def rows(self) -> "Integers":
        """The row of the store that each sample is made of."""
        return self.source.rows

    @cached_property
    def n_prompt(self) -> "Integers":
        """Tokens of each whole prompt."""
        starts = self.source.starts
        order = np.argsort(starts, kind="stable")
        before = np.empty(len(starts), np.int64)
        before[order] = self.source.store.first_trained(starts[order], (starts + self.source.lengths)[order])
        return before

    @cached_property
    def n_kept(self) -> "Integers":
        """Tokens of each prompt that are kept."""
        kept: Integers = np.minimum(self.n_prompt, self.n_source)
        return kept

    @cached_property
    def lengths(self) -> "Integers":
        """See Layout."""
        lengths: Integers = self.n_kept + np.minimum(self.source.lengths - self.n_prompt, self.n_target)
        return lengths

    @cached_property
    def n_trained(self) -> "Integers":
        """See Layout."""
        n_masked = 0 if self.source.everything else self.n_kept
        n_trained: Integers = np.maximum(0, self.lengths - np.maximum(1, n_masked))
        return n_trained

    @property
    def is_truncated(self) -> "Flags":
        """See Layout."""
        truncated: Flags = self.lengths < self.source.lengths
        return truncated

    @property
    def is_lost(self) -> "Flags":
        """None is: the target has a length of its own."""
        return np.zeros(len(self.lengths), bool)

    def read(self, index: int) -> Block:
        """See Layout."""
        start, n_kept, n_prompt = (int(v[index]) for v in (self.source.starts, self.n_kept, self.n_prompt))
        n_target = int(self.lengths[index]) - n_kept
        prompt = self.source.read(start, start + n_kept)
        target = self.source.read(start + n_prompt, start + n_prompt + n_target)
        return Block(np.concatenate([prompt.ids, target.ids]), np.concatenate([prompt.trained, target.trained]))
