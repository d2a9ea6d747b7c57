"""An ONNX folder looked at from its graph: its files, its weights, the accuracy level of its quantized products."""

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from olivine import lazy
from olivine.errors import ModelError
from olivine.models import Model

if TYPE_CHECKING:
    import onnx
else:
    onnx = lazy.module("onnx")
protobuf = lazy.module("google.protobuf.message")

# onnxruntime's name of an execution provider -> that of onnxruntime-genai, in its builder and in genai_config.json
PROVIDERS = {
    "CPUExecutionProvider": "cpu",
    "CUDAExecutionProvider": "cuda",
    "DmlExecutionProvider": "dml",
    "WebGpuExecutionProvider": "webgpu",
    "NvTensorRTRTXExecutionProvider": "NvTensorRtRtx",
}
PRODUCT, GATHER = "MatMulNBits", "GatherBlockQuantized"
_CACHES = ("cos_cache", "sin_cache")  # rotary tables, no weights


def file_of(model: Model) -> Path:
    """The graph that genai_config.json names."""
    config = json.loads((model.path / "genai_config.json").read_text(encoding="utf-8"))
    return model.path / str(config["model"]["decoder"]["filename"])


def execution_provider(folder: Path) -> str:
    """The provider that an ONNX folder is built for, as its genai_config.json says."""
    config = json.loads((folder / "genai_config.json").read_text(encoding="utf-8"))
    options = config["model"]["decoder"].get("session_options", {}).get("provider_options") or []
    of = {theirs: ours for ours, theirs in PROVIDERS.items()}
    names = [name for option in options for name in option]
    return of.get(names[0], "CPUExecutionProvider") if names else "CPUExecutionProvider"


def check(model: Model) -> Model:
    """The same model; ModelError when its config, its graph or the file of a weight is missing or damaged."""
    try:
        graph = file_of(model)
    except (ValueError, KeyError, TypeError):
        raise ModelError(f"{model.path / 'genai_config.json'} is damaged: it names no graph") from None
    if not graph.is_file():
        raise ModelError(f"{model.path} lacks the graph '{graph.name}' that its genai_config.json names")
    return model


def read(model: Model) -> "onnx.ModelProto":
    """The graph without its external weights; ModelError when it is no ONNX file or a file of weights is missing."""
    path = file_of(model)
    try:
        proto = onnx.load(str(path), load_external_data=False)
    except protobuf.DecodeError:
        raise ModelError(f"{path} is damaged: it is no ONNX graph") from None
    for name in _external_files(proto):
        if not (model.path / name).is_file():
            raise ModelError(f"{model.path} lacks the weights '{name}'")
    return proto


def operators(model: Model) -> frozenset[str]:
    """Names of the operators of the graph, those within branches left out."""
    return frozenset(node.op_type for node in read(model).graph.node)


def _external_files(proto: "onnx.ModelProto") -> list[str]:
    names = {entry.value for one in proto.graph.initializer for entry in one.external_data if entry.key == "location"}
    return sorted(names)


def files(model: Model) -> list[Path]:
    """The graph and the files of its weights."""
    return [file_of(model), *(model.path / name for name in _external_files(read(model)))]


def n_parameters(model: Model) -> int:
    """Weights of the graph: of a quantized product K x N, of the others their elements; shared ones count once."""
    graph = read(model).graph
    stored = {one.name: one for one in graph.initializer}
    # scales stored in 16 bits reach their node through a Cast, a head that shares the embedding through a Reshape
    passed = {node.output[0]: node.input[0] for node in graph.node if node.op_type in ("Cast", "Reshape")}
    counted = {passed.get(name, name): size for node in graph.node for name, size in _quantized(node, stored)}
    floats = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16)
    for name, one in stored.items():
        if name not in counted and one.data_type in floats and not name.startswith(_CACHES):
            counted[name] = _product(one.dims)
    return sum(counted.values())


def _quantized(node: Any, stored: Mapping[str, Any]) -> Iterator[tuple[str, int]]:
    """Inputs of a quantized node, with the weights that each stands for: all in the codes, none in scales and zeros."""
    attributes = {one.name: one.i for one in node.attribute}
    if node.op_type == PRODUCT:
        yield node.input[1], attributes["K"] * attributes["N"]
        yield from ((name, 0) for name in node.input[2:4])
    elif node.op_type == GATHER:
        codes = stored.get(node.input[0])
        if codes is not None:  # else they are the head's, which counts them
            in_a_value = 8 // attributes.get("bits", 4) if codes.data_type == onnx.TensorProto.UINT8 else 1
            yield node.input[0], _product(codes.dims) * in_a_value
        yield from ((name, 0) for name in node.input[2:4])


def _product(shape: Iterable[int]) -> int:
    size = 1
    for width in shape:
        size *= width
    return size


def accuracy_levels(model: Model) -> list[int]:
    """The accuracy levels that the graph's quantized products ask for, each once; none for a graph without them."""
    nodes = [node for node in read(model).graph.node if node.op_type == PRODUCT]
    return sorted({_level(node) for node in nodes})


def _level(node: Any) -> int:
    return next((int(one.i) for one in node.attribute if one.name == "accuracy_level"), 0)


def describe(model: Model) -> str:
    """The accuracy levels for a table, e.g. ", accuracy level 4"."""
    levels = accuracy_levels(model)
    return f", accuracy level {' and '.join(map(str, levels))}" if levels else ""


def at_level(model: Model, level: int) -> bytes:
    """The graph with every quantized product at that accuracy level; its weights stay in the files where they are."""
    proto = read(model)
    for node in proto.graph.node:
        if node.op_type == PRODUCT:
            kept = [one for one in node.attribute if one.name != "accuracy_level"]
            del node.attribute[:]
            node.attribute.extend([*kept, onnx.helper.make_attribute("accuracy_level", level)])
    made: bytes = proto.SerializeToString()
    return made
