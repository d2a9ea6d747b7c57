"""What a model is made of, for the record of a comparison."""

from pathlib import Path

from olivine.models import Model
from olivine.models.inspect import read_facts
from olivine.runtimes import onnx_folder


def run_as(model: Model, dtype: str) -> str:
    """What computes the model's logits, in words."""
    if model.format == "onnx":
        provider = str(model.attributes["execution_provider"]).removesuffix("ExecutionProvider")
        return f"onnxruntime, {provider}{onnx_folder.describe(model)}"
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
        own = onnx_folder.files(model)
    elif model.path.is_dir():
        own = list(model.path.glob("*.safetensors"))
    return sum(file.stat().st_size for file in own) + (weight_bytes(model.base) if model.base else 0)


def n_parameters(model: Model) -> int:
    """Weights as the architecture counts them, however they are stored; an adapter's own are left out."""
    if model.format == "onnx":
        return onnx_folder.n_parameters(model)
    if model.base is not None:
        return n_parameters(model.base)
    return read_facts(model.path).n_parameters
