"""How rows become samples; one strategy a module.

A strategy lays samples out; cutting short, dropping, padding and counting that all of them share is done by `samples`.
"""

from collections.abc import Callable, Mapping

from olivine.config.schema import PreProcess
from olivine.data.strategies import (
    join,
    join_random,
    join_sliding_window,
    line_by_line,
    line_by_line_random,
    pair,
)
from olivine.data.strategies._layout import Block, Layout, Source, longest

Strategy = Callable[[Source, PreProcess], Layout]

STRATEGIES: Mapping[str, Strategy] = {
    "join": join.layout,
    "join-random": join_random.layout,
    "join-sliding-window": join_sliding_window.layout,
    "line-by-line": line_by_line.layout,
    "line-by-line-random": line_by_line_random.layout,
    "pair": pair.layout,
}

__all__ = ["STRATEGIES", "Block", "Layout", "Source", "Strategy", "longest"]
