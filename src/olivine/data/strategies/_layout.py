"""Samples as places in the tokens of rows: nothing is copied before a sample is read."""

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple, Protocol

from olivine import lazy
from olivine.data._store import TokenStore

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Integers = npt.NDArray[np.int64]
    Flags = npt.NDArray[np.bool_]
else:
    np = lazy.module("numpy")


class Block(NamedTuple):
    """Tokens of one sample: ids int32 [tokens], and which of them are trained on, bool [tokens]."""

    ids: "npt.NDArray[np.int32]"
    trained: "Flags"


class Layout(Protocol):
    """The samples of a strategy, in order. Each property has a value for each sample.

    lengths: tokens. n_trained: tokens that enter the loss; the first token of a sample never does, as nothing
    predicts it. is_truncated: whether tokens were cut off. is_lost: whether the cut took all that was to be trained.
    """

    @property
    def lengths(self) -> "Integers": ...
    @property
    def n_trained(self) -> "Integers": ...
    @property
    def is_truncated(self) -> "Flags": ...
    @property
    def is_lost(self) -> "Flags": ...
    def read(self, index: int) -> Block: ...


@dataclass(frozen=True)
class Source:
    """What a strategy lays out: some rows of a store, none of them empty.

    rows: their indices, int64. joiner: ids between two of them. everything: train on all tokens, whatever is marked.
    cut_last: how many tokens at the end of the last row are left out (a joiner that was tokenised with its text).
    """

    store: TokenStore
    rows: "Integers"
    joiner: tuple[int, ...] = ()
    everything: bool = False
    cut_last: int = 0

    @cached_property
    def starts(self) -> "Integers":
        """Where each row begins among the store's ids."""
        return self.store.starts(self.rows)

    @cached_property
    def lengths(self) -> "Integers":
        """Tokens of each row."""
        lengths = self.store.lengths(self.rows)
        if self.cut_last and len(lengths):
            lengths[-1] -= self.cut_last
        return lengths

    def trained_within(self, starts: "Integers", stops: "Integers") -> "Integers":
        """Trained tokens of each range of the store's ids, in any order."""
        if self.everything:
            widths: Integers = np.maximum(stops - starts, 0)
            return widths
        order = np.argsort(starts, kind="stable")
        counts = np.empty(len(starts), np.int64)
        counts[order] = self.store.count_trained(starts[order], stops[order])
        return counts

    def read(self, start: int, stop: int) -> Block:
        """A range of the store's ids."""
        ids = np.asarray(self.store.ids[start:stop])
        if self.everything or self.store.trained is None:
            return Block(ids, np.ones(len(ids), bool))
        return Block(ids, np.asarray(self.store.trained[start:stop]).astype(bool))


@dataclass(frozen=True)
class RowLayout:
    """A sample a row: its first `limit` tokens."""

    source: Source
    limit: int

    @property
    def rows(self) -> "Integers":
        """The row of the store that each sample is made of."""
        return self.source.rows

    @cached_property
    def lengths(self) -> "Integers":
        """See Layout."""
        return np.minimum(self.source.lengths, self.limit)

    @cached_property
    def n_trained(self) -> "Integers":
        """See Layout."""
        starts = self.source.starts
        return self.source.trained_within(starts + 1, starts + self.lengths)

    @property
    def is_truncated(self) -> "Flags":
        """See Layout."""
        return self.source.lengths > self.limit

    @cached_property
    def is_lost(self) -> "Flags":
        """See Layout."""
        had = self.source.trained_within(self.source.starts + 1, self.source.starts + self.source.lengths)
        lost: Flags = (self.n_trained == 0) & (had > 0)
        return lost

    def read(self, index: int) -> Block:
        """See Layout."""
        start = int(self.source.starts[index])
        return self.source.read(start, start + int(self.lengths[index]))


@dataclass(frozen=True)
class StreamLayout:
    """Blocks of the stream of all rows with the joiner between them; the first `n_masked` tokens are read only.

    begins: where each block begins in the stream. The last rows of the stream may make a block shorter than `length`.
    """

    source: Source
    begins: "Integers"
    length: int
    n_masked: "Integers | None" = None

    @cached_property
    def row_starts(self) -> "Integers":
        """Where each row begins in the stream."""
        return stream_starts(self.source)

    @cached_property
    def n_tokens(self) -> int:
        """Tokens of the stream."""
        return stream_length(self.source)

    @cached_property
    def lengths(self) -> "Integers":
        """See Layout."""
        return np.minimum(self.length, self.n_tokens - self.begins)

    @cached_property
    def n_trained(self) -> "Integers":
        """See Layout."""
        masked = 1 if self.n_masked is None else np.maximum(1, self.n_masked)
        starts, stops = self.begins + masked, np.maximum(self.begins + self.lengths, self.begins + masked)
        if self.source.everything or self.source.store.trained is None:
            widths: Integers = stops - starts
            return widths
        return self._trained_before(stops) - self._trained_before(starts)

    @property
    def is_truncated(self) -> "Flags":
        """No block is: what one lacks stands in the next."""
        return np.zeros(len(self.begins), bool)

    @property
    def is_lost(self) -> "Flags":
        """See Layout."""
        return np.zeros(len(self.begins), bool)

    def read(self, index: int) -> Block:
        """See Layout."""
        begin = int(self.begins[index])
        block = self._read(begin, begin + int(self.lengths[index]))
        if self.n_masked is not None:
            block.trained[: int(self.n_masked[index])] = False
        return block

    def _read(self, begin: int, end: int) -> Block:
        source, pieces = self.source, []
        joiner = Block(np.asarray(source.joiner, np.int32), np.full(len(source.joiner), self._trains_joiner))
        row = int(np.searchsorted(self.row_starts, begin, side="right")) - 1
        while row < len(source.rows) and self.row_starts[row] < end:
            start, first, n_tokens = int(self.row_starts[row]), int(source.starts[row]), int(source.lengths[row])
            low, high = max(begin - start, 0), min(end - start, n_tokens + len(source.joiner))
            if low < n_tokens:
                pieces.append(source.read(first + low, first + min(high, n_tokens)))
            if high > n_tokens:
                after = slice(max(low - n_tokens, 0), high - n_tokens)
                pieces.append(Block(joiner.ids[after], joiner.trained[after]))
            row += 1
        return Block(*(np.concatenate(list(values)) for values in zip(*pieces, strict=True)))

    @property
    def _trains_joiner(self) -> bool:
        return self.source.everything or self.source.store.trained is None

    def _trained_before(self, places: "Integers") -> "Integers":
        """Trained tokens of the stream before each place."""
        source = self.source
        every = source.trained_within(source.starts, source.starts + source.lengths)
        before_row = np.concatenate([[0], np.cumsum(every)])
        row = np.searchsorted(self.row_starts, places, side="right") - 1
        within = np.minimum(places - self.row_starts[row], source.lengths[row])
        return before_row[row] + source.trained_within(source.starts[row], source.starts[row] + within)


def stream_starts(source: Source) -> "Integers":
    """Where each row begins in the stream of all rows with the joiner between them."""
    steps = source.lengths + len(source.joiner)
    return np.cumsum(steps) - steps


def stream_length(source: Source) -> int:
    """Tokens of that stream."""
    return int(source.lengths.sum()) + len(source.joiner) * (len(source.rows) - 1)
