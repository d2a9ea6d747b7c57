"""Weights by name, computed when read, of whatever kind the model is: a checkpoint, a GGUF file, a merged adapter.

`weights(model)` never loads a model. It only picks the reader; what the tensors are is told in `tensors`.
"""

from olivine.errors import ModelError, Unsupported
from olivine.models._model import Model
from olivine.models.adapter import merged_weights
from olivine.models.checkpoint import checkpoint_weights
from olivine.models.gguf_weights import gguf_weights
from olivine.models.tensors import Weights, read_ahead
from olivine.models.weight_files import safetensors_files


def weights(model: Model) -> Weights:
    """Every tensor of a checkpoint by its name in the Hugging Face state dict; nothing is read yet."""
    if model.format == "gguf":
        raise Unsupported(f"{model.path}: a GGUF file is read through the pass 'gguf', which knows its config")
    if model.format != "hf":
        raise Unsupported(f"a model of format {model.format} has no full weights by name")
    if model.base is None:
        return checkpoint_weights(model.path)
    if model.base.format == "gguf":
        return gguf_weights(model.base.path, model.path)
    if model.base.base is None:
        raise ModelError(f"the adapter {model.base.path} has no base model to merge into")
    into_trained_base = model.attributes.get("merge_base") != "16-bit"
    return merged_weights(model.base, weights(model.base.base), into_trained_base=into_trained_base)


def announce(model: Model, limit_bytes: int) -> None:
    """Let the system read the model's safetensors files into its cache while other work is done; returns at once.

    limit_bytes: no more than that, so that the cache holds it until it is read.
    """
    if model.base is not None:
        announce(model.base, limit_bytes)
        return
    for file in safetensors_files(model.path) if model.format == "hf" else []:
        n_bytes = min(file.stat().st_size, limit_bytes)
        limit_bytes -= n_bytes
        if n_bytes > 0:
            read_ahead(file, 0, n_bytes)
