"""Which rows a graph may read in one pass, so that each gets the numbers that it gets alone.

What stands after a row means nothing to it: attention, windows and states only look back. So rows may be padded at
their end. They may not where the graph looks at the length of the whole (a rope with two tables), and no two rows may
stand together where activations are rounded over all of them at once.
"""

from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence
from enum import IntEnum
from typing import Any


class Together(IntEnum):
    """How rows may stand beside each other; each kind may do what the kinds before it may."""

    ALONE = 0
    EQUAL_LENGTHS = 1
    PADDED = 2


def reads_together(operators: Collection[str]) -> Together:
    """What one pass of a graph over whole rows allows. operators: of the graph."""
    if any(operator.startswith("DynamicQuantize") for operator in operators):
        return Together.ALONE
    return Together.EQUAL_LENGTHS if "If" in operators else Together.PADDED


def writes_together(operators: Collection[str], provider: str, decoder: Mapping[str, Any]) -> Together:
    """What onnxruntime-genai allows where it goes on after rows: there padding would stay in caches and states.

    A cache of GroupQueryAttention is told how long each row is, and the padding in it is written over. Padding is for
    the CPU, as the kernels of others take it otherwise; others than the CPU and CUDA are not tried at all.
    decoder: of genai_config.json.
    """
    if provider not in ("CPUExecutionProvider", "CUDAExecutionProvider"):
        return Together.ALONE
    states = {name for name in decoder["inputs"] if name.startswith("past_")} - {"past_key_names", "past_value_names"}
    attentions = {operator for operator in operators if "Attention" in operator}
    is_plain = attentions == {"GroupQueryAttention"} and not states and not decoder.get("sliding_window")
    most = Together.PADDED if is_plain and provider == "CPUExecutionProvider" else Together.EQUAL_LENGTHS
    return min(reads_together(operators), most)


def groups(lengths: Sequence[int], together: Together, alone: Callable[[int], bool]) -> Iterable[list[int]]:
    """Indices of rows that stand together, by their lengths; alone: whether the row of an index must."""
    kept: dict[Hashable, list[int]] = {}
    for index, length in enumerate(lengths):
        if together is Together.ALONE or alone(index):
            key: Hashable = ("alone", index)
        else:
            key = length if together is Together.EQUAL_LENGTHS else "padded"
        kept.setdefault(key, []).append(index)
    return kept.values()
