"""A model in OpenVINO's own form, its IR: an .xml file of layers and a .bin file of weights beside it.

The .xml is read here without openvino, for what a plan must know: names, shapes and types of inputs and outputs, how
many weights there are, and that the .bin holds all of them.
Format: https://docs.openvino.ai/2025/documentation/openvino-ir-format.html
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from olivine import lazy, paths
from olivine.errors import ModelError
from olivine.models._model import OPENVINO_FILE, Model
from olivine.models.facts import ModelFacts
from olivine.models.json_files import read_object
from olivine.models.kinds import describe
from olivine.models.onnx_files import header_of
from olivine.models.signature import Signature, Size, TensorSpec

if TYPE_CHECKING:
    from xml.etree import ElementTree as ET
else:
    ET = lazy.module("xml.etree.ElementTree")

SUFFIX = ".xml"
CONTEXT = ("com.microsoft", "EPContext")  # the operator of a graph that only names what a provider has made
# element types of the IR -> numpy's names; of weights, those of fewer than 8 bits have none
_TYPES = {
    "f16": "float16",
    "f32": "float32",
    "f64": "float64",
    "bf16": "bfloat16",
    "boolean": "bool",
    "string": "string",
    **{f"{short}{bits}": f"{long}{bits}" for short, long in (("i", "int"), ("u", "uint")) for bits in (8, 16, 32, 64)},
}
_PRECISIONS = {"FP16": "f16", "FP32": "f32", "FP64": "f64", "BOOL": "boolean"}  # of ports; others are the types' names
_INDICES = ("i32", "i64", "boolean", "string")  # types of constants that are no weights
_FORWARD = ("Convert", "Reshape", "Unsqueeze", "Squeeze")  # layers that give the token ids that they get


@dataclass(frozen=True)
class IrHeader:
    """What the .xml of an IR says.

    n_parameters: elements of all constants that hold weights. weight_bytes: where the last constant ends in the .bin.
    """

    path: Path
    name: str
    signature: Signature
    n_parameters: int
    weight_bytes: int

    @classmethod
    def read(cls, path: Path) -> "IrHeader":
        """Read the .xml; ModelError when it is no IR."""
        try:
            root = ET.parse(path).getroot()
        except ET.ParseError as error:
            raise ModelError(f"{path} is damaged: it is no XML ({error})") from None
        except OSError as error:
            raise ModelError(f"{path} cannot be read: {error.strerror}") from None
        if root.tag != "net" or root.find("layers") is None:
            raise ModelError(f"{path} is no model of OpenVINO: it has no layers")
        try:
            return _header(path, root)
        except (KeyError, ValueError, TypeError) as error:
            raise ModelError(f"{path} is damaged: {type(error).__name__}: {error}") from None

    @property
    def weights(self) -> Path:
        """The file of the weights."""
        return self.path.with_suffix(".bin")

    def check(self) -> None:
        """Raise ModelError unless the weights are there, and whole."""
        n_bytes = self.weights.stat().st_size if paths.is_file(self.weights) else None
        if n_bytes is None and self.weight_bytes:
            raise ModelError(f"{self.path.parent} lacks the weights '{self.weights.name}' of '{self.path.name}'")
        if n_bytes is not None and n_bytes < self.weight_bytes:
            raise ModelError(
                f"{self.weights} is truncated: {n_bytes} bytes, but the weights of '{self.path.name}' end at "
                f"{self.weight_bytes}"
            )


def _header(path: Path, root: "ET.Element") -> IrHeader:
    net = _Net(root)
    constants = [data.attrib for layer in root.iter("layer") if (data := layer.find("data")) is not None]
    stored = [one for one in constants if "offset" in one and "element_type" in one]
    weights = [one for one in stored if one["element_type"] not in _INDICES]
    return IrHeader(
        path,
        root.get("name", path.stem),
        net.signature(),
        sum(math.prod(_sizes(one.get("shape", ""))) for one in weights),
        max((int(one["offset"]) + int(one["size"]) for one in stored), default=0),
    )


def _sizes(text: str) -> list[int]:
    return [int(size) for size in text.split(",") if size.strip()]


class _Net:
    """The layers of an IR by their numbers, and what leads where."""

    def __init__(self, root: "ET.Element") -> None:
        layers = root.find("layers")
        self._layers = {layer.attrib["id"]: layer for layer in layers if layer.tag == "layer"} if layers else {}
        self._sources: dict[tuple[str, str], tuple[str, str]] = {
            (edge.attrib["to-layer"], edge.attrib["to-port"]): (edge.attrib["from-layer"], edge.attrib["from-port"])
            for edge in root.iterfind("edges/edge")
        }

    def signature(self) -> Signature:
        inputs = [self._input(layer, number) for number, layer in enumerate(self._of("Parameter"))]
        outputs = [self._output(layer, number) for number, layer in enumerate(self._of("Result"))]
        return Signature(tuple(inputs), tuple(outputs))

    def _of(self, kind: str) -> "list[ET.Element]":
        return [layer for layer in self._layers.values() if layer.attrib.get("type") == kind]

    def _input(self, layer: "ET.Element", number: int) -> TensorSpec:
        port = layer.find("output/port")
        data = layer.find("data")
        if port is None or data is None:
            raise ValueError("an input has no type")
        told = data.attrib.get("shape", "")
        shape = None if "..." in told else _shape(port)
        name = named(port.get("names", "").split(","), f"input_{number}")
        kind = _TYPES.get(data.attrib["element_type"], "unknown")
        return TensorSpec(name, kind, shape, self._choices.get(layer.attrib["id"]))

    def _output(self, layer: "ET.Element", number: int) -> TensorSpec:
        port = layer.find("input/port")
        if port is None:
            raise ValueError("an output has no type")
        source = self._sources.get((layer.attrib["id"], port.attrib["id"]))
        names = layer.get("output_names") or (self._names(source) if source is not None else "")
        precision = port.get("precision", "")
        kind = _TYPES.get(_PRECISIONS.get(precision, precision.lower()), "unknown")
        return TensorSpec(named(names.split(","), f"output_{number}"), kind, _shape(port))

    def _names(self, source: tuple[str, str]) -> str:
        ports = self._layers[source[0]].iterfind("output/port")
        return next((port.get("names", "") for port in ports if port.attrib["id"] == source[1]), "")

    @cached_property
    def _choices(self) -> Mapping[str, int]:
        """Of inputs that pick rows of a table, by the number of their layer, how many rows the smallest has."""
        choices: dict[str, int] = {}
        for layer in self._of("Gather"):
            ports = {port.attrib["id"]: port for port in layer.iterfind("input/port")}
            table = _shape(ports["0"]) if "0" in ports else ()
            parameter = self._parameter((layer.attrib["id"], "1"))
            if parameter is not None and len(table) == 2 and isinstance(table[0], int):
                choices[parameter] = min(table[0], choices.get(parameter, table[0]))
        return choices

    def _parameter(self, end: tuple[str, str]) -> str | None:
        """The input that reaches an input of a layer as it is; None where none does."""
        source = self._sources.get(end)
        while source is not None:
            kind = self._layers[source[0]].attrib.get("type")
            if kind == "Parameter":
                return source[0]
            source = self._sources.get((source[0], "0")) if kind in _FORWARD else None
        return None


def _shape(port: "ET.Element") -> tuple[Size, ...]:
    """The sizes of a port; -1 is one that is open."""
    sizes = [int(dimension.text or "") for dimension in port.iterfind("dim")]
    return tuple(size if size >= 0 else None for size in sizes)


def named(names: Iterator[str] | list[str] | set[str], otherwise: str) -> str:
    """The name of an input or output: the first in order of those that it has."""
    return min((name.strip() for name in names if name.strip()), default=otherwise)


def openvino_model(path: Path, task: str = "") -> Model:
    """The record of an IR: of its .xml file, or of the folder that holds one; raises ModelError when it does not."""
    if not paths.exists(path):
        raise ModelError(f"the model '{path}' does not exist")
    if path.is_file() and path.suffix != SUFFIX:
        raise ModelError(f"'{path}' is no model of OpenVINO, which is an {SUFFIX} file with a .bin file beside it")
    file = path if path.is_file() else _only(path)
    return Model("openvino", file.parent, task=task, attributes={OPENVINO_FILE: file.name})


def _only(folder: Path) -> Path:
    """The IR of a folder: its only one, or the one that the tools call so; a tokenizer's is none."""
    files = [file for file in sorted(folder.glob(f"*{SUFFIX}")) if not file.stem.endswith("tokenizer")]
    usual = [file for file in files if file.stem in ("openvino_model", "ov_model", "model")]
    if len(files) != 1 and len(usual) != 1:
        told = ", ".join(file.name for file in files[:3]) or "none"
        raise ModelError(f"'{folder}' must hold one model of OpenVINO ({SUFFIX} with a .bin), and there are: {told}")
    return files[0] if len(files) == 1 else usual[0]


def ir_of(model: Model) -> Path:
    """The .xml file of a model of OpenVINO."""
    name = model.attributes.get(OPENVINO_FILE)
    return model.path / str(name) if name else _only(model.path)


def ir_header_of(model: Model) -> IrHeader:
    """What its .xml says."""
    return IrHeader.read(ir_of(model))


def context_of(model: Model) -> Path | None:
    """The IR that an ONNX graph wraps as OpenVINO's provider takes it: it has the graph's name; None for any other."""
    header = header_of(model)
    beside = header.path.with_suffix(SUFFIX)
    return beside if header.operators == {CONTEXT} and paths.is_file(beside) else None


def is_openvino(path: Path) -> bool:
    """Whether a path that is named as a model is an IR, or a folder of nothing else that is a model."""
    if not paths.is_folder(path):
        return path.suffix == SUFFIX and paths.is_file(path.with_suffix(".bin"))
    others = (file for pattern in ("*.safetensors", "*.onnx", "*.gguf") for file in path.glob(pattern))
    return any(file.with_suffix(".bin").is_file() for file in path.glob(f"*{SUFFIX}")) and not any(others)


def openvino_facts(model: Model) -> ModelFacts:
    """The facts of an IR, with the task and the labels that a config.json beside it tells."""
    header = ir_header_of(model)
    config = model.path / "config.json"
    content = read_object(config) if paths.is_file(config) else {}
    names = content.get("architectures")
    told = describe(content, str(names[0]) if isinstance(names, list) and names else "") if content else None
    task = model.task or (told.task if told is not None and told.kind != "decoder" else "")
    n_bytes = header.weights.stat().st_size if paths.is_file(header.weights) else 0
    return ModelFacts(
        architecture=header.name,
        n_parameters=header.n_parameters,
        kind="graph",
        task=task,
        labels=told.labels if told is not None else (),
        signature=header.signature,
        bytes_per_weight=n_bytes / header.n_parameters if header.n_parameters else 2.0,
        weight_bytes=n_bytes,
        path=model.path,
    )
