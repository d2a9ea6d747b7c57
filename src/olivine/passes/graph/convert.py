"""Export a checkpoint to an ONNX graph with torch's exporters."""

import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, field_validator

from olivine.config.schema import DataConfig
from olivine.errors import Problem, Unsupported
from olivine.exporting.graph_files import open_graph, save_graph
from olivine.models import ONNX_FILE, Model
from olivine.models.facts import Kind, ModelFacts
from olivine.models.interface import composite_facts, facts_of, signature_of, text_signature
from olivine.models.io_config import Example, examples, signature_by, sizes_by
from olivine.models.loading import load_module
from olivine.models.materialize import copy_companions
from olivine.models.onnx_files import graph_of
from olivine.models.scripted import IO_CONFIG, LOAD, opened, script_of
from olivine.models.seq2seq import DECODER, ENCODER, WITH_PAST
from olivine.models.signature import Signature
from olivine.passes._base import ANY_KIND, Pass
from olivine.passes.graph._graph import SavingParams
from olivine.runtimes.session import OnnxSession
from olivine.work import Context, Estimate, Machine

if TYPE_CHECKING:
    from olivine.exporting.torch_export import Exporter, Request

OPSETS = {None: (9, 23), False: (9, 20), True: (18, 23)}  # least and newest, by use_dynamo_exporter
NEWEST_TRACED = 20


class Convert(Pass):
    """Export a checkpoint to an ONNX graph: any encoder, vision, audio, encoder-decoder or text model.

    Inputs and their open sizes follow from the model's task, outputs from what it gives. The graph is run beside the
    checkpoint at two sizes of everything that is open: one that computes something else is no result. Attention is the
    plain one, which onnxruntime's fusions know; a decoder is exported without a cache (ModelBuilder has one).

    Of an encoder-decoder come three graphs with the names of Optimum: encoder_model, decoder_model and, for every token
    after the first, decoder_with_past_model, each in a folder of its own. With an io_config, or dynamic: false, there
    is one graph, which takes what is written as decoder_input_ids.
    """

    class Params(SavingParams):
        """Names are those of Olive's OnnxConversion."""

        target_opset: int = Field(20, description="version of ONNX's operators in the result")
        use_dynamo_exporter: bool | None = Field(
            None, description="true: torch.export; false: the tracing exporter; else tracing, and the other if it fails"
        )
        dynamic: bool = Field(True, description="false: every size is fixed, and batches hold one row")
        torch_dtype: Literal["float32", "float16", "bfloat16"] | None = Field(
            None, description="of the weights; float32 where it is left out"
        )
        device: Literal["cpu", "cuda", "gpu"] | None = Field(None, description="where the export runs; here the CPU")
        parallel_jobs: int | None = Field(None, description="models of one part have nothing to do at once")
        merge_adapter_weights: bool = Field(
            False, description="of an adapter: into the weights; else it stays apart, as ExtractAdapters takes it out"
        )
        save_metadata_for_token_generation: bool = Field(False, description="config and tokenizer lie beside the graph")
        optimize: bool = Field(True, description="fold constants while exporting")

        @field_validator("torch_dtype", mode="before")
        @classmethod
        def _plain_name(cls, value: Any) -> Any:
            return value.removeprefix("torch.") if isinstance(value, str) else value

    aliases: ClassVar[tuple[str, ...]] = ("OnnxConversion",)
    example: ClassVar[Mapping[str, Any]] = {"target_opset": 20}
    accepts: ClassVar[frozenset[str]] = frozenset({"hf", "script", "adapter", "diffusers"})
    produces: ClassVar[str] = "onnx"
    kinds: ClassVar[frozenset[Kind]] = ANY_KIND
    libraries: ClassVar[tuple[str, ...]] = ("torch", "transformers", "onnx", "onnx-ir", "onnxscript", "onnxruntime")
    modules: ClassVar[Mapping[str, str]] = {"onnxruntime": "cpu"}
    of_parts = "each"
    params: Params

    def check(self, facts: ModelFacts, machine: Machine, data: Mapping[str, DataConfig]) -> Iterator[Problem]:  # noqa: ARG002
        """Opsets that the exporter does not write, and models of which it is not known what they take."""
        least, newest = OPSETS[self.params.use_dynamo_exporter]
        opset, key = self.params.target_opset, ("target_opset",)
        if not least <= opset <= newest:
            which = {None: "torch", False: "the tracing exporter", True: "the exporter torch.export"}
            message = f"{which[self.params.use_dynamo_exporter]} writes opsets {least} to {newest}, not {opset}."
            yield Problem("invalid-value", self.name, message, f"Choose one of them, such as {min(newest, 20)}.", key)
        if facts.decoder is None and facts.signature is None and facts.kind != "script":
            message = f"it is not known what {facts.in_words} takes as inputs."
            yield Problem("unsupported", self.name, message, "Export it by its own tool, and name the ONNX file.")

    def estimate(self, facts: ModelFacts, machine: Machine, data: Mapping[str, DataConfig]) -> Estimate:  # noqa: ARG002
        """The exporters of torch, the weights in torch, in the graph, and as they are written."""
        weights = 4 * facts.n_parameters
        disk = weights if self.params.torch_dtype in (None, "float32") else weights // 2
        return Estimate(memory_bytes=int(1.0e9 + 2.2 * weights), disk_bytes=disk)

    def forecast(self, facts: ModelFacts) -> ModelFacts:
        """A graph with the inputs of the model, or one for each part of it."""
        if self._comes_in_parts(facts):
            part = ModelFacts("", facts.n_parameters // 2, kind="graph", task=facts.task)
            return composite_facts(dict.fromkeys((ENCODER, DECODER, WITH_PAST), part), facts.task)
        signature = facts.signature or (text_signature(facts.decoder.vocab_size) if facts.decoder else None)
        return facts.as_graph(signature, 4.0 if self.params.torch_dtype in (None, "float32") else 2.0)

    def run(self, model: Model, context: Context) -> Model:
        """Export into the scratch folder, compare, and write the graph with what belongs to it."""
        import torch

        from olivine.exporting.torch_export import Request

        told = told_of(model, context.models.get("input"))
        load = told.load
        dtype = self.params.torch_dtype or load.get("dtype", "float32").replace("auto", "float32")
        module = load_module(model, attention=load.get("attn_implementation", "eager")).to(getattr(torch, dtype))
        if model.format == "hf" and self._comes_in_parts(replace(facts_of(model), is_told=told.is_told)):
            return self._export_parts(module, told, dtype, model, context)
        if model.format == "adapter" and self.params.merge_adapter_weights:
            module = module.merge_and_unload()
        request = Request(
            module,
            told.signature,
            told.outputs,
            self.params.target_opset,
            self.params.dynamic,
            dtype,
            told.sizes,
            told.output_axes,
        )
        facts = self._write(request, context, context.output)
        if model.format != "script":
            copy_companions((model.base or model).path if model.format == "adapter" else model.path, context.output)
        context.report.record(**facts)
        return Model("onnx", context.output, task=model.task, attributes={ONNX_FILE: "model.onnx"})

    def _write(self, request: "Request", context: Context, folder: Path) -> dict[str, Any]:
        """Export, and write the graph into a folder; facts of it."""
        from olivine.exporting.torch_export import export

        exported = export(request, context.scratch / folder.name, self._exporters(), context.report.note)
        graph = open_graph(exported.path)
        opset = graph.opset_imports.get("", 0)
        if opset != self.params.target_opset:
            raise Unsupported(f"the exporter wrote opset {opset} where {self.params.target_opset} was asked for")
        save_graph(graph, folder / "model.onnx", self.params.saving)
        n_nodes = sum(1 for _ in graph.graph.all_nodes())
        return {
            "exporter": exported.exporter,
            "opset": opset,
            "n_nodes": n_nodes,
            "largest_difference": exported.difference,
            "summary": f"{n_nodes} nodes of opset {opset} by {exported.exporter}; outputs differ by "
            f"{exported.difference:.1g} of the largest",
        }

    def _comes_in_parts(self, facts: ModelFacts) -> bool:
        return facts.kind == "encoder-decoder" and not facts.is_told and self.params.dynamic

    def _export_parts(self, module: Any, told: "Told", dtype: str, model: Model, context: Context) -> Model:
        """A graph for each part, beside what belongs to all of them."""
        from olivine.exporting.seq2seq import parts_of
        from olivine.exporting.torch_export import Request

        parts: dict[str, Model] = {}
        facts: dict[str, dict[str, Any]] = {}
        for number, part in enumerate(parts_of(module, told.signature)):
            folder = context.output / part.name
            folder.mkdir()
            request = Request(part.module, part.signature, None, self.params.target_opset, dtype=dtype)
            facts[part.name] = self._write(request, context, folder)
            shutil.copyfile(model.path / "config.json", folder / "config.json")  # fusions ask it for heads
            parts[part.name] = Model("onnx", folder, task=model.task, attributes={ONNX_FILE: "model.onnx"})
            context.report.progress(number + 1, 3)
        copy_companions(model.path, context.output)
        context.report.record(
            parts=facts, summary="; ".join(f"{name}: {one['summary']}" for name, one in facts.items())
        )
        return Model("composite", context.output, task=model.task, parts=parts)

    def _exporters(self) -> "list[Exporter]":
        """Those to try, in order."""
        if self.params.use_dynamo_exporter is not None:
            return ["dynamo" if self.params.use_dynamo_exporter else "torchscript"]
        opset = self.params.target_opset
        known: list[tuple[Exporter, bool]] = [("torchscript", opset <= NEWEST_TRACED), ("dynamo", opset >= 18)]
        return [name for name, fits in known if fits]

    def ensures(self, model: Model) -> None:
        """The result, or each part of it, loads in onnxruntime."""
        for one in model.parts.values() or [model]:
            OnnxSession(graph_of(one))


@dataclass(frozen=True)
class Told:
    """What config, script and model say of an export together."""

    signature: Signature
    outputs: Sequence[str] | None
    sizes: Mapping[str, int]
    output_axes: Mapping[str, Mapping[int, str]]
    load: Mapping[str, Any]
    is_told: bool


def told_of(model: Model, given: Model | None, shown: Mapping[str, Example] | None = None) -> Told:
    """How a model is exported. given: the input model of the workflow, to which the config's words belong.

    shown: an example of the inputs, where the script of the model gives none.
    """
    said = given if given is not None else model
    io_config, example = said.attributes.get(IO_CONFIG), dict(shown or {})
    if script_of(said) is not None:
        with opened(said, load_module) as scripted:
            io_config = scripted.io_config()
            example = examples(scripted.example(), (io_config or {}).get("input_names") or ()) or example
    own = _own(model)
    signature = signature_by(own, io_config, example)
    if signature is None or not signature.inputs:
        raise Unsupported(f"it is not known what the model {model.path} takes as inputs")
    io = io_config or {}
    outputs = [str(name) for name in io.get("output_names") or ()] or None
    axes = {name: axes for name, axes in (io.get("dynamic_axes") or {}).items() if name in (outputs or ())}
    numbered = {name: {int(axis): str(size) for axis, size in one.items()} for name, one in axes.items() if one}
    sizes, load = sizes_by(signature, io, example), said.attributes.get(LOAD) or {}
    return Told(signature, outputs, sizes, numbered, load, is_told=bool(io or example))


def _own(model: Model) -> Signature | None:
    """What goes in and comes out by the model itself, whatever a config says."""
    if model.format == "script":
        return None
    return signature_of(model if model.format == "diffusers" else replace(model, attributes={}))
