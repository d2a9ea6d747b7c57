"""CaptureSplitInfo: say where SplitModel splits the graph that is made of a checkpoint."""

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

from olivine.config.schema import DataConfig
from olivine.errors import Problem
from olivine.models import Model
from olivine.models.facts import Kind, ModelFacts
from olivine.passes._base import ANY_KIND, UNCHANGED, Pass
from olivine.passes.graph._splitting import SplitPoints
from olivine.work import Context, Machine


class CaptureSplitInfo(Pass):
    """Say where a later SplitModel splits the graph that is made of the model, which is given back as it came."""

    Params: ClassVar[type[SplitPoints]] = SplitPoints
    aliases: ClassVar[tuple[str, ...]] = ("CaptureSplitInfo",)
    example: ClassVar[Mapping[str, Any]] = {"num_splits": 2}
    accepts: ClassVar[frozenset[str]] = frozenset({"hf", "script", "adapter", "onnx"})
    produces: ClassVar[str] = UNCHANGED
    kinds: ClassVar[frozenset[Kind]] = ANY_KIND
    params: SplitPoints

    def splits_at(self) -> Mapping[str, Any]:
        """Its params."""
        return self.params.model_dump(exclude_none=True)

    def check(self, facts: ModelFacts, machine: Machine, data: Mapping[str, DataConfig]) -> Iterator[Problem]:  # noqa: ARG002
        """That it says something, of modules that the checkpoint has."""
        if not self.params.are_told:
            fix = "Set num_splits, or cost_model and memory."
            yield Problem("invalid-value", self.name, "it is not said how many parts there are.", fix)
        yield from self.params.problems(self.name)
        if facts.kind != "graph":
            for block in self.params.block_to_split or ():
                if facts.shapes and block and not any(name.startswith(f"{block}.") for name in facts.shapes):
                    message = f"the model has no module '{block}' with weights."
                    yield Problem("invalid-value", self.name, message, key=("block_to_split",))
        n_parts = self.params.num_splits or 1
        if facts.decoder is not None and self.params.block_to_split is None and n_parts > facts.decoder.n_layers:
            message = f"num_splits {n_parts} is more than the model's {facts.decoder.n_layers} layers."
            yield Problem("invalid-value", self.name, message, "Ask for fewer.", ("num_splits",))

    def run(self, model: Model, context: Context) -> Model:
        """Nothing is done here: the graph is split when it is there."""
        context.report.record(summary="SplitModel splits the graph")
        return model
