"""What passes on ONNX graphs have in common: how a graph is stored, what belongs to it, and how a change is told."""

import shutil
from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, field_validator

from olivine import paths
from olivine.config.schema import DataConfig
from olivine.exporting.graph_files import Saving, save_graph
from olivine.models import Model
from olivine.models.deciding import deciding_files
from olivine.models.facts import Kind, ModelFacts
from olivine.models.onnx_files import check_onnx, graph_of, header_of
from olivine.passes._base import ANY_KIND, Pass, PassParams
from olivine.passes.graph._genai_names import follow_names
from olivine.runtimes.session import OnnxSession
from olivine.work import Context, Estimate, Machine

if TYPE_CHECKING:
    import onnx_ir as ir


class SavingParams(PassParams):
    """How the weights of the result are stored; the names are Olive's."""

    save_as_external_data: bool | None = Field(
        None, description="weights lie in a file beside the graph; else as they lay, and beside it above 1 GiB"
    )
    all_tensors_to_one_file: bool = Field(True, description="false: a file for each of the weights beside the graph")
    external_data_name: str | None = Field(None, description="name of that file; else the graph's with .data")
    size_threshold: int = Field(1024, ge=0, description="bytes from which a weight lies beside the graph; 512 at least")
    convert_attribute: bool = Field(False, description="constants in attributes of nodes lie beside the graph too")

    @field_validator("external_data_name")
    @classmethod
    def _is_a_name(cls, value: str | None) -> str | None:
        if value is not None and (not paths.could_be(value) or Path(value).name != value or "\\" in value):
            raise ValueError("must be the name of a file, not a path")
        return value

    @property
    def saving(self) -> Saving:
        """The same as `save_graph` takes it."""
        return Saving(
            external=self.save_as_external_data,
            one_file=self.all_tensors_to_one_file,
            file_name=self.external_data_name,
            threshold=self.size_threshold,
            constants=self.convert_attribute,
        )


Counts = Mapping[str, int]
"""What a change did, by what it is called, such as {"Attention": 12}."""


class GraphPass(Pass):
    """A pass from an ONNX graph to another one, under the same name and beside the same files.

    A subclass brings its params and `change`. nothing: what to say where it changed nothing. growth: bytes of the
    result for each of the graph; copies: how often the weights are in memory.
    """

    Params: ClassVar[type[SavingParams]] = SavingParams
    accepts: ClassVar[frozenset[str]] = frozenset({"onnx"})
    produces: ClassVar[str] = "onnx"
    kinds: ClassVar[frozenset[Kind]] = ANY_KIND
    libraries: ClassVar[tuple[str, ...]] = ("onnx", "onnx-ir", "onnxscript", "onnxruntime")
    modules: ClassVar[Mapping[str, str]] = {"onnxruntime": "cpu"}
    of_parts: ClassVar[Literal["each", "whole", "neither"]] = "each"
    nothing: ClassVar[str] = "nothing in the graph was changed"
    growth: ClassVar[float] = 1.0
    copies: ClassVar[float] = 1.0
    params: SavingParams

    @abstractmethod
    def change(self, model: Model, context: Context) -> "tuple[ir.Model, Counts]":
        """The other graph, and what was done."""

    def run(self, model: Model, context: Context) -> Model:
        """Change the graph and write it; what was done is recorded, and nothing is a warning."""
        check_onnx(model)
        path = graph_of(model)
        graph, counts = self.change(model, context)
        copy_others(model, context.output)
        result = context.output / path.relative_to(model.path)
        save_graph(graph, result, self.params.saving)
        if model.packaging == "genai" and (said := follow_names(context.output, path, result)) is not None:
            context.report.warn(said)
        report_counts(counts, context, self.nothing)
        return Model("onnx", context.output, task=model.task, attributes={**model.attributes, **self.attributes(model)})

    def attributes(self, model: Model) -> Mapping[str, Any]:  # noqa: ARG002
        """Facts that the result has beside those of its input."""
        return {}

    def estimate(self, facts: ModelFacts, machine: Machine, data: Mapping[str, DataConfig]) -> Estimate:  # noqa: ARG002
        """Frameworks, and the weights as often as they are held at once."""
        size = facts.weight_bytes or int(facts.n_parameters * 4)
        return Estimate(memory_bytes=int(0.5e9 + self.copies * size), disk_bytes=int(self.growth * size))

    def ensures(self, model: Model) -> None:
        """The result loads in onnxruntime."""
        OnnxSession(graph_of(model))


def report_counts(counts: Counts, context: Context, nothing: str) -> None:
    """Record what was done, in numbers and as a sentence; warn where that is nothing."""
    done = {name: count for name, count in counts.items() if count}
    if not done:
        context.report.warn(nothing)
    summary = ", ".join(f"{count} {name}" for name, count in done.items()) or "nothing"
    context.report.record(changes=done, summary=summary)


def copy_others(model: Model, target: Path) -> None:
    """Everything that belongs to the model but its graph and the data of that."""
    header = header_of(model)
    own = {header.path, *(header.path.parent / name for name in header.external_files)}
    for name, path in deciding_files(model):
        if path not in own:
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(path, target / name)
