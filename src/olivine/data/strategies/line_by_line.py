"""`line-by-line`: a sample a row, cut to the maximum length."""

from olivine.config.schema import PreProcess
from olivine.data.strategies._layout import Layout, RowLayout, Source


def layout(source: Source, settings: PreProcess) -> Layout:
    """One sample for each row, in order; one that was cut lacks its end token."""
    return RowLayout(source, settings.max_seq_len)
