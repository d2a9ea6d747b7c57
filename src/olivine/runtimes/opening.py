"""From a path to the record of a model, and from the record to what runs it."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from olivine import paths
from olivine.errors import ModelError
from olivine.models import Model
from olivine.models.gguf import readable
from olivine.models.inspect import check_checkpoint
from olivine.runtimes import onnx_folder
from olivine.runtimes.onnx import OnnxRuntime
from olivine.runtimes.torch import TorchRuntime, default_device

if TYPE_CHECKING:
    from olivine.runtimes._base import Runtime


def open_runtime(
    model: Model, device: str | None = None, dtype: str = "float32", accuracy_level: int | None = None
) -> "Runtime":
    """Load a model for its logits. device: "cpu" or "cuda", None for a GPU where there is one.

    An ONNX folder runs where it was built for; accuracy_level replaces that of its quantized products.
    """
    if model.format == "onnx":
        return OnnxRuntime(model, accuracy_level)
    return TorchRuntime(model, device or default_device(), dtype)


def runnable(model: Model, scratch: Path) -> Model:
    """The same model with its GGUF file, if it has one, opened into `scratch`; ModelError for a damaged ONNX folder."""
    if model.format == "onnx":
        onnx_folder.read(model)
    return readable(model, scratch)


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
        model = onnx_folder.check(Model("onnx", path))
        return replace(model, attributes={"execution_provider": onnx_folder.execution_provider(path)})
    if (path / "adapter_config.json").is_file():
        return Model("adapter", path, base=_base_of(path, base))
    if (path / "config.json").is_file():
        return _checked(Model("hf", path))
    if any(path.glob("*.onnx")):
        raise ModelError(f"'{path}' holds an ONNX graph without a genai_config.json, which writes no text")
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
