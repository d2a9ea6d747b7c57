"""From a path to a model that can be run, and what it weighs."""

import json
from dataclasses import replace
from pathlib import Path

from olivine import paths
from olivine.errors import ModelError
from olivine.evaluate import _graph
from olivine.models import Model
from olivine.models.gguf import readable
from olivine.models.inspect import check_checkpoint, read_facts

# genai_config.json's name of a provider -> onnxruntime's
PROVIDERS = {
    "cuda": "CUDAExecutionProvider",
    "dml": "DmlExecutionProvider",
    "webgpu": "WebGpuExecutionProvider",
    "NvTensorRtRtx": "NvTensorRTRTXExecutionProvider",
}


def open_model(path: Path, base: Path | None = None) -> Model:
    """The model at `path`: a Hugging Face folder, an adapter folder, an ONNX folder or a GGUF file.

    base: what an adapter adapts; without it, the local folder that the adapter's record names. Raises ModelError that
    says what is missing.
    """
    path = paths.of_user(path).absolute()
    if not paths.exists(path):
        raise ModelError(f"the model '{path}' does not exist")
    if path.is_file() and path.suffix != ".gguf":
        raise ModelError(f"'{path}' is neither a model folder nor a .gguf file")
    if path.is_file():
        return _checked(Model("gguf", path))
    if (path / "genai_config.json").is_file():
        model = _graph.check(Model("onnx", path))
        return replace(model, attributes={"execution_provider": execution_provider(path)})
    if (path / "adapter_config.json").is_file():
        return Model("adapter", path, base=_base_of(path, base))
    if (path / "config.json").is_file():
        return _checked(Model("hf", path))
    inner = path / "model"
    hint = f"; did you mean '{inner}'?" if inner.is_dir() else ""
    raise ModelError(f"'{path}' holds no model: neither genai_config.json, adapter_config.json nor config.json{hint}")


def _checked(model: Model) -> Model:
    for problem in check_checkpoint(model.path):
        raise ModelError(str(problem))
    return model


def _base_of(adapter: Path, given: Path | None) -> Model:
    from olivine.models.adapter import read_config

    named = read_config(adapter).get("base_model_name_or_path")
    if given is not None:
        base = open_model(given)
    elif isinstance(named, str) and paths.exists(named):
        base = open_model(Path(named))
    else:
        of = f"is an adapter of '{named}', which is no path here" if named else "does not say which base it adapts"
        raise ModelError(f"the adapter '{adapter}' {of}; name its base with --base")
    if base.format not in ("hf", "gguf"):
        raise ModelError(
            f"the base '{base.path}' of the adapter '{adapter}' is of format {base.format}, not a checkpoint"
        )
    return base


def execution_provider(folder: Path) -> str:
    """The provider that an ONNX folder is built for, as its genai_config.json says."""
    config = json.loads((folder / "genai_config.json").read_text(encoding="utf-8"))
    options = config["model"]["decoder"].get("session_options", {}).get("provider_options") or []
    names = [name for option in options for name in option]
    return PROVIDERS.get(names[0], "CPUExecutionProvider") if names else "CPUExecutionProvider"


def runnable(model: Model, scratch: Path) -> Model:
    """The same model with a GGUF file, or one below it, read out: its config and tokenizer go to `scratch`.

    Raises ModelError when a file of an ONNX graph is missing.
    """
    if model.format == "onnx":
        _graph.read(model)
    return readable(model, scratch)


def run_as(model: Model, dtype: str) -> str:
    """What computes the model's logits, in words."""
    if model.format == "onnx":
        provider = str(model.attributes["execution_provider"]).removesuffix("ExecutionProvider")
        return f"onnxruntime, {provider}{_graph.describe(model)}"
    if model.format == "gguf" or (model.base and model.base.format == "gguf"):
        return f"transformers, dequantized to {dtype}"
    return f"transformers, {dtype}"


def size_bytes(model: Model) -> int:
    """Bytes of all files that the model needs, those of what it is made from included."""
    own = [model.path] if model.path.is_file() else [file for file in model.path.rglob("*") if file.is_file()]
    base = size_bytes(model.base) if model.base else 0
    return sum(file.stat().st_size for file in own) + base


def weight_bytes(model: Model) -> int:
    """Bytes of the files that hold weights."""
    own: list[Path] = [model.path]
    if model.format == "onnx":
        own = _graph.files(model)
    elif model.path.is_dir():
        own = list(model.path.glob("*.safetensors"))
    return sum(file.stat().st_size for file in own) + (weight_bytes(model.base) if model.base else 0)


def n_parameters(model: Model) -> int:
    """Weights as the architecture counts them, however they are stored; an adapter's own are left out."""
    if model.format == "onnx":
        return _graph.n_parameters(model)
    if model.base is not None:
        return n_parameters(model.base)
    return read_facts(model.path).n_parameters
