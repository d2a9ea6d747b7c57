"""`join`: all rows in one stream, cut into blocks of the maximum length."""

from typing import TYPE_CHECKING, ClassVar

from olivine import lazy
from olivine.config.schema import PreProcess
from olivine.data.strategies._base import Strategy

if TYPE_CHECKING:
    import numpy as np

    from olivine.data.strategies._layout import Layout, Source
else:
    np = lazy.module("numpy")


class Join(Strategy):
    """All rows in one stream, cut into blocks of the maximum length."""

    joins: ClassVar[bool] = True

    def layout(self, source: "Source", settings: PreProcess) -> "Layout":
        """Consecutive blocks that hold every token of the stream once; the last one may be shorter."""
        from olivine.data.strategies._layout import StreamLayout, stream_length

        begins = np.arange(0, stream_length(source), settings.max_seq_len)
        return StreamLayout(source, begins, settings.max_seq_len)
