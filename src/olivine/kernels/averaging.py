"""One gradient for all ranks: each holds the trained parameters whole, computes on its own rows, and the mean is taken.

DistributedDataParallel hides its reductions behind the backward pass, in buckets. An adapter's gradient is a hundredth
of the base: there is nothing to hide, and one reduction a step needs no hooks in the backward pass, lets micro-batches
and repeated steps alone, and works beside a base that is sharded.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import distributed

BUCKET_BYTES = 256 * 2**20  # what is copied together: many small reductions wait for each other


class Averaged(torch.nn.Module):  # type: ignore[misc] # torch is not read by the type checker
    """A module whose trained parameters start alike on every rank; `average_gradients` keeps them alike.

    The trained parameters are copied from rank 0 when this is made. What every rank calls in the same order: its
    constructor and `average_gradients`.
    """

    def __init__(self, module: torch.nn.Module) -> None:
        super().__init__()
        self.module = module
        with torch.no_grad():
            for bucket in buckets([p.detach() for p in self._trained()]):
                flat = flattened(bucket)
                distributed.broadcast(flat, src=0)
                copy_back(flat, bucket)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the wrapped module gives."""
        return self.module(*args, **kwargs)

    def average_gradients(self) -> None:
        """Replace each gradient by its mean over the ranks; called once a step, by every rank.

        A rank without rows may have no gradient for a part of the model: there it is zero.
        """
        for parameter in self._trained():
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        with torch.no_grad():
            for bucket in buckets([p.grad for p in self._trained()]):
                flat = flattened(bucket)
                distributed.all_reduce(flat)  # the sum over the ranks
                copy_back(flat.div_(distributed.get_world_size()), bucket)

    def _trained(self) -> list[torch.nn.Parameter]:
        return [parameter for parameter in self.module.parameters() if parameter.requires_grad]


def buckets(tensors: Sequence[torch.Tensor], bucket_bytes: int = BUCKET_BYTES) -> Iterator[list[torch.Tensor]]:
    """Tensors of one type and device together, in an order that all ranks share.

    A bucket is full once its tensors have `bucket_bytes`; the last one of it may go beyond.
    """
    kinds = dict.fromkeys((tensor.dtype, tensor.device) for tensor in tensors)
    for kind in kinds:
        bucket: list[torch.Tensor] = []
        n_bytes = 0
        for tensor in tensors:
            if (tensor.dtype, tensor.device) != kind:
                continue
            bucket.append(tensor)
            n_bytes += tensor.numel() * tensor.element_size()
            if n_bytes >= bucket_bytes:
                yield bucket
                bucket, n_bytes = [], 0
        if bucket:
            yield bucket


def flattened(tensors: Sequence[torch.Tensor]) -> torch.Tensor:
    """All elements of all tensors, one after another: [n_elements]."""
    return torch.cat([tensor.flatten() for tensor in tensors])


def copy_back(flat: torch.Tensor, tensors: Sequence[torch.Tensor]) -> None:
    """Write the parts of `flattened(tensors)`, [n_elements], into the tensors that they came from."""
    parts = flat.split([tensor.numel() for tensor in tensors])
    torch._foreach_copy_(list(tensors), [part.view_as(to) for part, to in zip(parts, tensors, strict=True)])
