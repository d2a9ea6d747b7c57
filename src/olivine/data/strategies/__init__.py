"""How texts become samples; one strategy a module.

A strategy gives blocks; cutting, dropping, padding and counting that all of them share is done by `samples`.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence

from olivine.config.schema import PreProcess
from olivine.data._encoder import Encoder
from olivine.data.strategies import (
    join,
    join_random,
    join_sliding_window,
    line_by_line,
    line_by_line_random,
    pair,
)
from olivine.data.strategies._block import Block

Strategy = Callable[[Sequence[str], PreProcess, Encoder], Iterator[Block]]

STRATEGIES: Mapping[str, Strategy] = {
    "join": join.blocks,
    "join-random": join_random.blocks,
    "join-sliding-window": join_sliding_window.blocks,
    "line-by-line": line_by_line.blocks,
    "line-by-line-random": line_by_line_random.blocks,
    "pair": pair.blocks,
}

__all__ = ["STRATEGIES", "Block", "Strategy"]
