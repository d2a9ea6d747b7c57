"""One gradient for all ranks: each holds the trained parameters whole, computes on its own rows, and the mean is taken.

DistributedDataParallel hides its reductions behind the backward pass, in buckets. An adapter's gradient is a hundredth
of the base: there is nothing to hide, and one reduction a step needs no hooks in the backward pass, lets micro-batches
and repeated steps alone, and works beside a base that is sharded.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import distributed

_BUCKET_BYTES = 256 * 2**20  # what is copied together: many small reductions wait for each other


class Averaged(torch.nn.Module):  # type: ignore[misc] # torch is not read by the type checker
    """A module whose trained parameters start alike on every rank; `average_gradients` keeps them alike.

    The parameters that are trained are taken from the rank 0 when this is made.
    """

    def __init__(self, module: torch.nn.Module) -> None:
        super().__init__()
        self.module = module
        with torch.no_grad():
            for some in _buckets([p.detach() for p in self._trained()]):
                flat = _flat(some)
                distributed.broadcast(flat, src=0)
                _put(flat, some)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """As the module."""
        return self.module(*args, **kwargs)

    def average_gradients(self) -> None:
        """Replace each gradient by its mean over the ranks; called once a step, by every rank.

        A rank without rows may have no gradient for a part of the model: there it is zero.
        """
        for parameter in self._trained():
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        with torch.no_grad():
            for some in _buckets([p.grad for p in self._trained()]):
                flat = _flat(some)
                distributed.all_reduce(flat)
                _put(flat.div_(distributed.get_world_size()), some)

    def _trained(self) -> list[torch.nn.Parameter]:
        return [parameter for parameter in self.module.parameters() if parameter.requires_grad]


def _buckets(tensors: Sequence[torch.Tensor]) -> Iterator[list[torch.Tensor]]:
    """Tensors of one type and device together, up to the size of a bucket, in an order that all ranks share."""
    kinds = dict.fromkeys((tensor.dtype, tensor.device) for tensor in tensors)
    for kind in kinds:
        bucket: list[torch.Tensor] = []
        n_bytes = 0
        for tensor in tensors:
            if (tensor.dtype, tensor.device) != kind:
                continue
            bucket.append(tensor)
            n_bytes += tensor.numel() * tensor.element_size()
            if n_bytes >= _BUCKET_BYTES:
                yield bucket
                bucket, n_bytes = [], 0
        if bucket:
            yield bucket


def _flat(tensors: Sequence[torch.Tensor]) -> torch.Tensor:
    return torch.cat([tensor.flatten() for tensor in tensors])


def _put(flat: torch.Tensor, tensors: Sequence[torch.Tensor]) -> None:
    """The parts of a flat tensor back to where they came from."""
    parts = flat.split([tensor.numel() for tensor in tensors])
    torch._foreach_copy_(list(tensors), [part.view_as(to) for part, to in zip(parts, tensors, strict=True)])
