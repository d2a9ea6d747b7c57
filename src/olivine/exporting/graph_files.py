"""ONNX graphs from files and to files, for what changes them: weights stay where they lie until they are written."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from olivine import lazy
from olivine.errors import ModelError

if TYPE_CHECKING:
    import onnx
    import onnx_ir as ir
    from onnx_ir.passes import common
else:
    ir, common, onnx = lazy.module("onnx_ir"), lazy.module("onnx_ir.passes.common"), lazy.module("onnx")

LEAST_EXTERNAL = 512  # bytes: shapes and axes stay in the graph, where alone the runtime's shape inference reads them
INLINE_LIMIT = 2**30  # bytes of weights that a graph still holds itself, where nobody says; protobuf takes twice that


@dataclass(frozen=True)
class Saving:
    """How the weights of a graph are stored.

    external: beside the graph; None for as they lay, and beside it where they are large. one_file: all together.
    file_name: of that file; None for the graph's with ".data". threshold: bytes from which a tensor lies there.
    constants: those in attributes of Constant nodes are weights too.
    """

    external: bool | None = None
    one_file: bool = True
    file_name: str | None = None
    threshold: int = 1024
    constants: bool = False


def open_graph(path: Path) -> "ir.Model":
    """A graph whose external data was checked; links are followed, as those of the hub's cache lead out of a folder."""
    try:
        model = ir.load(path)
    except Exception as error:  # protobuf and onnx-ir have no class of their own for what they cannot read
        raise ModelError(f"{path} cannot be read: {' '.join(str(error).split())[:200]}") from error
    for value in initializers(model):
        value.const_value = _where_it_lies(value.const_value, path.parent)
    return model


def initializers(model: "ir.Model") -> "list[ir.Value]":
    """The stored values of a graph and of those in it."""
    return [value for graph in model.graphs() for value in graph.initializers.values() if value.const_value is not None]


def operators(model: "ir.Model") -> Counter[str]:
    """How many nodes of each operator a graph and those in it have."""
    return Counter(str(node.op_type) for graph in model.graphs() for node in graph)


def name_outer_outputs(model: "ir.Model") -> None:
    """Put an Identity where an inner graph gives a value of an outer one: onnxruntime takes no other form."""
    for graph in model.graph.subgraphs():
        for place, value in enumerate(graph.outputs):
            producer = value.producer()
            own = value in graph.inputs if producer is None else producer.graph is graph
            if not own and str(value.name) not in graph.initializers:
                same = ir.node("Identity", inputs=[value], num_outputs=1)
                same.outputs[0].name = f"{graph.name or 'inner'}_{place}_{value.name}"
                same.outputs[0].type, same.outputs[0].shape = value.type, value.shape
                graph.append(same)
                graph.outputs[place] = same.outputs[0]


def has_strings(model: "ir.Model") -> bool:
    """Whether a graph holds tensors of text."""
    constants = (node.attributes.get("value") for node in model.graph.all_nodes() if node.op_type == "Constant")
    tensors = [*(value.const_value for value in initializers(model)), *(one.value for one in constants if one)]
    return any(tensor.dtype == ir.DataType.STRING for tensor in tensors)


def _put_strings_in_nodes(model: "ir.Model") -> None:
    """Write weights of text as Constant nodes: they have no number of bytes, by which weights are stored."""
    for graph in model.graphs():
        for name, value in list(graph.initializers.items()):
            tensor = value.const_value
            if tensor is None or tensor.dtype != ir.DataType.STRING or value.is_graph_input():
                continue
            node = ir.node("Constant", inputs=[], attributes={"value": tensor}, num_outputs=1)
            result = node.outputs[0]
            result.type, result.shape = value.type, value.shape
            if len(graph):
                graph.insert_before(graph[0], node)
            else:
                graph.append(node)
            value.replace_all_uses_with(result, replace_graph_outputs=True)
            del graph.initializers[name]
            result.name = name


def _where_it_lies(tensor: Any, folder: Path) -> Any:
    if not isinstance(tensor, ir.ExternalTensor):
        return tensor
    file = (folder / tensor.location).resolve()
    return ir.ExternalTensor(
        *(file.name, tensor.offset, tensor.length, tensor.dtype),
        shape=tensor.shape,
        name=str(tensor.name),
        base_dir=file.parent,
    )


def to_proto(model: "ir.Model") -> "onnx.ModelProto":
    """The graph as protobuf with all its weights in memory, for libraries that take nothing else."""
    proto: onnx.ModelProto = ir.serde.serialize_model(ir.external_data.load_to_model(model))
    return proto


def from_proto(proto: "onnx.ModelProto") -> "ir.Model":
    """The inverse of `to_proto`; the weights stay those of the message."""
    return ir.serde.deserialize_model(proto)


def save_graph(model: "ir.Model", path: Path, saving: Saving) -> None:
    """Write a graph, a weight at a time where they lie beside it. OSError (a full disk) passes, and leaves no file."""
    if saving.constants:
        common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    _put_strings_in_nodes(model)
    stored = [value.const_value for value in initializers(model)]
    n_bytes = sum(tensor.nbytes for tensor in stored)
    was_external = any(isinstance(tensor, ir.ExternalTensor) for tensor in stored)
    external = saving.external if saving.external is not None else was_external
    before = set(path.parent.iterdir())
    try:
        if external or n_bytes > INLINE_LIMIT:
            ir.save(
                model,
                path,
                external_data=saving.file_name or f"{path.name}.data",
                size_threshold_bytes=max(saving.threshold, LEAST_EXTERNAL),
                max_shard_size_bytes=None if saving.one_file else 1,
            )
        else:
            ir.save(ir.external_data.load_to_model(model), path)
    except BaseException:
        for file in set(path.parent.iterdir()) - before:
            file.unlink()
        raise
