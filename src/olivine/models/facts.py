"""What is known of a model before anything is loaded: from config.json or a GGUF header alone."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

UNNAMED = "unknown"  # the architecture of a config.json that names none


@dataclass(frozen=True)
class ModelFacts:
    """Shapes and sizes that checks and estimates need; the fields are those of transformers' configs.

    architecture: "LlamaForCausalLM" ... as in config.json. bytes_per_weight: of the checkpoint as it lies on disk.
    linear_modules: leaf names of the decoder's linear layers, e.g. ("q_proj", "k_proj", ...) or ("qkv_proj", ...).
    weight_bytes: size of the checkpoint's files; 0 when not known. path: where it lies, None when not local.
    shapes: of the checkpoint's tensors by name; empty where no header tells them by the names of transformers.
    config: the content of config.json, for what single passes ask of it; empty for a GGUF file.
    """

    architecture: str
    n_parameters: int
    hidden_size: int
    n_layers: int
    vocab_size: int
    intermediate_size: int = 0
    context_length: int = 0
    tied_embeddings: bool = False
    bytes_per_weight: float = 2.0
    weight_bytes: int = 0
    linear_modules: tuple[str, ...] = ()
    path: Path | None = None
    config: Mapping[str, Any] = field(default_factory=dict)
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    extra: dict[str, object] = field(default_factory=dict)
