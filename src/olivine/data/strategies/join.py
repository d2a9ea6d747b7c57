"""`join`: all rows in one stream, cut into blocks of the maximum length."""

from collections.abc import Iterator, Sequence

from olivine.config.schema import PreProcess
from olivine.data._encoder import Encoder
from olivine.data.strategies._block import Block


def blocks(texts: Sequence[str], settings: PreProcess, encoder: Encoder) -> Iterator[Block]:
    """Consecutive blocks that hold every token of the stream once; the last one may be shorter."""
    ids, _ = encoder.stream(texts, settings.joiner)
    for start in range(0, len(ids), settings.max_seq_len):
        yield Block(ids[start : start + settings.max_seq_len])
