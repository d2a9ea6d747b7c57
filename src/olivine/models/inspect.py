"""A model looked at from outside: facts and defects, from JSON files and headers alone."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from olivine.errors import ModelError, Problem
from olivine.models.facts import ModelFacts
from olivine.models.gguf_header import GgufHeader
from olivine.models.weights import read_safetensors_header, safetensors_files

# llama.cpp's name of an architecture -> transformers'
GGUF_ARCHITECTURES = {
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "phi3": "Phi3ForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "gemma": "GemmaForCausalLM",
    "gemma2": "Gemma2ForCausalLM",
    "gemma3": "Gemma3ForCausalLM",
    "smollm3": "SmolLM3ForCausalLM",
}
TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "tekken.json")
PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt")
_FUSED = ("qkv_proj", "o_proj", "gate_up_proj", "down_proj")
_SPLIT = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def read_facts(path: Path) -> ModelFacts:
    """The facts of a Hugging Face folder or GGUF file; raises ModelError when it has no readable config or header."""
    return _gguf_facts(path) if path.is_file() else _folder_facts(path)


def _folder_facts(folder: Path) -> ModelFacts:
    config = read_config(folder)
    names = config.get("architectures")
    architecture = str(names[0]) if isinstance(names, list) and names else "unknown"
    tensors = _shapes(folder)
    try:
        facts = _from_config(config, architecture)
    except (TypeError, ValueError, ZeroDivisionError) as error:
        raise ModelError(f"{folder / 'config.json'} has a size that is no number above 0: {error}") from None
    n_parameters = sum(_product(shape) for shape in tensors.values()) if tensors else facts["n_parameters"]
    modules = _linear_modules(tensors) or (_FUSED if architecture.startswith("Phi3") else _SPLIT)
    weight_bytes = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    return ModelFacts(
        **{
            **facts,
            "n_parameters": n_parameters,
            "linear_modules": modules,
            "weight_bytes": weight_bytes,
            "bytes_per_weight": weight_bytes / n_parameters if weight_bytes and n_parameters else 2.0,
            "path": folder,
        }
    )


def read_config(folder: Path) -> dict[str, Any]:
    """config.json of a folder; raises ModelError when it is missing or no JSON object."""
    path = folder / "config.json"
    if not path.is_file():
        raise ModelError(f"{folder} is not a model folder: it has no config.json")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ModelError(f"{path} is not JSON: {error}") from None
    if not isinstance(config, dict):
        raise ModelError(f"{path} must hold an object")
    return config


def _from_config(config: Mapping[str, Any], architecture: str) -> dict[str, Any]:
    hidden, layers = int(config.get("hidden_size", 0)), int(config.get("num_hidden_layers", 0))
    heads = int(config.get("num_attention_heads", 1))
    head = int(config.get("head_dim") or (hidden // heads))
    kv_heads = int(config.get("num_key_value_heads") or heads)
    inner, vocab = int(config.get("intermediate_size", 0)), int(config.get("vocab_size", 0))
    tied = bool(config.get("tie_word_embeddings", True))
    a_layer = hidden * head * (2 * heads + 2 * kv_heads) + 3 * hidden * inner + 2 * hidden
    return {
        "architecture": architecture,
        "n_parameters": layers * a_layer + vocab * hidden * (1 if tied else 2) + hidden,
        "hidden_size": hidden,
        "n_layers": layers,
        "vocab_size": vocab,
        "intermediate_size": inner,
        "context_length": int(config.get("max_position_embeddings", 0)),
        "tied_embeddings": tied,
    }


def _shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """Name -> shape of every tensor, from the headers; empty when the weights are missing or damaged."""
    try:
        headers = [read_safetensors_header(file) for file in safetensors_files(folder)]
    except ModelError:
        return {}
    return {name: tuple(entry["shape"]) for header in headers for name, entry in header.items()}


def _linear_modules(tensors: Mapping[str, tuple[int, ...]]) -> tuple[str, ...]:
    names = [
        name.removesuffix(".weight").rpartition(".")[2]
        for name, shape in tensors.items()
        if ".layers." in name and name.endswith(".weight") and len(shape) == 2
    ]
    return tuple(dict.fromkeys(names))


def _product(shape: tuple[int, ...]) -> int:
    size = 1
    for width in shape:
        size *= width
    return size


def _gguf_facts(path: Path) -> ModelFacts:
    header = GgufHeader.read(path)
    prefix = header.architecture
    hidden, layers = int(header.get(f"{prefix}.embedding_length", 0)), int(header.get(f"{prefix}.block_count", 0))
    n_parameters = sum(_product(tensor.shape) for tensor in header.tensors.values())
    return ModelFacts(
        architecture=GGUF_ARCHITECTURES.get(prefix, prefix),
        n_parameters=n_parameters,
        hidden_size=hidden,
        n_layers=layers,
        vocab_size=header.length("tokenizer.ggml.tokens"),
        intermediate_size=int(header.get(f"{prefix}.feed_forward_length", 0)),
        context_length=int(header.get(f"{prefix}.context_length", 0)),
        tied_embeddings="output.weight" not in header.tensors,
        bytes_per_weight=path.stat().st_size / n_parameters,
        weight_bytes=path.stat().st_size,
        linear_modules=_FUSED if prefix == "phi3" else _SPLIT,
        path=path,
    )


def check_checkpoint(path: Path) -> Iterator[Problem]:
    """What keeps a local model from being loaded: missing, pickled, truncated; nothing of the weights is read."""
    where = str(path)
    if path.is_file():
        yield from _raised(where, lambda: GgufHeader.read(path))
        return
    if problems := list(_raised(where, lambda: read_config(path))):
        yield from problems
        return
    if not any((path / name).is_file() for name in TOKENIZERS):
        fix = "Copy the tokenizer's files of the model it was made from into the folder."
        yield Problem("missing-model", where, "the folder has no tokenizer.", fix)
    pickled = sorted(file.name for pattern in PICKLED for file in path.glob(pattern))
    has_weights = any(path.glob("*.safetensors"))
    if pickled and not has_weights:
        yield Problem("missing-model", where, f"the weights are pickled ('{pickled[0]}') and are not read.", CONVERT)
        return
    yield from _raised(where, lambda: [read_safetensors_header(file) for file in safetensors_files(path)])


CONVERT = (
    'If you trust them, convert them: python -c "from transformers import AutoModelForCausalLM as M; '
    "M.from_pretrained('FOLDER').save_pretrained('NEW_FOLDER')\"."
)


def _raised(where: str, action: Any) -> Iterator[Problem]:
    try:
        action()
    except ModelError as error:
        yield Problem("missing-model", where, str(error).removeprefix(f"{where} ").removeprefix(f"{where}: "))
