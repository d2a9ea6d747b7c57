"""The decoder of a model as transformers builds it: its list of layers, and the linear layers that are quantized."""

import copy
from typing import TYPE_CHECKING, Any

from olivine import lazy
from olivine.errors import Unsupported
from olivine.models import Model
from olivine.models.config import load_config

if TYPE_CHECKING:
    import torch
else:
    torch = lazy.module("torch")

HEAD = "lm_head.weight"


def skeleton(model: Model, dtype: str = "float32") -> Any:
    """The model as a transformers module on the meta device: no weights yet, and plain linear layers only."""
    from transformers import AutoModelForCausalLM

    config = load_config(model.path, trust_remote_code=model.trust_remote_code)
    with torch.device("meta"):
        empty = AutoModelForCausalLM.from_config(
            config, dtype=getattr(torch, dtype), trust_remote_code=model.trust_remote_code
        )
    return empty.eval()


def decoder_layers(module: Any) -> tuple[Any, Any, str]:
    """The decoder of a causal language model, its list of layers, and the list's name in the checkpoint.

    Raises Unsupported when no child of the decoder is a list of layers.
    """
    decoder = module.base_model
    for name, child in decoder.named_children():
        if isinstance(child, torch.nn.ModuleList) and len(child):
            return decoder, child, f"{module.base_model_prefix}.{name}"
    raise Unsupported(f"{type(module).__name__} cannot be calibrated: it has no list of decoder layers")


def linear_weights(model: Model, *, head: bool = False) -> dict[str, int]:
    """What can be quantized: the weights of the decoder's linear layers by name, with the width of their input."""
    module = skeleton(model)
    _, layers, prefix = decoder_layers(module)
    widths = {
        f"{prefix}.{name}.weight": layer.in_features
        for name, layer in layers.named_modules()
        if isinstance(layer, torch.nn.Linear)
    }
    return widths | ({HEAD: module.get_output_embeddings().in_features} if head else {})


def is_norm(module: Any) -> bool:
    """Whether the module normalises the hidden states and scales them by a vector."""
    weight = getattr(module, "weight", None)
    return type(module).__name__.endswith("Norm") and weight is not None and weight.dim() == 1


def norm_offset(norm: Any) -> float:
    """What a norm adds to its weight (Gemma: 1), told by its result with a weight of zero; it may be empty."""
    bare = copy.deepcopy(norm).to_empty(device="cpu")
    for parameter in bare.parameters():
        parameter.data = torch.zeros_like(parameter, dtype=torch.float32)
    with torch.inference_mode():
        output = bare(torch.linspace(-1.0, 1.0, len(bare.weight))[None])
    return 1.0 if float(output.abs().max()) > 0 else 0.0
