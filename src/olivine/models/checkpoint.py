"""The tensors of a Hugging Face folder by the names of the plain model, whether they are packed or not."""

from dataclasses import replace
from pathlib import Path

from olivine.models.quantized import checkpoint_format, unpacked
from olivine.models.tensors import Weights, safetensors_weights

# A checkpoint of the model without its head has names without the prefix.
_BARE, _PREFIX, _HEADS = "embed_tokens.weight", "model.", ("lm_head.", "model.")


def checkpoint_weights(folder: Path) -> Weights:
    """The tensors of a folder by the names of the plain model; what is stored quantized has `blockwise`.

    Raises Unsupported, with its name, for a way of quantizing that is not read.
    """
    kind = checkpoint_format(folder)
    return _full_names(unpacked(folder, kind, safetensors_weights(folder)))


def _full_names(tensors: Weights) -> Weights:
    """The tensors of a bare model (`AutoModel`) by the names that they have in the causal one, as transformers does."""
    if _BARE not in tensors or f"{_PREFIX}{_BARE}" in tensors:
        return tensors
    renamed = {name if name.startswith(_HEADS) else f"{_PREFIX}{name}": tensor for name, tensor in tensors.items()}
    return {name: replace(tensor, name=name) for name, tensor in renamed.items()}
