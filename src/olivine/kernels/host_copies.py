"""The inputs of recomputed layers wait in the machine's memory: all that a checkpointed layer keeps until it goes back.

A layer's input is copied away while the layer computes, and comes back while the layer above it goes back: both
directions travel beside the computation, on a stream of their own. On the device are one or two of them at a time.
"""

import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.checkpoint import checkpoint

_LEAST_BYTES = 2**20  # smaller tensors stay where they are


@dataclass(eq=False)
class _Kept:
    """A tensor in pinned memory. previous: the one that was kept before it, which is needed after it."""

    host: torch.Tensor
    device: torch.device
    previous: "weakref.ref[_Kept] | None"
    back: torch.Tensor | None = None
    is_there: torch.cuda.Event | None = None


@dataclass
class HostCopies:
    """Keeps inputs for all layers of one model; its pinned memory is used again in each step."""

    stream: Any = field(default_factory=torch.cuda.Stream)
    _free: dict[tuple[torch.Size, torch.dtype], list[torch.Tensor]] = field(default_factory=dict)
    _last: "weakref.ref[_Kept] | None" = None

    def checkpoint(self, function: Callable[..., Any], *args: Any) -> Any:
        """As torch's `checkpoint` (not reentrant), which keeps the arguments for the second run."""
        with saved_tensors_hooks(self._put, self._get):
            return checkpoint(function, *args, use_reentrant=False)

    @torch.no_grad()  # type: ignore[untyped-decorator] # torch is not read by the type checker
    def _put(self, tensor: torch.Tensor) -> "torch.Tensor | _Kept":
        if not tensor.is_cuda or tensor.nbytes < _LEAST_BYTES:
            return tensor
        host = self._buffer(tensor)
        self.stream.wait_stream(torch.cuda.current_stream(tensor.device))
        with torch.cuda.stream(self.stream):
            host.copy_(tensor, non_blocking=True)
        tensor.detach().record_stream(self.stream)
        kept = _Kept(host, tensor.device, self._last)
        self._last = weakref.ref(kept)
        return kept

    def _buffer(self, tensor: torch.Tensor) -> torch.Tensor:
        free = self._free.setdefault((tensor.shape, tensor.dtype), [])
        return free.pop() if free else torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)

    @torch.no_grad()  # type: ignore[untyped-decorator] # as above
    def _get(self, kept: "torch.Tensor | _Kept") -> torch.Tensor:
        if isinstance(kept, torch.Tensor):
            return kept
        back, is_there = self._bring(kept)
        torch.cuda.current_stream(kept.device).wait_event(is_there)
        self._free[kept.host.shape, kept.host.dtype].append(kept.host)  # written again on the same stream, after this
        self._last = kept.previous
        previous = kept.previous() if kept.previous is not None else None
        if previous is not None:
            self._bring(previous)
        kept.back = None
        return back

    def _bring(self, kept: _Kept) -> tuple[torch.Tensor, torch.cuda.Event]:
        """The tensor on its device, and when it will be there."""
        if kept.back is None or kept.is_there is None:
            kept.back = torch.empty_like(kept.host, device=kept.device)
            self.stream.wait_stream(torch.cuda.current_stream(kept.device))  # what used that memory before
            with torch.cuda.stream(self.stream):
                kept.back.copy_(kept.host, non_blocking=True)
            kept.is_there = self.stream.record_event()
        return kept.back, kept.is_there
