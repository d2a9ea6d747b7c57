"""Small changes of an ONNX graph, by name."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field, field_validator

from olivine.config.schema import DataConfig
from olivine.errors import ModelError, Problem
from olivine.exporting.graph_files import open_graph
from olivine.exporting.surgery import NoPlaceError, Surgeon, surgeon_of
from olivine.models import Model
from olivine.models.facts import ModelFacts
from olivine.models.onnx_files import graph_of
from olivine.passes.graph._graph import Counts, GraphPass, SavingParams
from olivine.work import Context, Machine

if TYPE_CHECKING:
    import onnx_ir as ir


class Surgery(GraphPass):
    """Make small changes of a graph that are known by name, one after the other: products, norms, names, embeddings.

    Each tells how many places it has changed, and a second time finds none.
    """

    class Params(SavingParams):
        """Names are those of Olive's GraphSurgeries."""

        surgeries: list[dict[str, Any]] = Field(
            default_factory=list, description='in order; each {"surgeon": NAME} and its own params'
        )
        strict: bool = Field(False, description="fail where a surgeon finds no place")

        @field_validator("surgeries", mode="before")
        @classmethod
        def _one_is_a_list(cls, value: Any) -> Any:
            return [value] if isinstance(value, Mapping) else value

    aliases: ClassVar[tuple[str, ...]] = ("GraphSurgeries",)
    example: ClassVar[Mapping[str, Any]] = {"surgeries": [{"surgeon": "RemoveQDQ"}]}
    nothing: ClassVar[str] = "no surgeon found a place in the graph"
    params: Params

    def check(self, facts: ModelFacts, machine: Machine, data: Mapping[str, DataConfig]) -> Iterator[Problem]:  # noqa: ARG002
        """Surgeons that there are not, and params that they do not take."""
        for index, record in enumerate(self.params.surgeries):
            try:
                surgeon_of(record)
            except ValueError as error:
                yield Problem("invalid-value", self.name, f"{error}.", key=("surgeries", index))

    def change(self, model: Model, context: Context) -> "tuple[ir.Model, Counts]":
        """Operate one after the other."""
        graph = open_graph(graph_of(model))
        counts: dict[str, int] = {}
        for record in self.params.surgeries:
            surgeon = surgeon_of(record)
            for sentence in surgeon.lacking(graph):
                context.report.warn(sentence)
            name, n_places = type(surgeon).__name__, _operate(surgeon, graph, context)
            if not n_places and self.params.strict:
                raise ModelError(f"the surgeon {name} finds no place in the graph, and strict is set")
            if not n_places and len(self.params.surgeries) > 1:
                context.report.warn(f"the surgeon {name} found no place in the graph")
            counts[name] = counts.get(name, 0) + n_places
        return graph, counts


def _operate(surgeon: Surgeon, graph: "ir.Model", context: Context) -> int:
    """The number of places; of a model of several parts, one may lack what the params count."""
    try:
        return surgeon.operate(graph)
    except NoPlaceError as error:
        if context.whole is None:
            raise
        context.report.warn(f"{type(surgeon).__name__} changes nothing: {error}")
        return 0
