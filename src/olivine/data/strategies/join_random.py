"""`join-random`: `max_samples` blocks, each from the start of a random row."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, ClassVar

from olivine import lazy
from olivine.config.schema import PreProcess
from olivine.data._random import Draw
from olivine.data.strategies._base import Strategy, needs_number
from olivine.data.strategies._layout import Layout, Source, StreamLayout, stream_length, stream_starts

if TYPE_CHECKING:
    import numpy as np
else:
    np = lazy.module("numpy")


class JoinRandom(Strategy):
    """`max_samples` blocks, each from the start of a random row."""

    aliases: ClassVar[tuple[str, ...]] = ("join-random",)
    joins: ClassVar[bool] = True

    @classmethod
    def check(cls, settings: PreProcess) -> Iterator[tuple[str, str]]:
        """The number of samples has to be said."""
        yield from needs_number(settings)

    def layout(self, source: Source, settings: PreProcess) -> Layout:
        """Blocks of the stream of `join`; one that begins near its end is shorter.

        With `drop_short_sequences` a short one is drawn again, up to `random_retries` times.
        """
        starts, n_tokens = stream_starts(source), stream_length(source)
        draw, begins = Draw(settings.random_seed), []
        for _ in range(settings.max_samples or 0):
            start = int(starts[draw.below(len(starts))])
            for _ in range(settings.random_retries if settings.drop_short_sequences else 0):
                if start + settings.max_seq_len <= n_tokens:
                    break
                start = int(starts[draw.below(len(starts))])
            begins.append(start)
        return StreamLayout(source, np.asarray(begins, np.int64), settings.max_seq_len)
