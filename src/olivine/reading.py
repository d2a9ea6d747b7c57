"""How much of a model is read: told by code that is handed no Reporter, heard by who started it."""

from collections.abc import Callable

_readers: list[Callable[[int, int], None]] = []  # as loggers, of the process


def tell_reading(done_bytes: int, total_bytes: int) -> None:
    """So much of a model is read."""
    for hear in _readers:
        hear(done_bytes, total_bytes)


def hear_reading(hear: Callable[[int, int], None]) -> None:
    """Be told so from now on, in this process."""
    _readers.append(hear)
