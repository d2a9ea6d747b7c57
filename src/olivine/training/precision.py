"""The type that a model is held in while it trains."""

import json
from typing import TYPE_CHECKING

from olivine import lazy
from olivine.kernels.precision import cpu_computes_in_bf16
from olivine.models import Model
from olivine.work import Machine

if TYPE_CHECKING:
    import torch
else:
    torch = lazy.module("torch")

# From this many parameters on, matrix products dominate a step and bfloat16 pays (SmolLM2-135M: 1.7 s against 2.3 s).
BF16_FROM = 50_000_000


def choose_dtype(wish: str, model: Model, machine: Machine) -> str:
    """The name of a torch type: the wish, or for "auto" what the device computes fastest."""
    if wish != "auto":
        return wish
    if machine.device == "cuda":
        return "bfloat16" if torch.cuda.is_bf16_supported() else "float32"
    config = json.loads((model.path / "config.json").read_text(encoding="utf-8"))
    n_weights = 12 * config.get("num_hidden_layers", 0) * config.get("hidden_size", 0) ** 2
    return "bfloat16" if n_weights >= BF16_FROM and cpu_computes_in_bf16() else "float32"
