"""The weights of an adapter in an ONNX graph: found by the names that exporters leave, given one name each.

tracing exporter   the product .../q_proj/default/MatMul reads lora_A, .../q_proj/default_1/MatMul lora_B
(of DoRA, which computes x A B and the norm of W + A B, .../default_2 and _3 read them again)
torch.export       the weights keep their own names, ...q_proj.lora_A.default.weight
LoHa               with both exporters, ...q_proj.hada_w1_a.default and its three kin
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from olivine import lazy
from olivine.errors import ModelError

if TYPE_CHECKING:
    import numpy as np
    import onnx_ir as ir
else:
    np, ir = lazy.module("numpy"), lazy.module("onnx_ir")

MAGNITUDE = "lora_magnitude_vector"
WORDS: Mapping[str, tuple[str, ...]] = {
    "lora": ("lora_A", "lora_B", "lora_embedding_A", "lora_embedding_B"),
    "dora": ("lora_A", "lora_B", MAGNITUDE),
    "loha": ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b"),
}
_PRODUCTS = ("MatMul", "Gemm", "MatMulNBits")
_TRACED = re.compile(r"(?P<layer>.+?)(?:/default)?/default(?:_(?P<number>\d+))?/(?:MatMul|Gemm)\w*$")
_WRAPPERS = ("inner", "base_model", "model")  # olivine's own module, PEFT's, and what PEFT keeps the model as
_QUANTIZED = (".quant.weight", ".quant.scale", ".quant.zero_point")
RANK = "lora_r"  # the name of the rank as an open size


@dataclass
class Apart:
    """A weight of an adapter.

    values: those of the graph that hold it, one in the end. rank_axis: which dimension is the rank; None where none is.
    """

    name: str
    word: str
    values: "list[ir.Value]" = field(default_factory=list)
    rank_axis: int | None = None

    @property
    def tensor(self) -> Any:
        """Its numbers."""
        return self.values[0].const_value


def found_in(model: "ir.Model", kind: str) -> list[Apart]:
    """The weights of an adapter of that kind, under names such as model.layers.0.self_attn.q_proj.lora_A.weight."""
    weights: dict[str, Apart] = {}
    for node in model.graph.all_nodes():
        for place, value in enumerate(node.inputs):
            told = _told(node, place, value, kind)
            if told is not None and value is not None:
                one = weights.setdefault(told[0], Apart(told[0], told[1]))
                if value not in one.values:
                    one.values.append(value)
                one.rank_axis = _rank_axis(node, place, one)
    return list(weights.values())


def _told(node: "ir.Node", place: int, value: "ir.Value | None", kind: str) -> tuple[str, str] | None:
    """Name and word of what a node reads at a place, where it is a weight of an adapter."""
    if value is None or value.const_value is None or not value.is_initializer():
        return None
    words, suffix = WORDS[kind], ".weight"
    parts = str(value.name).split(".")
    word = next((part for part in parts if part in words), None)
    if word is not None:
        return _name(parts[: parts.index(word)], word, suffix), word
    product, layer_input = node, place
    if node.op_type == "DequantizeLinear" and node.outputs[0].uses():
        suffix, product, layer_input = _QUANTIZED[place], node.outputs[0].uses()[0].node, 1
    traced = _TRACED.match(str(product.name))
    if kind == "loha" or traced is None or product.op_type not in _PRODUCTS or layer_input == 0:
        return None
    if product.op_type == "MatMulNBits":
        suffix = _QUANTIZED[place - 1]
    word = words[int(traced["number"] or 0) % 2]
    return _name(traced["layer"].split("/"), word, suffix), word


def _name(parts: list[str], word: str, suffix: str) -> str:
    """The name of a weight, from the path of its layer without what wraps the model."""
    parts = [part for part in parts if part]
    for wrapper in _WRAPPERS:
        if parts[:1] == [wrapper] and (wrapper != "model" or parts[1:2] == ["model"]):
            parts = parts[1:]
    return ".".join([*parts, word]) + suffix


def _rank_axis(node: "ir.Node", place: int, one: Apart) -> int | None:
    """Which dimension of a float weight is the rank.

    A is [in, rank] and B [rank, out] where a product reads them; a transpose before it turns that round. Of LoHa,
    w_a is [out, rank] and w_b [rank, in], the two sides of a product.
    """
    if one.word == MAGNITUDE or ".quant." in one.name:
        return None
    is_second = one.word.endswith(("B", "_b"))
    is_turned = node.op_type == "Transpose" or (node.op_type == "Gemm" and _is_turned(node, place))
    return int(not is_second) if not is_turned else int(is_second)


def _is_turned(node: "ir.Node", place: int) -> bool:
    attribute = node.attributes.get("transB" if place == 1 else "transA")
    return attribute is not None and bool(attribute.as_int())


def unite(weights: "list[Apart]", model: "ir.Model") -> None:
    """Let every weight be one value of the graph, under its name. ModelError where two that are one differ."""
    for one in weights:
        first, *others = one.values
        for other in others:
            if not np.array_equal(first.const_value.numpy(), other.const_value.numpy()):
                raise ModelError(f"two weights of the graph are both '{one.name}', and they differ")
            ir.convenience.replace_all_uses_with(other, first)
            del model.graph.initializers[str(other.name)]
        del one.values[1:]
        old = str(first.name)
        if old != one.name:
            model.graph.initializers.pop(old, None)
            first.name = one.name
            model.graph.initializers[one.name] = first


def as_inputs(weights: "list[Apart]", model: "ir.Model", *, is_open: bool, is_optional: bool) -> Iterator[str]:
    """Make weights inputs of the graph; gives the names of those that a run has to be given.

    is_open: the rank has no fixed size. is_optional: without them, the graph is its base model: their default is of
    rank 0, or all zero.
    """
    for one in weights:
        value = one.values[0]
        shape: list[Any] = [int(size) for size in one.tensor.shape]
        if is_open and one.rank_axis is not None:
            shape[one.rank_axis] = RANK
        value.shape, value.type = ir.Shape(shape), ir.TensorType(one.tensor.dtype)
        model.graph.inputs.append(value)
        if is_optional and one.rank_axis is not None:
            sizes = [0 if size == RANK else size for size in shape]
            value.const_value = ir.tensor(np.zeros(sizes, one.tensor.numpy().dtype), name=one.name)
        else:
            del model.graph.initializers[one.name]
            value.const_value = None
            yield one.name
