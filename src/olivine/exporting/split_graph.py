"""An ONNX graph cut into parts that are run one after the other, by the modules that its nodes were made from.

A node belongs to the part that its module is assigned to, and never to one before the part of what it reads. A node of
no such module goes with what it reads; one before all modules with the first that reads it. What is computed of
constants alone, and activations that are dequantized, is done again in every part that reads it, so that what parts
hand over is small.
"""

import ast
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from olivine import lazy
from olivine.errors import ModelError
from olivine.exporting.graph_files import name_outer_outputs

if TYPE_CHECKING:
    import onnx_ir as ir
    from onnx_ir.passes import common
else:
    ir, common = lazy.module("onnx_ir"), lazy.module("onnx_ir.passes.common")

Scope = tuple[str, ...]
"""The names of a module from the outermost on: ("model", "layers", "0", "mlp")."""

_DYNAMO_SCOPES = "pkg.torch.onnx.name_scopes"  # where the exporter torch.export says what a node was made from
_TABLES = ("Gather", "GatherBlockQuantized")
_PRODUCTS = ("MatMul", "Gemm", "MatMulNBits", "MatMulInteger", "QLinearMatMul", "DynamicQuantizeMatMul")
_SAME = ("Cast", "Identity")
_AS_READ = ("QuantizeLinear", "DequantizeLinear")  # they go with what they read, whatever their name says
_RANDOM = ("Random", "Multinomial", "Bernoulli")


@dataclass(frozen=True)
class Parts:
    """What a graph was cut into. graphs: in the order in which they run. handed_over: names of what they give on."""

    graphs: "tuple[ir.Model, ...]"
    handed_over: frozenset[str]


def split(model: "ir.Model", assignments: Mapping[Scope, int]) -> Parts:
    """Cut a graph, which is changed meanwhile, by the part of each module; parts without a node are left out.

    Raises ModelError where no node is of any of these modules, and where the type of what is handed over is not known.
    """
    _prepare(model)
    placed = _places(model.graph, _Assigned(assignments))
    numbers = sorted({*placed.values()})
    bounds = [_bounds(model.graph, placed, number) for number in numbers]
    handed = {id(value): value for inputs in bounds for value in inputs if not value.is_graph_input()}
    _check_types(model, list(handed.values()))
    parts = []
    for number, inputs in zip(numbers, bounds, strict=True):
        outputs = [value for value in _given(model.graph, placed, number) if _is_read(value, handed)]
        if outputs:
            parts.append(_part(model, inputs, outputs))
    return Parts(tuple(parts), frozenset(str(value.name) for value in handed.values()))


def scopes(model: "ir.Model") -> "dict[ir.Node, Scope]":
    """The module that each node was made from, and the node's own name as the last of it."""
    return {node: scope for node in model.graph if len(scope := _scope(node)) > 1}


def layers(names: "Sequence[Scope]") -> list[Scope]:
    """The modules of one block that are numbered, in order: the block that most nodes are in, the outermost of such.

    names: of nodes. Empty where no two of them are in numbered modules. A module of a single node beside larger ones is
    none of them: ModelBuilder numbers the last norm as a layer of its own.
    """
    n_nodes: Counter[Scope] = Counter()
    numbers: dict[Scope, Counter[int]] = {}
    for scope in names:
        for place, name in enumerate(scope[:-1]):
            if name.isdecimal() and place:
                n_nodes[scope[:place]] += 1
                numbers.setdefault(scope[:place], Counter())[int(name)] += 1
    several = [block for block, there in numbers.items() if len(there) > 1]
    if not several:
        return []
    block = min(several, key=lambda one: (-n_nodes[one], len(one)))
    least = min(2, max(numbers[block].values()))
    return [(*block, str(number)) for number, count in sorted(numbers[block].items()) if count >= least]


def children(names: Sequence[Scope], block: Scope) -> list[Scope]:
    """The modules directly in a block, in the order in which nodes of them come."""
    within = [
        scope[: len(block) + 1] for scope in names if scope[: len(block)] == block and len(scope) > len(block) + 1
    ]
    return list(dict.fromkeys(within))


def embeddings(model: "ir.Model", names: "Mapping[ir.Node, Scope]") -> list[Scope]:
    """Where token ids pick rows of a stored table; each as its node, so that nothing else is meant."""
    picked, constants = [], _constants(model.graph)
    for node in model.graph:
        if node.op_type in _TABLES and node in names and _is_stored(node.inputs[0], constants):
            source = node.inputs[1]
            while source is not None and (maker := source.producer()) is not None and maker.op_type in _SAME:
                source = maker.inputs[0]
            if source is not None and source.is_graph_input():
                picked.append(names[node])
    return picked


def head(model: "ir.Model", names: "Mapping[ir.Node, Scope]") -> list[Scope]:
    """The last product before the first output, as its node; empty where that comes of something else."""
    constants = _constants(model.graph)
    value: ir.Value | None = model.graph.outputs[0]
    while (node := value.producer() if value is not None else None) is not None:
        if node.op_type in _PRODUCTS:
            return [names[node]] if node in names else []
        value = next((one for one in node.inputs if one is not None and not _is_stored(one, constants)), None)
    return []


def _constants(graph: "ir.Graph") -> "set[ir.Node]":
    """The nodes that compute the same whatever the graph is given, of nodes in their order."""
    constants: set[ir.Node] = set()
    for node in graph:
        is_plain = not node.op_type.startswith(_RANDOM) and not any(True for _ in _inner_graphs(node))
        if is_plain and all(_is_stored(value, constants) for value in node.inputs if value is not None):
            constants.add(node)
    return constants


def _is_stored(value: "ir.Value | None", constants: "set[ir.Node]") -> bool:
    """Whether it is a weight, or computed of weights alone, as one that is dequantized."""
    if value is None:
        return False
    maker = value.producer()
    return maker in constants if maker is not None else value.is_initializer() and not value.is_graph_input()


def _scope(node: "ir.Node") -> Scope:
    told = node.metadata_props.get(_DYNAMO_SCOPES)
    if told:
        modules = [str(one) for one in _listed(told) if one]
        if len(modules) > 1:
            return (*modules[-2].split("."), f"{node.op_type}_{modules[-1]}")
    if node.name and ("/" in node.name or "." in node.name):
        return _dotted(node.name)
    weight = next(
        (one for one in node.inputs if one is not None and one.is_initializer() and "." in str(one.name)), None
    )
    return _dotted(str(weight.name)) if weight is not None else ()


def _listed(text: str) -> list[Any]:
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return []
    return value if isinstance(value, list) else []


def _dotted(name: str) -> Scope:
    return tuple(part for part in name.replace("/", ".").split(".") if part)


class _Assigned:
    """The part of a module by its name, of the innermost that has one."""

    def __init__(self, assignments: Mapping[Scope, int]) -> None:
        numbers = sorted({*assignments.values()})
        self._parts = {scope: numbers.index(number) for scope, number in assignments.items()}
        self._longest = max(map(len, self._parts), default=0)

    def part_of(self, node: "ir.Node") -> int | None:
        """None for a node of none of the modules; names may stand within a longer one, as a wrapper makes them."""
        scope = _scope(node)
        for start in range(len(scope)):
            for stop in range(min(len(scope), start + self._longest), start, -1):
                if (part := self._parts.get(scope[start:stop])) is not None:
                    return part
        return self._parts.get((str(node.name),))


def _prepare(model: "ir.Model") -> None:
    """Functions in their places, nodes in an order in which they can run, and none but nodes that read values."""
    if model.functions:
        common.InlinePass()(model)
    try:
        model.graph.sort()
    except ValueError as error:
        raise ModelError("the graph has a cycle: its nodes have no order in which they can run") from error
    name_outer_outputs(model)
    idle = [value for value in model.graph.outputs if value.producer() is None]
    if idle:
        raise ModelError(f"the output '{idle[0].name}' is an input or a weight itself, which no part computes")


def _places(graph: "ir.Graph", assigned: _Assigned) -> "dict[ir.Node, int]":
    """The part of every node but those that are done wherever they are read."""
    constants = _constants(graph)
    order = [node for node in graph if node not in constants or any(one.is_graph_output() for one in node.outputs)]
    own = {node: assigned.part_of(node) for node in order if node.op_type not in _AS_READ}
    if all(part is None for part in own.values()):
        raise ModelError("no node of the graph is of a module that is assigned to a part")
    places: dict[ir.Node, int] = {}
    readers: dict[ir.Node, list[ir.Node]] = {}
    for node in order:
        sources = [maker for value in _values(node) if (maker := value.producer()) is not None]
        for source in sources:
            readers.setdefault(source, []).append(node)
        part = own.get(node)
        before = [*(places[one] for one in sources if one in places), *([] if part is None else [part])]
        if before:
            places[node] = max(before)
    for node in reversed(order):
        if node not in places:
            places[node] = min((places[one] for one in readers.get(node, ())), default=0)
    return places


def _values(node: "ir.Node") -> "Iterator[ir.Value]":
    """What a node reads, those values among it that its inner graphs take from outside."""
    yield from (value for value in node.inputs if value is not None)
    for graph in _inner_graphs(node):
        for one in graph.all_nodes():
            yield from (value for value in one.inputs if value is not None and value.graph is node.graph)
        yield from (value for value in graph.outputs if value.graph is node.graph)


def _inner_graphs(node: "ir.Node") -> "Iterator[ir.Graph]":
    for attribute in node.attributes.values():
        if attribute.type == ir.AttributeType.GRAPH:
            yield attribute.as_graph()
        elif attribute.type == ir.AttributeType.GRAPHS:
            yield from attribute.as_graphs()


def _bounds(graph: "ir.Graph", places: "Mapping[ir.Node, int]", number: int) -> "list[ir.Value]":
    """What a part takes: inputs of the graph, in their order, then what parts before it give."""
    read: dict[int, ir.Value] = {}
    for node, part in places.items():
        if part == number:
            for value in _values(node):
                for source in _roots(value, places, number):
                    read.setdefault(id(source), source)
    inputs = [value for value in graph.inputs if id(value) in read]
    return [*inputs, *(value for value in read.values() if not value.is_graph_input())]


def _roots(value: "ir.Value", places: "Mapping[ir.Node, int]", number: int) -> "Iterator[ir.Value]":
    """What has to be given to a part for it to have a value."""
    maker = value.producer()
    if maker is None:
        if value.is_graph_input():
            yield value
    elif maker in places and places[maker] != number:
        if maker.op_type == "DequantizeLinear":
            for one in _values(maker):
                yield from _roots(one, places, number)
        else:
            yield value


def _given(graph: "ir.Graph", places: "Mapping[ir.Node, int]", number: int) -> "Iterator[ir.Value]":
    """All that a part computes, in the order of the graph."""
    for node in graph:
        if places.get(node) == number:
            yield from node.outputs


def _is_read(value: "ir.Value", handed: "Mapping[int, ir.Value]") -> bool:
    return value.is_graph_output() or id(value) in handed


def _part(model: "ir.Model", inputs: "Sequence[ir.Value]", outputs: "Sequence[ir.Value]") -> "ir.Model":
    graph = ir.convenience.extract(model.graph, inputs=inputs, outputs=outputs)
    common.RemoveUnusedOpsetsPass()(part := ir.Model(graph, ir_version=model.ir_version))
    part.metadata_props.update(model.metadata_props)
    return part


def _check_types(model: "ir.Model", values: "Sequence[ir.Value]") -> None:
    """Infer what is not told of the values that are handed over; ModelError where nothing tells their type."""
    if all(value.dtype is not None and value.shape is not None for value in values):
        return
    common.ShapeInferencePass()(model)
    unknown = {str(value.name): value for value in values if value.dtype is None}
    if not unknown:
        return
    from onnxruntime.tools.symbolic_shape_infer import SymbolicShapeInference

    try:
        inferred = SymbolicShapeInference.infer_shapes(ir.serde.serialize_model(model), auto_merge=True)
    except Exception as error:  # it raises whatever an operator without a rule leads to
        raise ModelError(f"the types of what parts hand over cannot be inferred: {error}") from error
    for info in inferred.graph.value_info:
        if info.name in unknown:
            ir.serde.deserialize_value_info_proto(info, unknown[info.name])
    if lacking := next((name for name, value in unknown.items() if value.dtype is None), None):
        raise ModelError(f"the type of '{lacking}', which one part would hand to another, is not known")
