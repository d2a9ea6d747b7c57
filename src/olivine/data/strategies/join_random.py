"""`join-random`: `max_samples` blocks, each from the start of a random row."""

from collections.abc import Iterator, Sequence

from olivine.config.schema import PreProcess
from olivine.data._encoder import Encoder
from olivine.data._random import Draw
from olivine.data.strategies._block import Block


def blocks(texts: Sequence[str], settings: PreProcess, encoder: Encoder) -> Iterator[Block]:
    """Blocks of the stream of `join`; one that begins near its end is shorter.

    With `drop_short_sequences` a short one is drawn again, up to `random_retries` times.
    """
    ids, starts = encoder.stream(texts, settings.joiner)
    draw = Draw(settings.random_seed)
    for _ in range(settings.max_samples or 0):
        start = starts[draw.below(len(starts))]
        for _ in range(settings.random_retries if settings.drop_short_sequences else 0):
            if start + settings.max_seq_len <= len(ids):
                break
            start = starts[draw.below(len(starts))]
        yield Block(ids[start : start + settings.max_seq_len])
