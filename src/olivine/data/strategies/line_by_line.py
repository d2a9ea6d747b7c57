"""`line-by-line`: a sample a row, cut to the maximum length."""

from collections.abc import Iterator, Sequence

from olivine.config.schema import PreProcess
from olivine.data._encoder import Encoder
from olivine.data.strategies._block import Block


def blocks(texts: Sequence[str], settings: PreProcess, encoder: Encoder) -> Iterator[Block]:
    """One block for each text, in order; one that was cut lacks its end token."""
    limit = settings.max_seq_len
    for tokens in encoder.encode(texts):
        yield Block(tokens.ids[:limit], is_truncated=len(tokens.ids) > limit)
