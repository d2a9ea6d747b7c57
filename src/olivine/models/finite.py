"""Weights that are numbers: NaN and infinity in a checkpoint are told by the tensor's own name."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from olivine import lazy
from olivine.errors import ModelError
from olivine.models.tensors import Weights

if TYPE_CHECKING:
    import torch
else:
    torch = lazy.module("torch")


class NotFiniteError(ModelError):
    """Something that was computed of a model is NaN or infinite; it may know less than the tensor's name."""


def refuse_not_finite(tensors: "Iterable[tuple[str, torch.Tensor]]") -> None:
    """Raise NotFiniteError with the name of the first tensor that holds NaN or infinity."""
    for name, tensor in tensors:
        if tensor.is_floating_point() and not is_finite(tensor):
            raise NotFiniteError(f"the weight '{name}' holds NaN or infinity")


def explain(error: NotFiniteError, source: Weights) -> ModelError:
    """The error, or that of the tensor behind it: every weight is read for that, one at a time."""
    try:
        refuse_not_finite((name, tensor.read()) for name, tensor in source.items())
    except NotFiniteError as source_error:
        return source_error
    return error


def is_finite(tensor: "torch.Tensor") -> bool:
    """Whether no element is NaN or infinite; the sum tells in one pass, and only a huge one needs a second look."""
    return bool(torch.isfinite(tensor.sum(dtype=torch.float32))) or bool(torch.isfinite(tensor).all())
