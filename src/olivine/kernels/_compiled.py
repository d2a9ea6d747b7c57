"""How inner loops are compiled (by numba, on first use, into a cache beside the file), and what it may reorder.

Compiled loops release the interpreter's lock, so that tiles of rows run on all cores. A part is inlined where it is
called: a call would count the references of its arrays, which takes longer than the part.
"""

import logging
from collections.abc import Callable
from typing import Any, TypeVar

import numba
from numba.core import event

Loop = TypeVar("Loop", bound=Callable[..., Any])


class _FirstCompilation(event.Listener):
    """Says once that loops are compiled: those that are in the cache already are not."""

    _is_told = False

    def on_start(self, event: object) -> None:  # noqa: ARG002 - its signature
        if not self._is_told:
            self._is_told = True
            LOG.info("compiling loops for this processor, which later runs find done: up to a minute")

    def on_end(self, event: object) -> None:
        """Nothing is told of the end."""


LOG = logging.getLogger("olivine")
event.register("numba:compile", _FirstCompilation())  # type: ignore[no-untyped-call]


def _jit(*fastmath: str, inlined: bool = False) -> Callable[[Loop], Loop]:
    """Compile with these liberties in floating point (LLVM's names of them); division by zero gives inf or NaN."""
    options: dict[str, Any] = {"nogil": True, "forceinline": inlined, "fastmath": set(fastmath), "error_model": "numpy"}

    def decorate(function: Loop) -> Loop:
        try:
            compiled: Loop = numba.njit(cache=True, **options)(function)
        except RuntimeError:  # neither this folder nor the user's takes a cache: compiled anew in each process
            compiled = numba.njit(**options)(function)
        return compiled

    return decorate


# Sums in any order and fused multiply-adds, no NaN and no negative zero among the values: loops turn into vectors.
_FAST = ("nnan", "nsz", "contract", "arcp", "reassoc")
fast, fast_part = _jit(*_FAST), _jit(*_FAST, inlined=True)
# Products and sums rounded one by one, as written: where bytes must be those of ONNX Runtime or of torch.
exact, exact_part = _jit(), _jit(inlined=True)
# Minima and maxima are the same in any order, as long as no NaN is among them.
any_order_part = _jit("nnan", "nsz", inlined=True)
