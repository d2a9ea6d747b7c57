"""ONNX graphs that follow each other as one graph: what one gives, those after it take by the same name."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from olivine import lazy
from olivine.errors import ModelError
from olivine.exporting.surgery import free

if TYPE_CHECKING:
    import onnx_ir as ir
    from onnx_ir.passes import common
else:
    ir, common = lazy.module("onnx_ir"), lazy.module("onnx_ir.passes.common")


def compose(parts: "Mapping[str, ir.Model]", inputs: Sequence[str] = (), outputs: Sequence[str] = ()) -> "ir.Model":
    """One graph of several, which are used up.

    parts: by name, in the order in which they run. inputs, outputs: names in the order that the whole is to have; of
    inputs those that are not named come after them. Without outputs, all that no part takes are given. Weights and
    constants that several parts have alike are stored once. Raises ModelError where the parts do not fit each other.
    """
    for model in parts.values():
        common.InlinePass()(model)
    _check(parts)
    taken = {str(value.name) for part in parts.values() for value in part.graph.inputs}
    (_, first), *others = parts.items()
    whole = _Whole(first)
    for name, part in others:
        whole.add(name, part)
    whole.finish(inputs, outputs or [name for name in whole.given if name not in taken])
    return first


def n_handed_over(parts: "Mapping[str, ir.Model]") -> int:
    """How many values one part gives and another takes."""
    given = {str(value.name) for part in parts.values() for value in part.graph.outputs}
    return len(given & {str(value.name) for part in parts.values() for value in part.graph.inputs})


def _check(parts: "Mapping[str, ir.Model]") -> None:
    """No output comes twice, none is taken by a part before it, and operators are of one version."""
    taken: dict[str, str] = {}
    given: dict[str, str] = {}
    versions: dict[str, tuple[int, str]] = {}
    for name, part in parts.items():
        taken |= {str(value.name): name for value in part.graph.inputs}
        for value in part.graph.outputs:
            output = str(value.name)
            if output in given:
                raise ModelError(f"the parts '{given[output]}' and '{name}' both give '{output}'")
            if output in taken:
                raise ModelError(
                    f"the part '{name}' gives '{output}', which '{taken[output]}' takes before it is there"
                )
            given[output] = name
        for domain, version in part.graph.opset_imports.items():
            known, other = versions.setdefault(domain, (version, name))
            if known != version:
                raise ModelError(
                    f"the parts '{other}' and '{name}' are of opsets {known} and {version} of {domain or 'ONNX'}: bring"
                    " them to one with OnnxOpVersionConversion"
                )


class _Whole:
    """The first graph, and those that were added to it. given: what any of them gives, by name."""

    def __init__(self, model: "ir.Model") -> None:
        self._model, self._graph = model, model.graph
        self.given = {str(value.name): value for value in self._graph.outputs}
        self._inputs = {str(value.name): value for value in self._graph.inputs}
        self._nodes = {(node.name, node.op_identifier()): node for node in self._graph}

    def add(self, name: str, part: "ir.Model") -> None:
        """Join what is called alike, and move all nodes."""
        self._model.ir_version = max(self._model.ir_version or 0, part.ir_version or 0)
        self._graph.opset_imports.update(part.graph.opset_imports)
        own_outputs = [*part.graph.outputs]
        part.graph.outputs.clear()
        self._join_inputs(name, part.graph)
        self._join_weights(part.graph)
        nodes = [*part.graph]
        part.graph.remove(nodes)
        for node in nodes:
            same = self._nodes.get((node.name, node.op_identifier()))
            if same is not None and not {*node.outputs} & {*own_outputs} and _do_same(node, same):
                for mine, other in zip(node.outputs, same.outputs, strict=True):
                    mine.replace_all_uses_with(other)
            else:
                self._graph.append(node)
                self._nodes.setdefault((node.name, node.op_identifier()), node)
        self.given |= {str(value.name): value for value in own_outputs}

    def finish(self, inputs: Sequence[str], outputs: Sequence[str]) -> None:
        """Give the whole its inputs and outputs in their order, and everything else a name of its own."""
        if lacking := next((name for name in outputs if name not in self.given), None):
            raise ModelError(f"no part gives the output '{lacking}' of the whole")
        ordered = [*(name for name in inputs if name in self._inputs), *self._inputs]
        self._graph.inputs.clear()
        self._graph.inputs.extend(self._inputs[name] for name in dict.fromkeys(ordered))
        self._graph.outputs.clear()
        self._graph.outputs.extend(self.given[name] for name in outputs)
        common.RemoveUnusedNodesPass()(self._model)
        common.NameFixPass()(self._model)

    def _join_inputs(self, name: str, graph: "ir.Graph") -> None:
        inputs = [*graph.inputs]
        graph.inputs.clear()
        for value in inputs:
            known = self.given.get(str(value.name)) or self._inputs.get(str(value.name))
            if known is None:
                self._graph.inputs.append(value)
                self._inputs[str(value.name)] = value
                continue
            _check_fits(name, value, known)
            value.replace_all_uses_with(known)

    def _join_weights(self, graph: "ir.Graph") -> None:
        mine = self._graph.initializers
        for key, value in [*graph.initializers.items()]:
            del graph.initializers[key]
            if key in mine and _are_equal(mine[key].const_value, value.const_value):
                value.replace_all_uses_with(mine[key])
            else:
                value.name = free(key, {*mine})
                self._graph.register_initializer(value)


def _check_fits(name: str, taken: "ir.Value", given: "ir.Value") -> None:
    """That an input is of the type and, as far as both are told, of the sizes of what it is given."""
    if taken.dtype is not None and given.dtype is not None and taken.dtype != given.dtype:
        raise ModelError(
            f"the part '{name}' takes '{taken.name}' as {taken.dtype}, but what it is given is {given.dtype}"
        )
    if taken.shape is None or given.shape is None:
        return
    pairs = [*zip(taken.shape, given.shape, strict=False)]
    clash = any(isinstance(one, int) and isinstance(other, int) and one != other for one, other in pairs)
    if clash or len(taken.shape) != len(given.shape):
        raise ModelError(
            f"the part '{name}' takes '{taken.name}' as {taken.shape}, but what it is given is {given.shape}"
        )


def _are_equal(one: Any, other: Any) -> bool:
    if one is None or other is None or one.dtype != other.dtype or one.shape != other.shape:
        return False
    return bool(one.dtype != ir.DataType.STRING and one.tobytes() == other.tobytes())


def _do_same(one: "ir.Node", other: "ir.Node") -> bool:
    """Whether two nodes compute the same of the same values, as parts of one graph both have a constant."""
    if [*one.inputs] != [*other.inputs] or len(one.outputs) != len(other.outputs):
        return False
    attributes = [sorted((name, _content(value)) for name, value in node.attributes.items()) for node in (one, other)]
    return attributes[0] == attributes[1]


def _content(attribute: "ir.Attr") -> bytes:
    content: bytes = ir.serde.serialize_attribute(attribute).SerializeToString(deterministic=True)
    return content
