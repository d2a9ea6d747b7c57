"""What surrounds onnxruntime-genai's model builder: our weights in, a complete and checked folder out."""

import contextlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from olivine import lazy
from olivine.errors import ModelError, Unsupported
from olivine.models import Model
from olivine.models.loading import load_causal_lm, load_tokenizer

if TYPE_CHECKING:
    import numpy as np
    import onnx_ir
    import onnxruntime_genai
else:
    np, onnx_ir = lazy.module("numpy"), lazy.module("onnx_ir")
    onnxruntime_genai = lazy.module("onnxruntime_genai")


def build(model: Model, output: Path, scratch: Path, precision: str, provider: str, options: Mapping[str, str]) -> None:
    """Run the builder for `provider` ("cpu", "cuda", ...); its prints go wherever standard output goes."""
    from onnxruntime_genai.models import builder

    arguments = ("", str(model.path), str(output), precision, provider, str(scratch / "builder"))
    given = [f"{key}={value}" for key, value in options.items()]
    try:
        prepared = builder.parse_extra_options(*arguments, given)
        with _weights_from(model, builder.Model):
            builder.create_model(*arguments, **prepared)
    except NotImplementedError as error:
        raise Unsupported(f"the model builder does not know this model: {error}") from error


@contextlib.contextmanager
def _weights_from(model: Model, base: Any) -> Iterator[None]:
    """Let the builder take its weights from our loader, which computes what is not on disk.

    `load_weights` is the builder's own seam for other sources (GGUF, quantized checkpoints); it is replaced where the
    builder's base class defines it, and restored afterwards.
    """
    original = base.load_weights

    def load_weights(_builder: Any, _input_path: str) -> Any:
        return load_causal_lm(model, dtype="auto")

    base.load_weights = load_weights
    try:
        yield
    finally:
        base.load_weights = original


def complete_config(model: Model, folder: Path, max_length: int, search: Mapping[str, Any]) -> None:
    """Derive what the builder leaves to chance: the end tokens and a length that fits in memory."""
    path = folder / "genai_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    tokenizer = load_tokenizer(model)
    found = [*_as_list(config["model"].get("eos_token_id")), *end_tokens(tokenizer, model.path)]
    ends = list(dict.fromkeys(found))
    if ends:
        config["model"]["eos_token_id"] = ends if len(ends) > 1 else ends[0]
    if tokenizer.pad_token_id is not None:
        config["model"]["pad_token_id"] = tokenizer.pad_token_id
    config["search"]["max_length"] = min(max_length, config["model"]["context_length"])
    config["search"] |= search
    path.write_text(json.dumps(config, indent=4) + "\n", encoding="utf-8")


def end_tokens(tokenizer: Any, folder: Path) -> list[int]:
    """Every token that ends an answer: the tokenizer's, the generation config's, the end of a turn of the template."""
    tokens = _as_list(tokenizer.eos_token_id)
    generation = folder / "generation_config.json"
    if generation.is_file():
        tokens += _as_list(json.loads(generation.read_text(encoding="utf-8")).get("eos_token_id"))
    return list(dict.fromkeys(tokens + turn_end(tokenizer)))


def turn_end(tokenizer: Any) -> list[int]:
    """The special token that the chat template puts right after an assistant's words; empty without one."""
    if not tokenizer.chat_template:
        return []
    words = "olive oil"
    chat = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": words}]
    text = tokenizer.apply_chat_template(chat, tokenize=False)
    after = text.rpartition(words)[2]
    ids = tokenizer(after, add_special_tokens=False)["input_ids"]
    # A template that ends a turn with plain text (or nothing) has no turn end that generation could stop at.
    first = next((token for token in ids if tokenizer.decode([token]).strip()), None)
    if first is None or not (first in tokenizer.all_special_ids or _is_added(tokenizer, first)):
        return []
    return [first]


def _is_added(tokenizer: Any, token: int) -> bool:
    added = tokenizer.added_tokens_decoder.get(token)
    return added is not None and added.special


def _as_list(value: int | list[int] | None) -> list[int]:
    if value is None:
        return []
    return list(value) if isinstance(value, list) else [value]


def refuse_broken_scales(folder: Path) -> None:
    """Raise ModelError that names the first floating-point tensor of the graph with NaN or infinity in it."""
    for path in folder.glob("*.onnx"):
        graph = onnx_ir.load(path).graph
        for value in graph.initializers.values():
            tensor = value.const_value
            if (
                tensor is None
                or not tensor.dtype.is_floating_point()
                or value.name.endswith(("cos_cache", "sin_cache"))
            ):
                continue
            if not np.isfinite(tensor.numpy().astype(np.float32, copy=False)).all():
                raise ModelError(f"the weight '{value.name}' holds NaN or infinity, so the model cannot be built")


def check_folder(folder: Path) -> None:
    """Raise ModelError unless the folder is complete: config, tokenizer, graph, and every byte of data it refers to."""
    config = json.loads((folder / "genai_config.json").read_text(encoding="utf-8"))
    for name in ("tokenizer_config.json", config["model"]["decoder"]["filename"]):
        if not (folder / name).is_file():
            raise ModelError(f"the built folder lacks '{name}'")
    for value in onnx_ir.load(folder / config["model"]["decoder"]["filename"]).graph.initializers.values():
        tensor = value.const_value
        if isinstance(tensor, onnx_ir.ExternalTensor):
            _check_external(folder, tensor)


def _check_external(folder: Path, tensor: Any) -> None:
    data = folder / tensor.location
    if Path(tensor.location).is_absolute() or ".." in Path(tensor.location).parts:
        raise ModelError(f"tensor '{tensor.name}' refers to '{tensor.location}', outside of the folder")
    if not data.is_file() or data.stat().st_size < (tensor.offset or 0) + (tensor.length or 0):
        raise ModelError(f"tensor '{tensor.name}' refers to bytes that '{tensor.location}' does not hold")


def check_generates(folder: Path, execution_provider: str) -> None:
    """Load the folder in onnxruntime-genai and let it write one token; skipped for a provider that is not here."""
    if execution_provider != "CPUExecutionProvider" and not _provider_is_here(execution_provider):
        return
    model = onnxruntime_genai.Model(str(folder))
    params = onnxruntime_genai.GeneratorParams(model)
    config = json.loads((folder / "genai_config.json").read_text(encoding="utf-8"))
    params.set_search_options(max_length=2, do_sample=False)
    generator = onnxruntime_genai.Generator(model, params)
    generator.append_tokens(np.asarray([config["model"].get("bos_token_id") or 0], dtype=np.int32))
    generator.generate_next_token()


def _provider_is_here(execution_provider: str) -> bool:
    import onnxruntime

    return execution_provider in onnxruntime.get_available_providers()
