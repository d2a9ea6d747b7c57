"""Any ONNX graph in onnxruntime: named arrays in, named arrays out."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from olivine import lazy
from olivine.errors import ModelError
from olivine.models.json_files import is_file, read_object
from olivine.models.onnx_files import SESSION_FILE, files_of_adapter
from olivine.runtimes import adapter_inputs

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import onnxruntime
else:
    np, onnxruntime = lazy.module("numpy"), lazy.module("onnxruntime")


class OnnxSession:
    """A graph that is open. Raises ModelError, with the runtime's last word, when it does not load.

    settings: of the session; None for those that lie beside the graph, if any do. adapter: the inputs that are weights
    of an adapter, from the file beside the graph; every run has them.
    """

    def __init__(
        self, graph: Path, provider: str = "CPUExecutionProvider", settings: Mapping[str, Any] | None = None
    ) -> None:
        if settings is None and is_file(graph.parent / SESSION_FILE):
            settings = read_object(graph.parent / SESSION_FILE)
        options = _options(settings or {})
        self._graph = graph
        try:
            self._session = onnxruntime.InferenceSession(str(graph), options, providers=[provider])
        except Exception as error:
            raise ModelError(f"onnxruntime does not load {graph}: {last_word(error)}") from error
        self.adapter = self._weights(graph.parent)

    def _weights(self, folder: Path) -> "dict[str, npt.NDArray[Any]]":
        """The inputs that are weights of an adapter, in the types that the graph takes."""
        files = files_of_adapter(folder)
        if not files:
            return {}
        inputs = [*self._session.get_inputs(), *self._session.get_overridable_initializers()]
        types = {value.name: _DTYPES.get(value.type, "float32") for value in inputs}
        weights = adapter_inputs.read(folder / files[-1])
        if missing := next((name for name in weights if name not in types), None):
            raise ModelError(
                f"{self._graph} does not take the adapter's weight '{missing}', which {files[-1]} holds: what changed "
                "the graph has put a default in its place; take the adapter out after it"
            )
        return {name: np.asarray(array, types[name]) for name, array in weights.items()}

    @property
    def input_names(self) -> list[str]:
        """What the graph takes; an exporter leaves out what nothing depends on."""
        return [value.name for value in self._session.get_inputs() if value.name not in self.adapter]

    def dtype_of(self, name: str) -> str:
        """The type of an input, as numpy calls it."""
        return next(_DTYPES.get(value.type, "float32") for value in self._session.get_inputs() if value.name == name)

    def run(self, inputs: Mapping[str, Any]) -> "dict[str, npt.NDArray[Any]]":
        """All outputs by their names, in the order of the graph; ModelError when the graph does not take the inputs."""
        names = [value.name for value in self._session.get_outputs()]
        try:
            return dict(zip(names, self._session.run(names, {**self.adapter, **inputs}), strict=True))
        except Exception as error:
            shapes = ", ".join(f"{name} {list(np.shape(value))}" for name, value in inputs.items())
            raise ModelError(f"{self._graph} does not run on {shapes}: {last_word(error)}") from error


_DTYPES = {
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    "tensor(int8)": "int8",
    "tensor(uint8)": "uint8",
}


def _options(settings: Mapping[str, Any]) -> Any:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # models take turns on the cores
    for key in ("intra_op_num_threads", "inter_op_num_threads"):
        if type(settings.get(key)) is int:
            setattr(options, key, settings[key])
    if settings.get("execution_mode") is not None:
        options.execution_mode = onnxruntime.ExecutionMode(settings["execution_mode"])
    if settings.get("graph_optimization_level") is not None:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel(settings["graph_optimization_level"])
    for key, value in (settings.get("config") or {}).items():
        options.add_session_config_entry(str(key), str(value))
    return options


def last_word(error: Exception) -> str:
    """What onnxruntime says, without where in its own sources."""
    text = " ".join(str(error).split()).rpartition(" : ")[2]
    return text.rpartition(" failed:")[2][:300] or type(error).__name__
