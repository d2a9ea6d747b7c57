"""Other names of inputs, outputs and their sizes."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from pydantic import model_validator

from olivine import lazy
from olivine.errors import ModelError
from olivine.exporting.surgery._base import NoPlaceError, Surgeon, free, names_in

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
        for names in (self.old_names, self.new_names):
            if twice := next((name for name in names if names.count(name) > 1), None):
                raise ValueError(f"'{twice}' stands there twice")
        return self

    def _rename(self, model: "ir.Model", values: "Sequence[ir.Value]") -> int:
        known = {str(value.name): value for value in values}
        pairs = zip(self.old_names, self.new_names, strict=True)
        meant = {old: new for old, new in pairs if old in known and old != new}
        taken = names_in(*model.graphs()) - set(meant)
        for old, new in meant.items():
            if new in taken:
                raise ModelError(f"'{old}' cannot be called '{new}': another value of the graph is")
        for place, old in enumerate(meant):  # in two steps, as one may get the name that another gives up
            known[old].name = f"{free('renamed', taken)}_{place}"
        for old, new in meant.items():
            known[old].name = new
        return len(meant)

    def _lacking(self, values: "Sequence[ir.Value]", what: str) -> Iterator[str]:
        names = [str(value.name) for value in values]
        for old, new in zip(self.old_names, self.new_names, strict=True):
            if old not in names and new not in names:
                yield f"the graph has no {what} '{old}' to be renamed; there are {', '.join(names)}"


class RenameInputs(_Rename):
    """Call inputs otherwise."""

    def operate(self, model: "ir.Model") -> int:
        """See Surgeon."""
        return self._rename(model, model.graph.inputs)

    def lacking(self, model: "ir.Model") -> Iterator[str]:
        """See Surgeon."""
        yield from self._lacking(model.graph.inputs, "input")


class RenameOutputs(_Rename):
    """Call outputs otherwise."""

    def operate(self, model: "ir.Model") -> int:
        """See Surgeon."""
        return self._rename(model, model.graph.outputs)

    def lacking(self, model: "ir.Model") -> Iterator[str]:
        """See Surgeon."""
        yield from self._lacking(model.graph.outputs, "output")


class _RenameDims(Surgeon):
    dim_idx: int
    dim_name: str

    def _rename(self, values: "Sequence[ir.Value]", index: int, what: str) -> int:
        if not 0 <= index < len(values):
            raise NoPlaceError(f"the graph has {len(values)} {what}s, and no {what} {index}")
        value = values[index]
        if value.shape is None or not 0 <= self.dim_idx < value.shape.rank():
            raise NoPlaceError(f"the {what} '{value.name}' has no dimension {self.dim_idx}")
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
