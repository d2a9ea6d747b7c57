"""`join-sliding-window`: blocks of the stream that overlap, each token trained once with more text before it."""

from collections.abc import Iterator, Sequence

from olivine.config.schema import PreProcess
from olivine.data._encoder import Encoder
from olivine.data.strategies._block import Block


def blocks(texts: Sequence[str], settings: PreProcess, encoder: Encoder) -> Iterator[Block]:
    """A block every `stride` tokens; what it shares with the one before is masked. The last one may be shorter."""
    ids, _ = encoder.stream(texts, settings.joiner)
    stride = settings.stride or settings.max_seq_len
    overlap = settings.max_seq_len - stride
    for start in range(0, max(1, len(ids) - overlap), stride):
        yield Block(ids[start : start + settings.max_seq_len], n_masked=overlap if start else 0)
