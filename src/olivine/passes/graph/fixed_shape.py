"""Fix the open sizes of a graph's inputs."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field, model_validator

from olivine import lazy
from olivine.config.schema import DataConfig
from olivine.errors import ModelError, Problem
from olivine.exporting.graph_files import open_graph
from olivine.models import Model
from olivine.models.facts import ModelFacts
from olivine.models.onnx_files import graph_of
from olivine.models.signature import Signature, Size
from olivine.passes.graph._graph import Counts, GraphPass, SavingParams
from olivine.work import Context, Machine

if TYPE_CHECKING:
    import onnx_ir as ir
    from onnx_ir.passes import common
else:
    ir, common = lazy.module("onnx_ir"), lazy.module("onnx_ir.passes.common")


class FixedShape(GraphPass):
    """Fix open sizes of a graph, by name or input by input; shapes inside follow, as NPUs and mobiles want it."""

    class Params(SavingParams):
        """Names are those of Olive's DynamicToFixedShape."""

        dim_param: list[str] | None = Field(None, description="names of sizes, such as batch and sequence")
        dim_value: list[int] | None = Field(None, description="what each of them is")
        input_name: list[str] | None = Field(None, description="inputs whose shape is fixed")
        input_shape: list[list[int]] | None = Field(None, description="the shape of each of them")

        @model_validator(mode="after")
        def _pairs(self) -> "FixedShape.Params":
            for names, values in (("dim_param", "dim_value"), ("input_name", "input_shape")):
                one, other = getattr(self, names), getattr(self, values)
                if (one is None) != (other is None) or len(one or ()) != len(other or ()):
                    raise ValueError(f"{names} and {values} belong together, one for one")
            sizes = [*(self.dim_value or ()), *(size for shape in self.input_shape or () for size in shape)]
            if any(size < 1 for size in sizes):
                raise ValueError("a size must be at least 1")
            return self

        @property
        def sizes(self) -> dict[str, int]:
            """Sizes by the names that they have."""
            return dict(zip(self.dim_param or (), self.dim_value or (), strict=True))

        @property
        def shapes(self) -> dict[str, list[int]]:
            """Shapes by inputs."""
            return dict(zip(self.input_name or (), self.input_shape or (), strict=True))

    aliases: ClassVar[tuple[str, ...]] = ("DynamicToFixedShape",)
    example: ClassVar[Mapping[str, Any]] = {"dim_param": ["batch_size"], "dim_value": [1]}
    names_in_parts: ClassVar[bool] = True
    nothing: ClassVar[str] = "no size of the graph was open, or has one of these names"
    params: Params

    def check(self, facts: ModelFacts, machine: Machine, data: Mapping[str, DataConfig]) -> Iterator[Problem]:  # noqa: ARG002
        """Inputs and sizes that the graph does not have, where its signature is known."""
        if not self.params.dim_param and not self.params.input_name:
            message = "nothing is named that is to be fixed."
            yield Problem("invalid-value", self.name, message, "Name sizes as dim_param, or inputs as input_name.")
        if facts.signature is None:
            return
        shapes = {spec.name: spec.shape for spec in facts.signature.inputs}
        named = {size for shape in shapes.values() for size in shape or () if isinstance(size, str)}
        for name, shape in self.params.shapes.items():
            told = shapes.get(name)
            if name not in shapes:
                message, fix = f"the model has no input '{name}'.", f"There are: {', '.join(shapes)}."
                yield Problem("invalid-value", self.name, message, fix, ("input_name",))
            elif told is not None and not _could_be(told, shape):
                message = f"the input '{name}' cannot have the shape {shape}: it is {list(told)}."
                yield Problem("invalid-value", self.name, message, "Change what is open.", ("input_shape",))
        for size, first, second in self._contradictions(shapes):
            message = f"the open size '{size}' would be {first} and {second}."
            yield Problem("invalid-value", self.name, message, "Give it one number.", ("input_shape",))
        for name in self.params.sizes:
            if named and name not in OF_OPTIMUM and name not in named:
                told_names = ", ".join(sorted(named)) or "none"
                message, fix = f"no input has an open size '{name}'.", f"There are: {told_names}."
                yield Problem("invalid-value", self.name, message, fix, ("dim_param",))

    def forecast(self, facts: ModelFacts) -> ModelFacts:
        """The same with fixed inputs."""
        if facts.signature is None:
            return facts
        sizes = self._all_sizes({spec.name: spec.shape or () for spec in facts.signature.inputs})
        inputs = tuple(
            replace(spec, shape=tuple(self.params.shapes.get(spec.name) or _fixed(spec.shape, sizes)))
            if spec.shape is not None
            else spec
            for spec in facts.signature.inputs
        )
        return replace(facts, signature=Signature(inputs, facts.signature.outputs))

    def change(self, model: Model, context: Context) -> "tuple[ir.Model, Counts]":
        """Fix inputs, everything that is called as they were, and infer the rest anew; another part may have others."""
        graph = open_graph(graph_of(model))
        inputs = {str(value.name): value for value in graph.graph.inputs}
        for name, shape in self.params.shapes.items():
            if name not in inputs:
                if context.whole is not None:
                    continue
                raise ModelError(f"the graph has no input '{name}'; there are {', '.join(inputs)}")
            if (told := _sizes_of(inputs[name])) and not _could_be(told, shape):
                raise ModelError(f"the input '{name}' cannot have the shape {shape}: it is {list(told)}")
        n_open = sum(not isinstance(size, int) for value in inputs.values() for size in _sizes_of(value))
        sizes = self._all_sizes({name: _sizes_of(value) for name, value in inputs.items()})
        for name, value in inputs.items():
            if name in self.params.shapes:
                value.shape = ir.Shape(self.params.shapes[name])
        for value in _values(graph):
            if value.shape is not None:
                value.shape = ir.Shape(_fixed(_sizes_of(value), sizes))
        if not _has_sequences(graph):  # of which onnx-ir takes the type for that of a tensor
            common.ShapeInferencePass()(graph)
        n_left = sum(not isinstance(size, int) for value in inputs.values() for size in _sizes_of(value))
        return graph, {"sizes fixed": n_open - n_left}

    def _contradictions(self, shapes: Mapping[str, "tuple[Size, ...] | None"]) -> Iterator[tuple[str, int, int]]:
        """Names of sizes that two inputs, or an input and dim_value, would fix to different numbers; each once."""
        fixed = dict(self.params.sizes)
        told: set[str] = set()
        for name, shape in self.params.shapes.items():
            for size, number in zip(shapes.get(name) or (), shape, strict=False):
                if isinstance(size, str) and fixed.setdefault(size, number) != number and size not in told:
                    told.add(size)
                    yield size, fixed[size], number

    def _all_sizes(self, shapes: Mapping[str, "tuple[Size, ...]"]) -> dict[str, int]:
        """Sizes by name, those that a fixed input tells among them."""
        named = {size for shape in shapes.values() for size in shape if isinstance(size, str)}
        sizes = {name if name in named else OF_OPTIMUM.get(name, name): n for name, n in self.params.sizes.items()}
        for name, shape in self.params.shapes.items():
            for size, fixed in zip(shapes.get(name, ()), shape, strict=False):
                if isinstance(size, str):
                    sizes.setdefault(size, fixed)
        return sizes


# Names of sizes in graphs that optimum exports -> those here. Channels, heights and widths are mostly fixed.
OF_OPTIMUM = {
    "batch_size": "batch",
    "sequence_length": "sequence",
    "num_channels": "num_channels",
    "height": "height",
    "width": "width",
}


def _could_be(told: "tuple[Size, ...]", shape: list[int]) -> bool:
    pairs = zip(told, shape, strict=False)
    return len(told) == len(shape) and all(not isinstance(size, int) or size == fixed for size, fixed in pairs)


def _fixed(shape: "tuple[Size, ...]", sizes: Mapping[str, int]) -> "tuple[Size, ...]":
    return tuple(sizes.get(size, size) if isinstance(size, str) else size for size in shape)


def _sizes_of(value: "ir.Value") -> "tuple[Size, ...]":
    """Sizes as of a signature."""
    shape = value.shape if value.shape is not None else ()
    return tuple(size if isinstance(size, int) else size.value for size in shape)


def _has_sequences(model: "ir.Model") -> bool:
    return any("Sequence" in node.op_type or "Optional" in node.op_type for node in model.graph.all_nodes())


def _values(model: "ir.Model") -> "list[ir.Value]":
    nodes = model.graph.all_nodes()
    return [*model.graph.inputs, *(value for node in nodes for value in node.outputs)]
