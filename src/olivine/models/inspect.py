"""A model looked at from outside: facts and defects, from JSON files and headers alone."""

import contextlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from olivine import lazy
from olivine.absent import whole_size
from olivine.errors import ModelError, Problem, Unsupported
from olivine.models.checkpoint import checkpoint_weights
from olivine.models.companions import refuse_companions
from olivine.models.expected import refuse_unfit, ties_embeddings
from olivine.models.facts import UNNAMED, DecoderFacts, ModelFacts
from olivine.models.json_files import is_file, read_object
from olivine.models.kinds import describe
from olivine.models.quantized import checkpoint_format
from olivine.models.safetensors_header import Header, read_safetensors_header
from olivine.models.weight_files import ADAPTER_CONFIG, refuse_embedded_adapter, safetensors_files

if TYPE_CHECKING:
    from olivine.models import gguf_header
else:
    gguf_header = lazy.module("olivine.models.gguf_header")

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
PREPROCESSOR = "preprocessor_config.json"  # of sounds and images
TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "tekken.json")
PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt")
_LARGEST = 2**40
_FUSED = ("qkv_proj", "o_proj", "gate_up_proj", "down_proj")
_SPLIT = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def read_facts(path: Path) -> ModelFacts:
    """The facts of a Hugging Face folder or GGUF file; raises ModelError when it has no readable config or header."""
    facts = _gguf_facts(path) if path.is_file() else _folder_facts(path)
    if facts.decoder is not None and facts.decoder.context_length == 1:
        raise ModelError(f"{path} reads texts of 1 token, by the context in its config, and a row has two at least")
    return facts


def _folder_facts(folder: Path) -> ModelFacts:
    config = read_config(folder)
    architecture = _architecture(config)
    tensors, described = _shapes(folder), describe(config, architecture)
    decoder, n_parameters = None, 0
    if described.kind == "decoder":
        try:
            decoder = _decoder(config, architecture, tensors)
            n_parameters = _n_parameters(config, decoder)
        except (TypeError, ValueError, ArithmeticError) as error:
            raise ModelError(f"{folder / 'config.json'} has a size that is no number above 0: {error}") from None
    if tensors:
        n_parameters = sum(_product(shape) for shape in tensors.values())
    weight_bytes = sum(whole_size(file) for file in safetensors_files(folder)) if tensors else 0
    return ModelFacts(
        architecture=architecture,
        n_parameters=n_parameters,
        decoder=decoder,
        kind=described.kind,
        task=described.task,
        labels=described.labels,
        signature=described.signature,
        bytes_per_weight=weight_bytes / n_parameters if weight_bytes and n_parameters else 2.0,
        weight_bytes=weight_bytes,
        path=folder,
        shapes=tensors,
        config=config,
    )


def _architecture(config: Mapping[str, Any]) -> str:
    names = config.get("architectures")
    return str(names[0]) if isinstance(names, list) and names and names[0] else UNNAMED


def read_config(folder: Path) -> dict[str, Any]:
    """config.json of a folder; raises ModelError when it is missing or no JSON object."""
    path = folder / "config.json"
    if not os.access(folder, os.X_OK):
        raise ModelError(f"{folder} cannot be read: the folder is not open to this user")
    if not is_file(path):
        if is_file(folder / ADAPTER_CONFIG):
            raise ModelError(f"{folder} is an adapter: name it as adapter_path, and its base as model_path")
        raise ModelError(f"{folder} is not a model folder: it has no config.json")
    return read_object(path)


def _count(config: Mapping[str, Any], key: str, default: int = 0, least: int = 1) -> int:
    """A size of the model; ValueError when it is given and no whole number, below `least` or beyond any model."""
    return _size(key, config[key], least) if key in config else default


def _size(key: str, value: Any, least: int) -> int:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not least <= value <= _LARGEST or value % 1:
        raise ValueError(f"{key} is {value!r:.40}")
    return int(value)


def _decoder(config: Mapping[str, Any], architecture: str, tensors: Mapping[str, tuple[int, ...]]) -> DecoderFacts:
    return DecoderFacts(
        hidden_size=_count(config, "hidden_size"),
        n_layers=_count(config, "num_hidden_layers"),
        vocab_size=_count(config, "vocab_size"),
        intermediate_size=_count(_without_defaults(config), "intermediate_size", least=0),
        context_length=_count(config, "max_position_embeddings", least=0),
        tied_embeddings=ties_embeddings(config, architecture),
        linear_modules=_linear_modules(tensors) or (_FUSED if architecture.startswith("Phi3") else _SPLIT),
    )


def _n_parameters(config: Mapping[str, Any], decoder: DecoderFacts) -> int:
    """Of a decoder of the usual form, where no header tells."""
    hidden, heads = decoder.hidden_size, _count(config, "num_attention_heads", 1)
    plain = _without_defaults(config)
    head = _count(plain, "head_dim", hidden // heads)
    kv_heads = _count(plain, "num_key_value_heads", heads)
    a_layer = hidden * head * (2 * heads + 2 * kv_heads) + 3 * hidden * decoder.intermediate_size + 2 * hidden
    embeddings = decoder.vocab_size * hidden * (1 if decoder.tied_embeddings else 2)
    return decoder.n_layers * a_layer + embeddings + hidden


def _without_defaults(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The config without its nulls: of some sizes (GPT-Neo's inner one) they are a default, of others damage."""
    return {key: value for key, value in config.items() if value is not None}


def _shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """Name -> shape of every tensor of the plain model, from the headers; empty when weights are missing or damaged.

    Of a quantized checkpoint that is not read, the tensors as they are stored.
    """
    try:
        headers = _weight_headers(folder)
    except ModelError:
        return {}
    with contextlib.suppress(ModelError, Unsupported):
        return {name: tensor.shape for name, tensor in checkpoint_weights(folder).items()}
    return {name: tuple(entry["shape"]) for header in headers for name, entry in header.items()}


def _weight_headers(folder: Path) -> list[Header]:
    """The headers of all weights of a folder; raises ModelError when the index or a file is missing or damaged."""
    headers = [_weight_header(file) for file in safetensors_files(folder)]
    if not any(headers):
        raise ModelError(f"{folder} has no weights: its safetensors files are empty")
    return headers


def _weight_header(file: Path) -> Header:
    try:
        return read_safetensors_header(file)
    except OSError as error:
        raise ModelError(f"{file} cannot be read: {error.strerror}") from None


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


def _gguf_header(path: Path) -> "gguf_header.GgufHeader":
    """The header of a GGUF file that holds a whole model; raises ModelError when it does not."""
    header = gguf_header.GgufHeader.read(path)
    n_parts = header.get("split.count", 1)
    if isinstance(n_parts, int) and n_parts > 1:
        raise ModelError(f"{path} is one of {n_parts} parts: join them with 'llama-gguf-split --merge' of llama.cpp")
    if not any(_product(tensor.shape) for tensor in header.tensors.values()):
        raise ModelError(f"{path} has no weights")
    return header


def _gguf_count(header: "gguf_header.GgufHeader", key: str) -> int:
    """A size of the model: the largest where the file has one for each layer."""
    value = header.get(f"{header.architecture}.{key}", 0)
    try:
        return _size(key, max(value) if isinstance(value, list) else value, 0)
    except (TypeError, ValueError):
        raise ModelError(f"{header.path} is damaged: its {key} is no number") from None


def _gguf_facts(path: Path) -> ModelFacts:
    header = _gguf_header(path)
    prefix = header.architecture
    n_parameters = sum(_product(tensor.shape) for tensor in header.tensors.values())
    decoder = DecoderFacts(
        hidden_size=_gguf_count(header, "embedding_length"),
        n_layers=_gguf_count(header, "block_count"),
        vocab_size=header.length("tokenizer.ggml.tokens"),
        intermediate_size=_gguf_count(header, "feed_forward_length"),
        context_length=_gguf_count(header, "context_length"),
        tied_embeddings="output.weight" not in header.tensors,
        linear_modules=_FUSED if prefix == "phi3" else _SPLIT,
    )
    return ModelFacts(
        architecture=GGUF_ARCHITECTURES.get(prefix, prefix),
        n_parameters=n_parameters,
        decoder=decoder,
        bytes_per_weight=path.stat().st_size / n_parameters,
        weight_bytes=path.stat().st_size,
        path=path,
    )


def check_checkpoint(path: Path) -> Iterator[Problem]:
    """What keeps a local model from being loaded: missing, pickled, truncated; nothing of the weights is read."""
    where = str(path)
    if path.is_file():
        yield from _raised(where, lambda: _gguf_facts(path))
        return
    if problems := list(_raised(where, lambda: read_config(path))):
        yield from problems
        return
    if _is_decoder(path) and not any((path / name).is_file() for name in TOKENIZERS):
        fix = "Copy the tokenizer's files of the model it was made from into the folder."
        yield Problem("missing-model", where, "the folder has no tokenizer.", fix)
    pickled = sorted(file.name for pattern in PICKLED for file in path.glob(pattern))
    has_weights = any(path.glob("*.safetensors"))
    if pickled and not has_weights:
        yield Problem("missing-model", where, f"the weights are pickled ('{pickled[0]}') and are not read.", CONVERT)
        return
    problems = [
        *_raised(where, lambda: refuse_embedded_adapter(path)),
        *_raised(where, lambda: checkpoint_format(path)),
        *_raised(where, lambda: _weight_headers(path)),
    ]
    yield from problems or _raised(where, lambda: _refuse_unfit(path))
    yield from _raised(where, lambda: refuse_companions(path, read_config(path)))


def _is_decoder(folder: Path) -> bool:
    config = read_config(folder)
    return describe(config, _architecture(config)).kind == "decoder"


def _refuse_unfit(folder: Path) -> None:
    """Raise ModelError or Unsupported when the weights cannot be read or are not those that the config asks for."""
    shapes = {name: tensor.shape for name, tensor in checkpoint_weights(folder).items()}
    refuse_unfit(folder, shapes, read_config(folder))


CONVERT = (
    'If you trust them, convert them: python -c "from transformers import AutoModelForCausalLM as M; '
    "M.from_pretrained('FOLDER').save_pretrained('NEW_FOLDER')\"."
)


def _raised(where: str, action: Any) -> Iterator[Problem]:
    try:
        action()
    except (ModelError, Unsupported) as error:
        message = str(error)
        for prefix in (f"{where} ", f"{where}: ", f"{where}{os.sep}"):  # the place is told once
            message = message.removeprefix(prefix)
        yield Problem(error.kind, where, message)
