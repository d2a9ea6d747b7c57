"""Any model of transformers as a function: named arrays in, named arrays out."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from olivine import lazy
from olivine.errors import ModelError
from olivine.models import Model
from olivine.models.loading import load_module
from olivine.models.onnx_files import graph_of
from olivine.models.speech import hears
from olivine.runtimes.session import OnnxSession
from olivine.runtimes.speech import SpeechSession

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import torch
else:
    np, torch = lazy.module("numpy"), lazy.module("torch")


class ModuleSession:
    """A checkpoint that is open in torch; the same calls as an OnnxSession has."""

    def __init__(self, model: Model, device: str = "cpu") -> None:
        self._path, self._device = model.path, device
        self._module = load_module(model, device=device)

    def run(self, inputs: Mapping[str, Any]) -> "dict[str, npt.NDArray[Any]]":
        """All outputs that are tensors by their names; ModelError when the model does not take the inputs."""
        given = {name: torch.as_tensor(np.array(value)).to(self._device) for name, value in inputs.items()}
        try:
            outputs = call(self._module, given)
        except Exception as error:  # a model's own code raises whatever it likes
            shapes = ", ".join(f"{name} {list(np.shape(value))}" for name, value in inputs.items())
            told = " ".join(str(error).split())[:300] or type(error).__name__
            raise ModelError(f"{self._path} does not run on {shapes}: {told}") from error
        return {name: value.cpu().numpy() for name, value in outputs.items()}


def call(module: Any, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """The tensors among the outputs of a module of transformers, by their names, in their order."""
    with torch.inference_mode():
        outputs = module(**inputs, return_dict=True)
    return {name: value for name, value in outputs.items() if isinstance(value, torch.Tensor)}


AnySession = OnnxSession | ModuleSession | SpeechSession


def open_session(model: Model, provider: str, device: str) -> AnySession:
    """A model of any format, ready to be asked for its outputs."""
    if model.packaging == "genai" and hears(model.path):
        return SpeechSession(model.path, provider)
    if model.format == "onnx":
        return OnnxSession(graph_of(model), provider)
    return ModuleSession(model, device)
