"""`join-sliding-window`: blocks of the stream that overlap, each token trained once with more text before it."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, ClassVar

from olivine import lazy
from olivine.config.schema import PreProcess
from olivine.data.strategies._base import Strategy
from olivine.data.strategies._layout import Layout, Source, StreamLayout, stream_length

if TYPE_CHECKING:
    import numpy as np
else:
    np = lazy.module("numpy")


class JoinSlidingWindow(Strategy):
    """Blocks of the stream that overlap, each token trained once with more text before it."""

    aliases: ClassVar[tuple[str, ...]] = ("join-sliding-window",)
    joins: ClassVar[bool] = True

    @classmethod
    def check(cls, settings: PreProcess) -> Iterator[tuple[str, str]]:
        """The stride has to be said, and to leave nothing out."""
        stride, length = settings.stride, settings.max_seq_len
        if not 0 < (stride or 0) <= length:
            message = f"the strategy '{settings.strategy}' needs a 'stride' from 1 to 'max_seq_len' ({length}), but got"
            yield f"{message} {stride}.", f"Write stride: {max(1, length // 2)}, for example."

    def layout(self, source: Source, settings: PreProcess) -> Layout:
        """A block every `stride` tokens; what it shares with the one before is masked. The last one may be shorter."""
        stride = settings.stride or settings.max_seq_len
        overlap = settings.max_seq_len - stride
        begins = np.arange(0, max(1, stream_length(source) - overlap), stride)
        return StreamLayout(source, begins, settings.max_seq_len, np.where(begins > 0, overlap, 0))
