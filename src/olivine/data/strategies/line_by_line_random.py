"""`line-by-line-random`: `max_samples` rows drawn with replacement."""

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar

from olivine import lazy
from olivine.config.schema import PreProcess
from olivine.data._random import Draw
from olivine.data.strategies._base import Strategy, needs_number
from olivine.data.strategies._layout import Layout, RowLayout, Source

if TYPE_CHECKING:
    import numpy as np
else:
    np = lazy.module("numpy")


class LineByLineRandom(Strategy):
    """`max_samples` rows drawn with replacement."""

    aliases: ClassVar[tuple[str, ...]] = ("line-by-line-random",)

    @classmethod
    def check(cls, settings: PreProcess) -> Iterator[tuple[str, str]]:
        """The number of samples has to be said."""
        yield from needs_number(settings)

    def layout(self, source: Source, settings: PreProcess) -> Layout:
        """The samples of `line-by-line` in the order of `random_seed`.

        With `drop_short_sequences` a short one is drawn again, up to `random_retries` times.
        """
        is_full = source.lengths >= settings.max_seq_len
        draw, drawn = Draw(settings.random_seed), []
        for _ in range(settings.max_samples or 0):
            row = draw.below(len(source.rows))
            for _ in range(settings.random_retries if settings.drop_short_sequences else 0):
                if is_full[row]:
                    break
                row = draw.below(len(source.rows))
            drawn.append(row)
        rows = source.rows[np.asarray(drawn, np.int64)]
        return RowLayout(replace(source, rows=rows), settings.max_seq_len)
