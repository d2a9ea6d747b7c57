"""`line-by-line-random`: `max_samples` rows drawn with replacement."""

from collections.abc import Iterator, Sequence

from olivine.config.schema import PreProcess
from olivine.data._encoder import Encoder
from olivine.data._random import Draw
from olivine.data.strategies import line_by_line
from olivine.data.strategies._block import Block


def blocks(texts: Sequence[str], settings: PreProcess, encoder: Encoder) -> Iterator[Block]:
    """The blocks of `line-by-line` in the order of `random_seed`.

    With `drop_short_sequences` a short one is drawn again, up to `random_retries` times.
    """
    every = list(line_by_line.blocks(texts, settings, encoder))
    draw = Draw(settings.random_seed)
    for _ in range(settings.max_samples or 0):
        block = every[draw.below(len(every))]
        for _ in range(settings.random_retries if settings.drop_short_sequences else 0):
            if len(block.ids) == settings.max_seq_len:
                break
            block = every[draw.below(len(every))]
        yield block
