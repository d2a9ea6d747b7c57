"""`line-by-line`: a sample a row, cut to the maximum length."""

from typing import ClassVar

from olivine.config.schema import PreProcess
from olivine.data.strategies._base import Strategy
from olivine.data.strategies._layout import Layout, RowLayout, Source


class LineByLine(Strategy):
    """A sample a row, cut to the maximum length."""

    aliases: ClassVar[tuple[str, ...]] = ("line-by-line",)

    def layout(self, source: Source, settings: PreProcess) -> Layout:
        """One sample for each row, in order; one that was cut lacks its end token."""
        return RowLayout(source, settings.max_seq_len)
