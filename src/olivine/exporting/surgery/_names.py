"""Other names of inputs, outputs and their sizes."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pydantic import model_validator

from olivine import lazy
from olivine.errors import ModelError
from olivine.exporting.surgery._base import Surgeon

if TYPE_CHECKING:
    import onnx_ir as ir
else:
    ir = lazy.module("onnx_ir")


class _Rename(Surgeon):
    old_names: list[str]
    new_names: list[str]

    @model_validator(mode="after")
    def _pairs(self) -> "_Rename":
        if len(self.old_names) != len(self.new_names):
            raise ValueError("old_names and new_names belong together, one for one")
        return self

    def _rename(self, values: "Sequence[ir.Value]") -> int:
        known = {str(value.name): value for value in values}
        meant = [(known[old], new) for old, new in zip(self.old_names, self.new_names, strict=True) if old in known]
        for value, new in meant:
            if new in known and known[new] is not value:
                raise ModelError(f"'{value.name}' cannot be called '{new}': another one is")
            value.name = new
        return len(meant)


class RenameInputs(_Rename):
    """Call inputs otherwise."""

    def operate(self, model: "ir.Model") -> int:
        """See Surgeon."""
        return self._rename(model.graph.inputs)


class RenameOutputs(_Rename):
    """Call outputs otherwise."""

    def operate(self, model: "ir.Model") -> int:
        """See Surgeon."""
        return self._rename(model.graph.outputs)


class _RenameDims(Surgeon):
    dim_idx: int
    dim_name: str

    def _rename(self, values: "Sequence[ir.Value]", index: int, what: str) -> int:
        if not 0 <= index < len(values):
            raise ModelError(f"the graph has {len(values)} {what}s, and no {what} {index}")
        value = values[index]
        if value.shape is None or not 0 <= self.dim_idx < value.shape.rank():
            raise ModelError(f"the {what} '{value.name}' has no dimension {self.dim_idx}")
        sizes = list(value.shape)
        if sizes[self.dim_idx] == ir.SymbolicDim(self.dim_name):
            return 0
        sizes[self.dim_idx] = self.dim_name
        value.shape = ir.Shape(sizes)
        return 1


class RenameInputDims(_RenameDims):
    """Give a size of an input a name, which leaves it open."""

    input_idx: int

    def operate(self, model: "ir.Model") -> int:
        """See Surgeon."""
        return self._rename(model.graph.inputs, self.input_idx, "input")


class RenameOutputDims(_RenameDims):
    """Give a size of an output a name, which leaves it open."""

    output_idx: int

    def operate(self, model: "ir.Model") -> int:
        """See Surgeon."""
        return self._rename(model.graph.outputs, self.output_idx, "output")
