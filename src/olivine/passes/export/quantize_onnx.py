"""Quantize the MatMul weights of an ONNX model that was built in 16 or 32 bits."""

import math
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, model_validator

from olivine.config.schema import DataConfig
from olivine.errors import ModelError, Problem
from olivine.models import Model
from olivine.models.deciding import deciding_files
from olivine.models.facts import Kind, ModelFacts
from olivine.models.onnx_files import check_onnx, graph_of, header_of
from olivine.passes._base import ANY_KIND, Pass, PassParams
from olivine.runtimes.session import OnnxSession
from olivine.work import Context, Estimate, Machine

if TYPE_CHECKING:
    import onnx_ir as ir

    from olivine.exporting.quantize_graph import Choice, Matrix


class NodeFormat(BaseModel):
    """What differs for one node."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    bits: Literal[4, 8] | None = Field(None, description="of this node; else those of the others")
    block_size: Literal[16, 32, 64, 128, 256] | None = Field(
        None,
        validation_alias=AliasChoices("block_size", "group_size"),
        description="of this node; else that of the others",
    )


class QuantizeOnnx(Pass):
    """Quantize the weights of an ONNX model's matrix products to 4 or 8 bits in blocks.

    Float MatMul and Gemm nodes become MatMulNBits, streamed a tensor at a time, in any graph: a decoder for
    onnxruntime-genai or an encoder, a vision or an audio model, the bodies of If, Loop and Scan included. What belongs
    to the model beside its graph is copied. The graph says nothing of what reaches a layer: with the text to measure
    it, ModelBuilder with precision int4 is the better way to the same operators for a decoder.
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
        nodes_to_exclude: list[str] = Field(
            default_factory=list,
            description="nodes that stay as they are, by their name, or that of their output where they have none",
        )
        nodes_to_include: list[str] | None = Field(None, description="when given, all other nodes stay as they are")
        customized_weight_config: Mapping[str, NodeFormat] = Field(
            default_factory=dict, description="bits and block_size of single nodes, by their name"
        )

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
    example: ClassVar[Mapping[str, Any]] = {"bits": 4, "block_size": 32}
    accepts: ClassVar[frozenset[str]] = frozenset({"onnx"})
    produces: ClassVar[str] = "onnx"
    kinds: ClassVar[frozenset[Kind]] = ANY_KIND
    libraries: ClassVar[tuple[str, ...]] = ("onnxruntime", "onnx-ir", "torch", "numba")
    modules: ClassVar[Mapping[str, str]] = {"onnxruntime": "cpu"}
    of_parts = "each"
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
        """The frameworks, and the largest weight three times; a file without external data is read as a whole."""
        size = facts.n_parameters * (self.params.bits / 8 + 4 / self.params.block_size)
        largest = max((math.prod(shape) for shape in facts.shapes.values()), default=0)
        if facts.decoder is not None:
            largest = max(largest, facts.decoder.embedding_size)
        if facts.kind == "graph":  # what is no product stays as it is, and the header does not tell which is which
            size = facts.weight_bytes
        inline = 2 * _inline_bytes(facts)
        return Estimate(memory_bytes=int(0.7e9 + 12 * largest + inline), disk_bytes=int(size))

    def run(self, model: Model, context: Context) -> Model:
        """Write the folder anew; raises ModelError when there is no weight to quantize."""
        import onnx_ir

        from olivine.exporting import genai_graph, quantize_graph, streaming
        from olivine.exporting.rounding import Settings, choices

        path = graph_of(model)
        check_onnx(model)
        graph = quantize_graph.load_graph(path)
        weights = quantize_graph.matrices(graph, self._excluded(graph, path))
        if not weights:
            raise ModelError(f"{path} has no float weight to quantize{_why_none(graph)}")
        weights = self._worthwhile(weights, path, context)
        settings = Settings(
            bits=self.params.bits,
            group=self.params.block_size,
            symmetric=self.params.is_symmetric,
            search=self.params.algorithm in ("search", "k_quant"),
            padded=True,
        )
        chosen = {name: self._of_node(choice, weights[name]) for name, choice in choices(settings, weights).items()}
        pairs = [(weights[name], choice) for name, choice in chosen.items()]
        jobs = quantize_graph.quantize_graph(graph, pairs, self._level(context.machine))
        _copy_others(model, context.output)
        written = context.output / path.name
        progress = context.report.progress
        context.written.update(streaming.save(graph, written, jobs, progress=progress, inline_bytes=INLINE_BYTES))
        genai_graph.refuse_slow_forms(onnx_ir.load(written), context.machine.execution_provider)
        n_products = sum(len(matrix.users) for matrix, _ in pairs)
        summary = f"{len(pairs)} weights of {n_products} products in {self.params.bits} bits"
        context.report.record(n_quantized=len(pairs), summary=summary)
        return Model(
            "onnx",
            context.output,
            task=model.task,
            attributes={**model.attributes, "precision": f"int{self.params.bits}"},
        )

    def _excluded(self, graph: Any, path: Path) -> set[str]:
        """What the nodes are called that go on using their weight as it is."""
        from olivine.exporting.quantize_graph import label

        names = {label(node) for node in graph.graph.all_nodes()}
        params = self.params
        for name in [
            *params.nodes_to_exclude,
            *(params.nodes_to_include or ()),
            *params.customized_weight_config,
        ]:
            if name not in names:
                raise ModelError(f"{path} has no node '{name}' to leave out or to quantize")
        included = names if self.params.nodes_to_include is None else set(self.params.nodes_to_include)
        return (names - included) | set(self.params.nodes_to_exclude)

    def _of_node(self, choice: "Choice", matrix: "Matrix") -> "Choice":
        """The choice with what the params say of the node that uses the matrix."""
        from olivine.exporting.quantize_graph import label

        rules = self.params.customized_weight_config
        rule = next((rules[name] for name in map(label, matrix.users) if name in rules), None)
        if rule is None:
            return choice
        fmt = replace(choice.fmt, bits=rule.bits or choice.fmt.bits, group=rule.block_size or choice.fmt.group)
        return replace(choice, fmt=fmt)

    def _worthwhile(self, weights: Mapping[str, "Matrix"], path: Path, context: Context) -> dict[str, "Matrix"]:
        """Those that whole blocks make smaller; what is left out is told. ModelError when none is."""
        small = [name for name, matrix in weights.items() if not self._is_smaller(matrix)]
        if small:
            widths = ", ".join(sorted({str(weights[name].width) for name in small}, key=int))
            which = f"blocks of {self.params.block_size} would make their {widths} inputs no smaller"
            if len(small) == len(weights):
                raise ModelError(f"{path} has no weight that is worth quantizing: {which}")
            context.report.warn(f"{len(small)} of {len(weights)} weights stay as they are, '{small[0]}' first: {which}")
        return {name: matrix for name, matrix in weights.items() if name not in small}

    def _is_smaller(self, matrix: "Matrix") -> bool:
        """Whether a row is stored in fewer bytes: its last block whole, and a scale of the weight's type a block."""
        from olivine.exporting.quantize_graph import n_blocks

        size: int = matrix.rows.pieces[0].dtype.itemsize
        blocks = n_blocks(matrix.width, self.params.block_size)
        return blocks * (self.params.block_size * self.params.bits / 8 + size) < matrix.width * size

    def _level(self, machine: Machine) -> int:
        given = self.params.accuracy_level
        return given if given is not None else (4 if machine.execution_provider == CPU else 0)

    def ensures(self, model: Model) -> None:
        """The runtime loads it: onnxruntime-genai a folder for it, onnxruntime any other."""
        from olivine.exporting import genai_graph, trial

        if model.packaging == "genai":
            graph = genai_graph.check_folder(model.path)
            trial.check_generates(model.path, graph, model.attributes.get("execution_provider", CPU))
        else:
            OnnxSession(graph_of(model))


CPU = "CPUExecutionProvider"
EIGHT = 8
INLINE_BYTES = 1024  # of an initializer, as onnx itself has it


def _why_none(graph: "ir.Model") -> str:
    """What the products of a graph are that none can be quantized of."""
    n_gemms = sum(node.op_type == "Gemm" for node in graph.graph.all_nodes())
    n_quantized = sum(node.op_type == "MatMulNBits" for node in graph.graph.all_nodes())
    if n_quantized:
        return f": {n_quantized} of its products are quantized already"
    if n_gemms:
        return (
            f": {n_gemms} of its products are Gemm of another form (transA, alpha, beta) or without a constant matrix"
        )
    return " in a MatMul or a Gemm"


def _copy_others(model: Model, target: Path) -> None:
    """Everything that belongs to the model but its graph and the data of that."""
    header = header_of(model)
    own = {header.path, *(header.path.parent / name for name in header.external_files)}
    for name, path in deciding_files(model):
        if path not in own:
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(path, target / name)


def _inline_bytes(facts: ModelFacts) -> int:
    """Bytes of the weights that lie in the ONNX file itself, of a model that is here."""
    graphs = list(facts.path.glob("*.onnx")) if facts.path is not None and facts.path.is_dir() else []
    return max((graph.stat().st_size for graph in graphs), default=0)
