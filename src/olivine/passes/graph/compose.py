"""ComposeOnnxModels: one ONNX graph of parts that follow each other."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar, Literal

from olivine.config.schema import DataConfig
from olivine.errors import Problem, Unsupported
from olivine.exporting.graph_files import open_graph, save_graph
from olivine.models import GENAI_CONFIG, ONNX_FILE, Model
from olivine.models.chained import CHAIN, GENAI
from olivine.models.companions import COMPANIONS
from olivine.models.deciding import deciding_files
from olivine.models.facts import ModelFacts
from olivine.models.onnx_files import check_onnx, graph_of
from olivine.passes.graph._graph import Counts, GraphPass
from olivine.work import Context, Machine

if TYPE_CHECKING:
    import onnx_ir as ir


class Compose(GraphPass):
    """Make one graph of the parts of a model: what one gives, those after it take by the same name.

    The inverse of SplitModel, and any composite of graphs that fit. Inputs that several parts take are one; outputs
    are those that no part takes, or those of the graph that was split. Weights that parts have alike are stored once.
    """

    aliases: ClassVar[tuple[str, ...]] = ("ComposeOnnxModels",)
    of_parts: ClassVar[Literal["each", "whole", "neither"]] = "whole"

    def check(self, facts: ModelFacts, machine: Machine, data: Mapping[str, DataConfig]) -> Iterator[Problem]:  # noqa: ARG002
        """One part is one graph already."""
        if not facts.parts:
            message = "the model is one graph already."
            yield Problem("invalid-value", self.name, message, "Put SplitModel before it, or leave the pass out.")

    def forecast(self, facts: ModelFacts) -> ModelFacts:
        """One graph of that size; of a decoder that was split, the decoder again."""
        if facts.decoder is not None:
            return replace(facts, kind="decoder", parts={})
        return replace(facts.as_graph(None, facts.bytes_per_weight), parts={})

    def requires(self, model: Model) -> None:
        """Unsupported for one model, too."""
        super().requires(model)
        if model.format != "composite":
            raise Unsupported(f"pass '{self.name}' takes a model of several parts, but got one graph")

    def change(self, model: Model, context: Context) -> "tuple[ir.Model, Counts]":
        """Compose; told are the values that parts hand over."""
        from olivine.exporting.compose_graphs import compose, n_handed_over

        parts = {}
        for name, part in model.parts.items():
            check_onnx(part)
            parts[name] = open_graph(graph_of(part))
        n_values = n_handed_over(parts)
        if not n_values:
            context.report.warn("no part takes what another one gives: they stand side by side in one graph")
        told = model.attributes.get(CHAIN) or {}
        graph = compose(parts, told.get("inputs", ()), told.get("outputs", ()))
        return graph, {"parts": len(model.parts), "values that they handed over": n_values}

    def run(self, model: Model, context: Context) -> Model:
        """Compose the parts and write the graph, beside what belongs to all of them."""
        graph, counts = self.change(model, context)
        genai = model.attributes.get(GENAI)
        name = str(genai["model"]["decoder"]["filename"]) if genai else "model.onnx"
        save_graph(graph, context.output / name, self.params.saving)
        for file, path in deciding_files(model):
            if file in COMPANIONS:
                (context.output / file).write_bytes(path.read_bytes())
        if genai:
            text = json.dumps(genai, indent=4) + "\n"
            (context.output / GENAI_CONFIG).write_text(text, encoding="utf-8")
        context.report.record(changes=dict(counts), summary=", ".join(f"{n} {what}" for what, n in counts.items()))
        return Model("onnx", context.output, task=model.task, attributes={} if genai else {ONNX_FILE: name})
