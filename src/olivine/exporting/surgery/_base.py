"""The contract of a surgeon, and what several of them do with nodes and constants."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict

from olivine import lazy
from olivine.errors import ModelError

if TYPE_CHECKING:
    import numpy as np
    import onnx_ir as ir
else:
    np, ir = lazy.module("numpy"), lazy.module("onnx_ir")


class NoPlaceError(ModelError):
    """The graph has not what the params of a surgeon count: another part of the model may."""


class Surgeon(BaseModel, ABC):
    """One small change of a graph. Its fields are the keys that stand beside its name in a config."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @abstractmethod
    def operate(self, model: "ir.Model") -> int:
        """Change the graph, and those in it; gives the number of places. A second time there is none left."""

    def lacking(self, model: "ir.Model") -> Iterator[str]:  # noqa: ARG002
        """Sentences about what the params name and the graph does not have."""
        yield from ()


_DOMAINS = ("", "ai.onnx", "com.microsoft")


def is_a(node: "ir.Node | None", *kinds: str) -> bool:
    """Whether a node is one of these operators of ONNX or onnxruntime; others may bear the same name."""
    return node is not None and node.op_type in kinds and node.domain in _DOMAINS


def all_nodes(model: "ir.Model", *kinds: str) -> "Iterator[ir.Node]":
    """The nodes of some operators, in the graph and those in it, as they are before anything changes."""
    yield from [node for graph in model.graphs() for node in graph if is_a(node, *kinds)]


def names_in(*graphs: "ir.Graph") -> set[str]:
    """The names of values in some graphs; a graph and those in it may not have values that are called alike."""
    names = {str(value.name) for graph in graphs for value in graph.inputs}
    names.update(name for graph in graphs for name in graph.initializers)
    names.update(str(value.name) for graph in graphs for node in graph for value in node.outputs)
    return names


def free(name: str, taken: set[str]) -> str:
    """The name itself, or with the first number behind it that makes it one of its own."""
    return next(one for one in (name, *(f"{name}_{n}" for n in range(1, len(taken) + 2))) if one not in taken)


def put(
    before: "ir.Node",
    kind: str,
    inputs: "Sequence[ir.Value | None]",
    attributes: Mapping[str, Any] | None = None,
    *,
    domain: str = "",
    name: str = "",
) -> "ir.Value":
    """A new node before another one; gives its result."""
    owner = graph_of(before)
    node = ir.node(kind, inputs=inputs, attributes=attributes or {}, domain=domain, num_outputs=1)
    result: ir.Value = node.outputs[0]
    taken = names_in(owner) | {str(one.name) for one in owner}
    node.name = result.name = free(name or f"{before.outputs[0].name}_{kind}", taken)
    owner.insert_before(before, node)
    return result


def graph_of(node: "ir.Node") -> "ir.Graph":
    """The graph that a node stands in."""
    if node.graph is None:
        raise ValueError(f"'{node.name}' stands in no graph")
    return node.graph


def replace(node: "ir.Node", result: "ir.Value") -> None:
    """Let a value stand for the first output of a node, under the same name, and drop the node."""
    output = node.outputs[0]
    result.type, result.shape = result.type or output.type, result.shape or output.shape
    name, producer = output.name, result.producer()
    output.replace_all_uses_with(result, replace_graph_outputs=True)
    if producer is not None and not result.is_graph_input():
        output.name = f"{name}_replaced"
        result.name = name
    graph_of(node).remove(node, safe=True)


def constant_of(value: "ir.Value | None") -> Any | None:
    """The numbers of a value that never changes: a weight, or the result of a Constant; None for another."""
    if value is None:
        return None
    if value.const_value is not None:
        return value.const_value.numpy()
    producer = value.producer()
    if producer is not None and is_a(producer, "Constant") and "value" in producer.attributes:
        return producer.attributes["value"].value.numpy()
    return None


def stored(graph: "ir.Graph", name: str, array: Any) -> "ir.Value":
    """A new weight of a graph, under a name that nothing there has."""
    own = free(name, names_in(graph, *graph.subgraphs()))
    tensor = ir.tensor(np.ascontiguousarray(array), name=own)
    value = ir.Value(name=own, shape=tensor.shape, type=ir.TensorType(tensor.dtype), const_value=tensor)
    graph.register_initializer(value)
    return value


def forget_unused(model: "ir.Model") -> None:
    """Drop nodes and weights that nothing uses any more."""
    from onnx_ir.passes import common

    common.RemoveUnusedNodesPass()(model)


def rank_of(value: "ir.Value | None") -> int | None:
    """Dimensions of a value; None where they are not known."""
    return None if value is None or value.shape is None else value.shape.rank()


def number(node: "ir.Node", key: str, default: Any) -> Any:
    """An attribute of a node."""
    attribute = node.attributes.get(key)
    return default if attribute is None else attribute.value
