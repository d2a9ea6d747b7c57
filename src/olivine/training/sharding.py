"""A frozen base in parts, one on each device (FSDP2, Zhao et al. 2023, arXiv:2304.11277).

Every decoder layer is a unit: it is gathered when its turn comes and dropped after it. The embedding, the last norm
and the head are gathered once for each micro-batch. What is trained stays whole on every device: it is small, and
checkpoints and the adapter are then the same files as on one device.
"""

import itertools
from typing import TYPE_CHECKING, Any

from packaging.version import Version

from olivine import lazy

if TYPE_CHECKING:
    import torch
else:
    torch = lazy.module("torch")


LEAST_TORCH = Version("2.7")  # the first whose fully_shard leaves parameters out


def shard_layer(layer: Any) -> None:
    """Leave this device its part of a filled decoder layer; called by every rank, in the same order."""
    from torch.distributed.fsdp import fully_shard

    fully_shard(layer, reshard_after_forward=True)


def shard_rest(model: Any) -> None:
    """Shard what is frozen outside of the layers, and let the model gather and drop its parts as it runs."""
    from torch.distributed.fsdp import fully_shard

    fully_shard(model, ignored_params={parameter for parameter in model.parameters() if parameter.requires_grad})
    layers = [module for module in model.modules() if hasattr(module, "unshard") and module is not model]
    for layer, following in itertools.pairwise(layers):  # gathered while the layer before it computes
        layer.set_modules_to_forward_prefetch([following])


def drop_gathered(model: Any) -> None:
    """Drop what an evaluation has left gathered; the next run of the model gathers it again, on every rank."""
    model.reshard()


def is_sharded(model: Any) -> bool:
    """Whether parts of the model lie on other devices."""
    return any(hasattr(parameter, "to_local") for parameter in model.parameters())


def bytes_here(parameter: "torch.Tensor") -> int:
    """What this device holds of a parameter."""
    local = parameter.to_local() if hasattr(parameter, "to_local") else parameter
    return int(local.numel() * local.element_size())


def gathered_bytes(model: Any) -> int:
    """What the device holds for a moment beside its parts: all that is outside of the layers, and two layers.

    While one layer computes, the next is gathered.
    """
    from transformers.modeling_layers import GradientCheckpointingLayer

    layers = [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]
    if not is_sharded(model) or not layers:
        return 0
    each = max(_whole_bytes(layer) for layer in layers)
    return _whole_bytes(model) - sum(_whole_bytes(layer) for layer in layers) + 2 * each


def _whole_bytes(module: Any) -> int:
    return sum(p.numel() * p.element_size() for p in module.parameters() if not p.requires_grad)
