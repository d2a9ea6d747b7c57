"""SplitModel: cut an ONNX graph into parts that are run one after the other."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, field_validator

from olivine.config.schema import DataConfig
from olivine.errors import ModelError, Problem, Unsupported
from olivine.exporting.graph_files import open_graph, save_graph
from olivine.models import GENAI_CONFIG, ONNX_FILE, Model
from olivine.models.chained import CHAIN, GENAI
from olivine.models.companions import COMPANIONS
from olivine.models.deciding import deciding_files
from olivine.models.facts import ModelFacts
from olivine.models.interface import composite_facts
from olivine.models.json_files import read_object
from olivine.models.onnx_files import check_onnx, files_of_adapter, graph_of
from olivine.passes._base import Pass
from olivine.passes.graph._graph import Counts, GraphPass, SavingParams
from olivine.passes.graph._splitting import SplitPoints, last_split
from olivine.runtimes.session import OnnxSession
from olivine.work import Context, Machine

if TYPE_CHECKING:
    import onnx_ir as ir

    from olivine.exporting.split_graph import Scope

ASSIGNMENTS = "split_assignments"  # where Olive writes them into a graph


class Split(GraphPass):
    """Cut a graph into parts that are run one after the other: split_0, split_1 and so on.

    Where, is said by 1. `split_assignments`; else 2. an earlier CaptureSplitInfo or the same params here; else 3. what
    the graph itself says in its metadata. Outputs of the chain of parts are those of the graph.
    """

    class Params(SplitPoints, SavingParams):
        """Names are those of Olive's SplitModel, and of its CaptureSplitInfo."""

        split_assignments: dict[str, int] | None = Field(
            None, description="the part of each module or node, from 0; as a text: name1=0;name2=1"
        )

        @field_validator("split_assignments", mode="before")
        @classmethod
        def _of_text(cls, value: Any) -> Any:
            return parsed(value) if isinstance(value, str) else value

    aliases: ClassVar[tuple[str, ...]] = ("SplitModel",)
    example: ClassVar[Mapping[str, Any]] = {"num_splits": 2}
    of_parts: ClassVar[Literal["each", "whole", "neither"]] = "neither"
    params: Params

    @classmethod
    def inherited(cls, earlier: Sequence[Pass]) -> Mapping[str, Any]:
        """What an earlier CaptureSplitInfo says."""
        return last_split(earlier) or {}

    def files(self) -> list[Any]:
        """The file of costs, where one counts."""
        return [] if self.params.split_assignments else self.params.files()

    def check(self, facts: ModelFacts, machine: Machine, data: Mapping[str, DataConfig]) -> Iterator[Problem]:  # noqa: ARG002
        """The file of costs, which an earlier CaptureSplitInfo has been told of."""
        if self.params.split_assignments is None:
            yield from self.params.problems(self.name)

    def forecast(self, facts: ModelFacts) -> ModelFacts:
        """As many parts as are known of; inputs and outputs of each are not."""
        told = self.params.split_assignments
        n_parts = len({*told.values()}) if told else self.params.num_splits or 2
        n_parts += 2 * (self.params.unique_embeds_lm_head_splits and not told)
        part = replace(
            facts.as_graph(None, facts.bytes_per_weight),
            n_parameters=facts.n_parameters // n_parts,
            weight_bytes=facts.weight_bytes // n_parts,
        )
        parts = {f"split_{number}": part for number in range(n_parts)}
        return replace(composite_facts(parts, facts.task), decoder=facts.decoder)

    def change(self, model: Model, context: Context) -> "tuple[ir.Model, Counts]":
        """A graph is not changed but cut, see `run`."""
        raise NotImplementedError

    def run(self, model: Model, context: Context) -> Model:
        """Cut the graph, and write each part into a folder of its own."""
        from olivine.exporting.split_graph import split

        check_onnx(model)
        if files_of_adapter(model.path):
            raise Unsupported("weights of an adapter are inputs of this graph: put ExtractAdapters after the split")
        graph = open_graph(graph_of(model))
        inputs = [str(value.name) for value in graph.graph.inputs if value.name not in graph.graph.initializers]
        outputs = [str(value.name) for value in graph.graph.outputs]
        cut = split(graph, self._assignments(graph))
        if len(cut.graphs) == 1:
            context.report.warn("all nodes are of one part: there was nothing to split")
        elif (asked := self._n_asked()) is not None and len(cut.graphs) < asked:
            context.report.warn(f"{asked} parts were asked for, and the modules of the graph make {len(cut.graphs)}")
        parts: dict[str, Model] = {}
        for number, part in enumerate(cut.graphs):
            folder = context.output / f"split_{number}"
            folder.mkdir()
            save_graph(part, folder / "model.onnx", self.params.saving)
            parts[folder.name] = Model("onnx", folder, task=model.task, attributes={ONNX_FILE: "model.onnx"})
        for name, path in deciding_files(model):
            if name in COMPANIONS:
                (context.output / name).write_bytes(path.read_bytes())
        n_nodes = [len(part.graph) for part in cut.graphs]
        told = ", ".join(f"{name} {count}" for name, count in zip(parts, n_nodes, strict=True))
        context.report.record(
            nodes=dict(zip(parts, n_nodes, strict=True)),
            handed_over=sorted(cut.handed_over),
            summary=f"nodes: {told}; {len(cut.handed_over)} values go from part to part",
        )
        attributes: dict[str, Any] = {CHAIN: {"inputs": inputs, "outputs": outputs}}
        if model.packaging == "genai":
            attributes[GENAI] = read_object(model.path / GENAI_CONFIG)
        return Model("composite", context.output, task=model.task, attributes=attributes, parts=parts)

    def ensures(self, model: Model) -> None:
        """Every part loads in onnxruntime."""
        for part in model.parts.values():
            OnnxSession(graph_of(part))

    def _n_asked(self) -> int | None:
        """How many parts the params name; None where something else tells."""
        params = self.params
        is_told = params.split_assignments is None and params.num_splits is not None
        return (params.num_splits or 0) + 2 * params.unique_embeds_lm_head_splits if is_told else None

    def _assignments(self, graph: "ir.Model") -> "dict[Scope, int]":
        told = self.params.split_assignments
        if told is None and self.params.are_told:
            return self.params.assignments(graph)
        if told is None and ASSIGNMENTS in graph.metadata_props:
            try:
                told = parsed(graph.metadata_props[ASSIGNMENTS])
            except ValueError as error:
                raise ModelError(f"the metadata of the graph names no parts: {error}") from error
        if not told:
            raise ModelError(
                "it is not said where the graph is split: set num_splits, or split_assignments, or put CaptureSplitInfo"
                " before it"
            )
        return {tuple(part for part in name.replace("/", ".").split(".") if part): part for name, part in told.items()}


def parsed(text: str) -> dict[str, int]:
    """The assignments in a text such as "model.layers.0=0;model.layers.1=1". Raises ValueError for another one."""
    told: dict[str, int] = {}
    for pair in filter(None, (one.strip() for one in text.split(";"))):
        name, sign, number = pair.rpartition("=")
        if not sign or not name or not number.strip().isdecimal():
            raise ValueError(f"'{pair[:60]}' must have the form name=0")
        told[name] = int(number)
    return told
