"""A model of OpenVINO on the processor: named arrays in, named arrays out."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from olivine import lazy
from olivine.errors import ModelError
from olivine.models.openvino_files import named

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
else:
    np = lazy.module("numpy")

EXTRA = "openvino"
DEVICE = "CPU"
_LIKE = {"float16": "float32", "bfloat16": "float32"}  # outputs that numpy computes with


class OpenvinoSession:
    """A model that is compiled for this machine's processor; the same calls as an OnnxSession has.

    model: its .xml file, or one of openvino in memory. exact: compute in float32; else as OpenVINO does by itself,
    which is bfloat16 where the processor has it. Raises ModelError, with openvino's last word, when it does not load.
    """

    def __init__(self, model: Any, *, exact: bool = False) -> None:
        openvino = lazy.require("openvino", EXTRA)
        self._name = str(model) if isinstance(model, Path) else str(model.get_friendly_name())
        settings = {"INFERENCE_PRECISION_HINT": "f32"} if exact else {}
        try:
            self.compiled = openvino.Core().compile_model(
                str(model) if isinstance(model, Path) else model, DEVICE, settings
            )
        except Exception as error:
            raise ModelError(f"openvino does not load {self._name}: {last_word(error)}") from error
        self._inputs = [named(port.get_names(), f"input_{n}") for n, port in enumerate(self.compiled.inputs)]
        self._outputs = [named(port.get_names(), f"output_{n}") for n, port in enumerate(self.compiled.outputs)]
        self.adapter: dict[str, Any] = {}

    @property
    def input_names(self) -> list[str]:
        """What the model takes."""
        return list(self._inputs)

    def run(self, inputs: Mapping[str, Any]) -> "dict[str, npt.NDArray[Any]]":
        """All outputs by their names, in the order of the model; ModelError when it does not take the inputs."""
        lacking = [name for name in self._inputs if name not in inputs]
        if lacking:
            raise ModelError(f"{self._name} takes '{lacking[0]}', which is not given")
        try:
            given = {number: np.ascontiguousarray(inputs[name]) for number, name in enumerate(self._inputs)}
            result = self.compiled(given, share_inputs=False, share_outputs=False)
            return {name: _plain(result[number]) for number, name in enumerate(self._outputs)}
        except Exception as error:
            shapes = ", ".join(f"{name} {list(np.shape(value))}" for name, value in inputs.items())
            raise ModelError(f"{self._name} does not run on {shapes}: {last_word(error)}") from error


def _plain(array: Any) -> Any:
    kind = str(array.dtype)
    return array.astype(_LIKE[kind]) if kind in _LIKE else array


def last_word(error: BaseException) -> str:
    """What openvino or nncf says, without where in its own sources: its last line that tells something."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    summed_up = [line for line in lines if "No conversion rule found" in line]
    told = [line for line in lines if not line.startswith(("Exception from", "While validating", "Check '", "Summary"))]
    return " ".join((summed_up or told[-1:] or lines[-1:] or [type(error).__name__])[-1].removeprefix("-- ").split())[
        :300
    ]
