"""Quantize the MatMul weights of an ONNX model that was built in 16 or 32 bits."""

import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from olivine.config.schema import DataConfig
from olivine.errors import ModelError, Problem
from olivine.models import Model
from olivine.models.facts import ModelFacts
from olivine.passes._base import Pass, PassParams
from olivine.work import Context, Estimate, Machine


class QuantizeOnnx(Pass):
    """Quantize the weights of an ONNX model's matrix products to 4 or 8 bits in blocks.

    Float MatMul nodes become MatMulNBits, streamed a tensor at a time; every other file of the folder is copied. The
    graph says nothing of what reaches a layer: with the text to measure it, ModelBuilder with precision int4 is the
    better way to the same operators.
    """

    class Params(PassParams):
        """Names are those of Olive's OnnxBlockWiseRtnQuantization, OnnxKQuantQuantization and OnnxMatMul4Quantizer."""

        algorithm: Literal["DEFAULT", "RTN", "k_quant", "search"] | None = Field(
            None, description="round to nearest (the default), or search for the scales with the least error"
        )
        bits: Literal[4, 8] = Field(4, description="of every weight")
        block_size: Literal[16, 32, 64, 128, 256] = Field(32, description="weights that share a scale")
        is_symmetric: bool = Field(True, description="false stores a zero point for every block")
        accuracy_level: Literal[0, 1, 2, 3, 4] | None = Field(
            None, description="4 computes in int8: the default for CPUs; elsewhere 0, which leaves it to the runtime"
        )
        nodes_to_exclude: list[str] = Field(default_factory=list, description="nodes that stay as they are")
        nodes_to_include: list[str] | None = Field(None, description="when given, all other nodes stay as they are")

        @model_validator(mode="before")
        @classmethod
        def _upper(cls, values: Any) -> Any:
            """Olive's configs write the algorithm in either case."""
            if not isinstance(values, Mapping) or not isinstance(values.get("algorithm"), str):
                return values
            known = {"default": "DEFAULT", "rtn": "RTN", "k_quant": "k_quant", "search": "search"}
            return {**values, "algorithm": known.get(values["algorithm"].lower(), values["algorithm"])}

    aliases: ClassVar[tuple[str, ...]] = (
        "OnnxBlockWiseRtnQuantization",
        "OnnxKQuantQuantization",
        "OnnxMatMul4Quantizer",
    )
    accepts: ClassVar[frozenset[str]] = frozenset({"onnx"})
    produces: ClassVar[str] = "onnx"
    libraries: ClassVar[tuple[str, ...]] = ("onnxruntime", "onnx-ir", "torch", "numba")
    modules: ClassVar[Mapping[str, str]] = {"onnxruntime": "cpu", "onnxruntime_genai": "cpu"}
    params: Params

    def check(self, facts: ModelFacts, machine: Machine, data: Mapping[str, DataConfig]) -> Iterator[Problem]:  # noqa: ARG002
        """The form that CPUs run about 100 times slower."""
        if (
            machine.execution_provider == CPU
            and self.params.bits == EIGHT
            and self.params.accuracy_level not in (None, 4)
        ):
            level = self.params.accuracy_level
            message = f"weights in 8 bits run about 100 times slower on CPUs with accuracy_level {level}."
            yield Problem("invalid-value", self.name, message, "Leave it out, or set it to 4.", ("accuracy_level",))

    def estimate(self, facts: ModelFacts, machine: Machine, data: Mapping[str, DataConfig]) -> Estimate:  # noqa: ARG002
        """The largest tensor, three times, and the frameworks."""
        size = facts.n_parameters * (self.params.bits / 8 + 4 / self.params.block_size)
        return Estimate(memory_bytes=int(0.7e9 + 12 * facts.as_decoder.embedding_size), disk_bytes=int(size))

    def run(self, model: Model, context: Context) -> Model:
        """Write the folder anew; raises ModelError when there is no weight to quantize."""
        import onnx_ir

        from olivine.passes.export import _genai, _quantize_graph, _stream
        from olivine.passes.export._choices import Settings, choices

        graphs = sorted(model.path.glob("*.onnx"))
        if len(graphs) != 1:
            raise ModelError(f"{model.path} holds {len(graphs)} graphs (*.onnx); this pass takes a folder with one")
        graph = onnx_ir.load(graphs[0])
        found = _quantize_graph.matrices(graph)
        names = {str(node.name) for node in graph.graph}
        for name in [*self.params.nodes_to_exclude, *(self.params.nodes_to_include or ())]:
            if name not in names:
                raise ModelError(f"{graphs[0]} has no node '{name}' to leave out or to quantize")
        kept = set(self.params.nodes_to_exclude)
        if self.params.nodes_to_include is not None:
            kept |= set(found) - set(self.params.nodes_to_include)
        settings = Settings(
            bits=self.params.bits,
            group=self.params.block_size,
            symmetric=self.params.is_symmetric,
            search=self.params.algorithm in ("search", "k_quant"),
            excluded=frozenset(kept),
        )
        chosen = choices(settings, found)
        if not chosen:
            raise ModelError(f"{graphs[0]} has no float weight to quantize; was it quantized already?")
        jobs = _quantize_graph.quantize_graph(
            graph, lambda matrix: chosen.get(matrix.node), self._level(context.machine)
        )
        _copy_others(model.path, context.output, graphs[0])
        _stream.save(graph, context.output / graphs[0].name, jobs, progress=context.report.progress)
        _genai.refuse_slow_forms(onnx_ir.load(context.output / graphs[0].name), context.machine.execution_provider)
        context.report.record(n_quantized=len(chosen))
        precision = f"int{self.params.bits}"
        return Model("onnx", context.output, task=model.task, attributes={**model.attributes, "precision": precision})

    def _level(self, machine: Machine) -> int:
        given = self.params.accuracy_level
        return given if given is not None else (4 if machine.execution_provider == CPU else 0)

    def ensures(self, model: Model) -> None:
        """The folder is complete, and the runtime loads it where it is an onnxruntime-genai one."""
        from olivine.passes.export import _genai, _trial

        if (model.path / "genai_config.json").is_file():
            graph = _genai.check_folder(model.path)
            _trial.check_generates(model.path, graph, model.attributes.get("execution_provider", CPU))


CPU = "CPUExecutionProvider"
EIGHT = 8


def _copy_others(source: Path, target: Path, graph: Path) -> None:
    """Everything but the graph and its data."""
    for path in source.iterdir():
        if path.name not in (graph.name, f"{graph.name}.data") and not path.name.startswith("."):
            (shutil.copytree if path.is_dir() else shutil.copy2)(path, target / path.name)
