"""What the passes to integers have in common: their params, and the climb from as asked to as it holds."""

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from olivine.config.schema import DataConfig
from olivine.errors import ModelError, Problem
from olivine.exporting.eight_bit_graph import MENDS, Recipe, Rung, climb, plain_type, prepared
from olivine.exporting.graph_files import open_graph
from olivine.exporting.surgery import names_in
from olivine.models import Model
from olivine.models.facts import ModelFacts
from olivine.models.onnx_files import graph_of
from olivine.passes.graph._graph import Counts, GraphPass, SavingParams
from olivine.runtimes.session import OnnxSession
from olivine.work import Context, Machine

if TYPE_CHECKING:
    import onnx_ir as ir

WEIGHT_TYPES = Literal["QInt8", "QUInt8", "QInt16", "QUInt16", "QInt4", "QUInt4"]
_OF_8_BITS = ("QInt8", "QUInt8")
TENSOR_TYPES = "tensor_quant_overrides"  # the attribute of a model that says types of single tensors, as onnxruntime
N_TIMED = 9  # runs of a row whose median is the price


class Int8Params(SavingParams):
    """Names are those of Olive's OnnxQuantization, OnnxStaticQuantization and OnnxDynamicQuantization."""

    weight_type: WEIGHT_TYPES = Field("QInt8", description="of weights; Olive also calls it precision")
    op_types_to_quantize: list[str] | None = Field(None, description="operators; else all that onnxruntime knows")
    op_types_to_exclude: list[str] = Field(default_factory=list, description="operators that stay in float")
    nodes_to_quantize: list[str] | None = Field(None, description="nodes by name; else all")
    nodes_to_exclude: list[str] = Field(default_factory=list, description="nodes that stay in float")
    per_channel: bool = Field(False, description="a scale for every row of a weight")
    reduce_range: bool = Field(False, description="weights in 7 bits, for processors whose sums of 8 bits saturate")
    quant_preprocess: bool = Field(True, description="fold constants and infer shapes before")
    extra_options: dict[str, Any] = Field(default_factory=dict, description="of onnxruntime.quantization")
    data_config: str | None = Field(None, description="rows to calibrate and compare on; else some that are made up")
    max_samples: int = Field(64, ge=1, description="rows that are used at most")
    min_cosine: float = Field(
        0.95, ge=0, le=1, description="of outputs to those before; below it the step mends, and fails in the end"
    )
    mend: bool = Field(True, description="change what was asked for where the outputs are further away than that")

    @field_validator("weight_type", mode="before")
    @classmethod
    def _type(cls, value: Any) -> Any:
        return plain_type(value)

    @field_validator(
        "op_types_to_quantize", "nodes_to_quantize", "op_types_to_exclude", "nodes_to_exclude", mode="before"
    )
    @classmethod
    def _one_is_a_list(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) else value

    @model_validator(mode="before")
    @classmethod
    def _other_names(cls, values: Any) -> Any:
        """Olive's newest configs say precision for the type of weights."""
        if isinstance(values, Mapping) and "precision" in values and "weight_type" not in values:
            values = dict(values)
            values["weight_type"] = values.pop("precision")
        return values


class Int8Pass(GraphPass):
    """A pass from a float graph to one that computes in integers, held against the float one on rows of its inputs."""

    Params: ClassVar[type[Int8Params]] = Int8Params
    nothing: ClassVar[str] = "no node of the graph could be quantized"
    growth: ClassVar[float] = 0.4
    copies: ClassVar[float] = 4.0
    reads_inputs: ClassVar[bool] = True
    params: Int8Params

    def recipe(self) -> Recipe:
        """What the params ask for."""
        raise NotImplementedError

    def data_names(self) -> list[str]:
        """The rows that calibrate, where some are named."""
        return [self.params.data_config] if self.params.data_config is not None else []

    def notes(self, facts: ModelFacts, machine: Machine, data: Mapping[str, DataConfig]) -> Iterator[str]:  # noqa: ARG002
        """That made-up rows tell little of the ranges of real ones."""
        if self.params.data_config is None and self.recipe().mode == "static":
            yield "calibrated on made-up rows: name rows of your own as data_config, whose ranges are those that count"

    def change(self, model: Model, context: Context) -> "tuple[ir.Model, Counts]":
        """Quantize as asked, compare, mend; the rungs and their prices are recorded."""
        rows = _rows(model, self.params, context)
        provider = context.machine.execution_provider
        before = OnnxSession(graph_of(model), provider)
        rows = [{**before.adapter, **row} for row in rows]
        folds = self.params.quant_preprocess and not before.adapter  # a default is no constant
        path, n_masks = prepared(
            open_graph(graph_of(model)),
            context.scratch,
            preprocess=folds,
            optimize=not (self._tells_apart() or TENSOR_TYPES in model.attributes),
        )
        expected = [_numbers(before.run(row)) for row in rows]
        asked = _with_tensors(self._without_types(self.recipe(), path), model.attributes.get(TENSOR_TYPES), path)
        self._tell_unknown(path, context)
        least = self.params.min_cosine or -math.inf  # 0 takes whatever comes
        mends = MENDS if self.params.mend else ()
        rungs = climb(
            path,
            context.scratch,
            asked,
            rows,
            least,
            lambda one: _cosine(one, provider, rows, expected),
            mends,
        )
        self._tell(rungs, n_masks, before, provider, rows, context)
        best = max(rungs, key=lambda rung: rung.cosine) if rungs[-1].cosine < least else rungs[-1]
        if best.cosine < least:
            raise ModelError(
                f"quantized, the outputs have a cosine of {best.cosine:.4g} to those before at best ({best.name}), and "
                f"min_cosine asks for {self.params.min_cosine}: leave more nodes out (nodes_to_exclude), name rows of "
                "your own (data_config), or lower it"
            )
        graph = open_graph(best.path)
        return graph, _integers(graph)

    def _tells_apart(self) -> bool:
        """Whether the params speak of nodes, or of one of the two operators of a layer: fusions would rename these."""
        params = self.params
        types = (params.op_types_to_quantize or (), params.op_types_to_exclude)
        of_one = any(("MatMul" in one) != ("Gemm" in one) for one in types)
        return bool(params.nodes_to_quantize or params.nodes_to_exclude or of_one)

    def _tell_unknown(self, path: Path, context: Context) -> None:
        """Warn of names of nodes and operators that the graph does not have."""
        nodes = list(open_graph(path).graph.all_nodes())
        params = self.params
        for what, names, there in (
            ("node", (*(params.nodes_to_quantize or ()), *params.nodes_to_exclude), {str(one.name) for one in nodes}),
            ("operator", (*(params.op_types_to_quantize or ()), *params.op_types_to_exclude), {*_types(nodes)}),
        ):
            lacking = [f"'{name}'" for name in names if name not in there]
            if lacking and (what == "node" or params.op_types_to_quantize is None or len(lacking) == len(names)):
                context.report.warn(f"the graph has no {what} {', '.join(lacking)}, which the config names")

    def check(self, facts: ModelFacts, machine: Machine, data: Mapping[str, DataConfig]) -> Iterator[Problem]:  # noqa: ARG002
        """Types that onnxruntime has no operators for."""
        recipe = self.recipe()
        weights, computed = recipe.weight_type, recipe.activation_type
        if recipe.mode == "dynamic" and weights not in _OF_8_BITS:
            message = f"dynamic quantization has no weights of type {weights}."
            yield Problem("invalid-value", self.name, message, f"Choose {' or '.join(_OF_8_BITS)}.", ("weight_type",))
        elif recipe.mode == "static" and recipe.quant_format == "QOperator" and {weights, computed} - {*_OF_8_BITS}:
            message = f"quant_format QOperator has no operators for {weights} weights and {computed} activations."
            yield Problem("invalid-value", self.name, message, "Choose types of 8 bits, or QDQ.", ("quant_format",))
        elif recipe.mode == "static" and (computed, weights) == ("QInt8", "QUInt8"):
            message = "onnxruntime has no operators for QUInt8 weights and QInt8 activations."
            yield Problem("invalid-value", self.name, message, "Choose QInt8 for weights.", ("weight_type",))

    def _without_types(self, recipe: Recipe, path: Path) -> Recipe:
        """The recipe with the nodes of excluded operators by name."""
        types = self.params.op_types_to_exclude
        if not types:
            return recipe
        names = [str(node.name) for node in open_graph(path).graph.all_nodes() if node.op_type in types]
        return replace(recipe, excluded=(*recipe.excluded, *names))

    def _tell(
        self,
        rungs: Sequence[Rung],
        n_masks: int,
        before: OnnxSession,
        provider: str,
        rows: Sequence[Any],
        context: Context,
    ) -> None:
        base = _seconds(before, rows[0])
        told = [
            {
                "recipe": rung.name,
                "cosine": round(rung.cosine, 5),
                "bytes": rung.n_bytes,
                "times_as_long": round(_seconds(OnnxSession(rung.path, provider), rows[0]) / base, 2),
            }
            for rung in rungs
        ]
        context.report.record(rungs=told, n_masks_mended=n_masks)
        if n_masks:
            context.report.note(
                f"{n_masks} mask constants below -1e30 were replaced by -10000, which a softmax takes alike"
            )
        if len(rungs) > 1:
            steps = "; then ".join(
                f"{one['recipe']}: cosine {one['cosine']:.3f}, {one['times_as_long']:g} times as long as before"
                for one in told
            )
            context.report.warn(f"as asked, the outputs were too far from those before, so it was mended: {steps}")


def _with_tensors(recipe: Recipe, types: Mapping[str, Any] | None, path: Path) -> Recipe:
    """The recipe with the types that an earlier MixedPrecisionOverrides gives to tensors; its own come first."""
    if not types or recipe.mode != "static":
        return recipe
    there = names_in(*open_graph(path).graphs())
    own = recipe.options.get("TensorQuantOverrides") or {}
    given = {name: kinds for name, kinds in types.items() if name in there}
    return replace(recipe, options={**recipe.options, "TensorQuantOverrides": {**given, **own}})


def _rows(model: Model, params: Int8Params, context: Context) -> list[Any]:
    """Inputs of the named rows, or made-up ones; texts are padded to one length."""
    from olivine.evaluate import inputs_of

    config = context.data.get(params.data_config) if params.data_config else None
    n_most = params.max_samples if config else min(16, params.max_samples)
    return padded(inputs_of(model, config, n_most, whole=context.whole, part=context.part))


def padded(rows: Sequence[Mapping[str, Any]]) -> list[Any]:
    """The rows with ids and masks of one length: what onnxruntime's histograms want."""
    import numpy as np

    widths: dict[str, int] = {}
    for row in rows:
        for name, array in row.items():
            if array.ndim == 2 and array.dtype.kind in "iu":
                widths[name] = max(widths.get(name, 0), array.shape[1])
    return [
        {
            name: np.pad(array, ((0, 0), (0, widths[name] - array.shape[1]))) if name in widths else array
            for name, array in row.items()
        }
        for row in rows
    ]


def _cosine(path: Path, provider: str, rows: Sequence[Any], expected: Sequence[Mapping[str, Any]]) -> float:
    from olivine.evaluate import OutputEvidence, measured

    session = OnnxSession(path, provider)
    numbers = measured({}, OutputEvidence([_numbers(session.run(row)) for row in rows], expected))
    cosine = float(numbers.get("cosine", 0.0))
    return -1.0 if math.isnan(cosine) else cosine  # no number where there was one


def _numbers(outputs: Mapping[str, Any]) -> dict[str, Any]:
    """The outputs that are numbers, those in sequences among them."""
    parts = {
        f"{name}[{place}]" if isinstance(value, list) else name: one
        for name, value in outputs.items()
        for place, one in enumerate(value if isinstance(value, list) else [value])
    }
    return {
        name: one for name, one in parts.items() if getattr(one, "dtype", None) is not None and one.dtype.kind in "fiub"
    }


def _types(nodes: "Sequence[ir.Node]") -> set[str]:
    return {str(node.op_type) for node in nodes}


def _seconds(session: OnnxSession, row: Any) -> float:
    taken = []
    for _ in range(N_TIMED):
        started = time.perf_counter()
        session.run(row)
        taken.append(time.perf_counter() - started)
    return max(median(taken), 1e-9)


def _integers(graph: "ir.Model") -> dict[str, int]:
    """Nodes that compute in integers, or weights that are stored so, by operator."""
    from olivine.exporting.graph_files import operators

    kinds = (
        "QLinear",
        "Integer",
        "DynamicQuantize",
        "QAttention",
        "QGemm",
        "QEmbed",
        "QuantizeLinear",
        "DequantizeLinear",
    )
    return {name: n for name, n in operators(graph).items() if any(kind in name for kind in kinds)}
