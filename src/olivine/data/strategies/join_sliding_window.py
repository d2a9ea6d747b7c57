"""`join-sliding-window`: blocks of the stream that overlap, each token trained once with more text before it."""

from typing import TYPE_CHECKING

from olivine import lazy
from olivine.config.schema import PreProcess
from olivine.data.strategies._layout import Layout, Source, StreamLayout, stream_length

if TYPE_CHECKING:
    import numpy as np
else:
    np = lazy.module("numpy")


def layout(source: Source, settings: PreProcess) -> Layout:
    """A block every `stride` tokens; what it shares with the one before is masked. The last one may be shorter."""
    stride = settings.stride or settings.max_seq_len
    overlap = settings.max_seq_len - stride
    begins = np.arange(0, max(1, stream_length(source) - overlap), stride)
    return StreamLayout(source, begins, settings.max_seq_len, np.where(begins > 0, overlap, 0))
