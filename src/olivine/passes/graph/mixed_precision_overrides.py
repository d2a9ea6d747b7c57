"""MixedPrecisionOverrides: say which tensors a static quantization after it stores in 16 bits."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field, field_validator

from olivine.config.schema import DataConfig
from olivine.errors import ModelError, Problem
from olivine.exporting.eight_bit_graph import plain_type
from olivine.exporting.graph_files import open_graph
from olivine.exporting.surgery import free, names_in
from olivine.models import Model
from olivine.models.facts import ModelFacts
from olivine.models.json_files import read_object
from olivine.models.onnx_files import graph_of
from olivine.passes.graph._graph import Counts, GraphPass, SavingParams
from olivine.passes.graph._int8 import TENSOR_TYPES
from olivine.paths import is_file
from olivine.work import Context, Machine

if TYPE_CHECKING:
    import onnx_ir as ir

_TYPES = ("QInt8", "QUInt8", "QInt16", "QUInt16")


class MixedPrecisionOverrides(GraphPass):
    """Say which tensors a static quantization after it stores in which type, constants beside them included.

    Both sides of a sum or product are of one type: a constant that meets a tensor of 16 bits becomes one. A constant
    that other nodes read as well is copied for these, so that it stays in 8 bits there. The graph computes the same.
    """

    class Params(SavingParams):
        """Names are those of Olive's MixedPrecisionOverrides."""

        overrides_config: dict[str, str] | Path = Field(
            description='the type of each tensor, {"/layer/Add_output_0": "QUInt16"}, or a JSON file that holds that'
        )
        element_wise_binary_ops: list[str] | None = Field(
            None, description="operators whose sides are of one type; else Add, Sub, Mul and Div"
        )

        @field_validator("overrides_config", mode="after")
        @classmethod
        def _known(cls, value: dict[str, str] | Path) -> dict[str, str] | Path:
            return value if isinstance(value, Path) else checked(value)

        def types(self) -> dict[str, str]:
            """The type of each tensor that is named; ModelError or ValueError where the file does not tell."""
            told = self.overrides_config
            return checked(read_object(told)) if isinstance(told, Path) else told

    aliases: ClassVar[tuple[str, ...]] = ("MixedPrecisionOverrides",)
    example: ClassVar[Mapping[str, Any]] = {"overrides_config": {"logits": "QUInt16"}}
    nothing: ClassVar[str] = "no constant meets a tensor of 16 bits"
    params: Params

    def files(self) -> list[Path]:
        """The file of types, where one is named."""
        told = self.params.overrides_config
        return [told] if isinstance(told, Path) else []

    def check(self, facts: ModelFacts, machine: Machine, data: Mapping[str, DataConfig]) -> Iterator[Problem]:  # noqa: ARG002
        """That the file is there and tells types."""
        for file in self.files():
            message = f"there is no file '{file}'" if not is_file(file) else ""
            try:
                message or self.params.types()
            except (ModelError, ValueError) as error:
                message = str(error)
            if message:
                yield Problem("invalid-value", self.name, f"{message}.", key=("overrides_config",))

    def change(self, model: Model, context: Context) -> "tuple[ir.Model, Counts]":
        """Copy the constants that others read as well; told are the tensors that get a type of their own."""
        graph = open_graph(graph_of(model))
        told = self.params.types()
        if lacking := sorted({*told} - names_in(graph.graph)):
            context.report.warn(f"the graph has no tensor '{lacking[0]}', which overrides_config names")
        wide, n_copies = self._widened(graph)
        return graph, {
            "tensors by name": len(told) - len(lacking),
            "constants beside them": len({*wide} - {*told}),
            "copies of constants": n_copies,
        }

    def attributes(self, model: Model) -> Mapping[str, Any]:
        """What a static quantization reads."""
        types, _ = self._widened(open_graph(graph_of(model)))
        return {TENSOR_TYPES: {name: [{"quant_type": kind}] for name, kind in types.items()}}

    def _widened(self, model: "ir.Model") -> tuple[dict[str, str], int]:
        """The type of each tensor, and how many constants were copied for it."""
        there = names_in(model.graph)
        types = {name: kind for name, kind in self.params.types().items() if name in there}
        wide = {name: kind for name, kind in types.items() if "16" in kind}
        copied = 0
        for value, readers in _constants_of(model, wide, self.params.element_wise_binary_ops or _BOTH_SIDES):
            kind = next(iter({wide[name] for reader in readers for name in _names(reader) if name in wide}))
            if {use.node for use in value.uses()} == {*readers} and not value.is_graph_output():
                types[str(value.name)] = kind
                continue
            copy = _copy(model, value, there)
            for reader in readers:
                for place, one in enumerate(reader.inputs):
                    if one is value:
                        reader.replace_input_with(place, copy)
            types[str(copy.name)] = kind
            copied += 1
        return types, copied


_BOTH_SIDES = ("Add", "Sub", "Mul", "Div")


def checked(value: Mapping[str, Any]) -> dict[str, str]:
    """The types under the names of onnxruntime; ValueError for another one."""
    types = {name: plain_type(kind) for name, kind in value.items()}
    for name, kind in types.items():
        if kind not in _TYPES:
            raise ValueError(f"'{name}' has the type {json.dumps(kind)}; there are {', '.join(_TYPES)}")
    return types


def _names(node: "ir.Node") -> list[str]:
    return [str(value.name) for value in (*node.inputs, *node.outputs) if value is not None]


def _constants_of(
    model: "ir.Model", wide: Mapping[str, str], kinds: "tuple[str, ...] | list[str]"
) -> "list[tuple[ir.Value, list[ir.Node]]]":
    """Weights that no one gives a type to, each with the nodes in which it stands beside a tensor of 16 bits."""
    readers: dict[ir.Value, list[ir.Node]] = {}
    for node in model.graph:
        if node.op_type in kinds and any(name in wide for name in _names(node)):
            for value in node.inputs:
                if value is not None and value.is_initializer() and str(value.name) not in wide:
                    readers.setdefault(value, []).append(node)
    return [*readers.items()]


def _copy(model: "ir.Model", value: "ir.Value", taken: set[str]) -> "ir.Value":
    import onnx_ir as ir

    name = free(f"{value.name}_MixedPrecision_copy", taken)
    taken.add(name)
    tensor = value.const_value
    copy = ir.Value(name=name, type=value.type, shape=value.shape, const_value=tensor)
    model.graph.register_initializer(copy)
    return copy
