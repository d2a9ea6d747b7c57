"""Round the weights of a model to 8 or 4 bits with nncf; what is computed with them stays in float."""

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field, field_validator

from olivine.config.schema import DataConfig, Section
from olivine.errors import ModelError, Problem
from olivine.models import Model
from olivine.models.facts import ModelFacts
from olivine.passes.openvino._converting import Wishes, converted, signature_before
from olivine.passes.openvino._nncf import (
    RoundingParams,
    RoundingPass,
    cosine,
    dataset,
    ignored,
    open_graph,
    outputs,
    record_of,
    session_of,
    with_types,
    words,
)
from olivine.runtimes.openvino import OpenvinoSession
from olivine.work import Context, Estimate, Machine

_OF_ONNX = 21  # the first opset with weights of 4 bits in blocks
_ADVANCED = "advanced_compression_parameters"
_SERVED = ("target_opset", _ADVANCED)
# of optimum-intel, which Olive loads a checkpoint with: what there is nothing to do for here
_IDLE = ("tokenizer", "task", "disable_convert_tokenizer", "disable_stateful", "cache_dir", "trust_remote_code")
_BITS = {"int8": 8.0, "int4": 4.5, "int3": 3.5, "int2": 2.5, "nf4": 4.5}
_FOR_DATA = ("scale_estimation", "gptq", "lora_correction")


class CompressConfig(Section):
    """Arguments of nncf.compress_weights; Olive hands them on."""

    mode: Literal[
        "int8_sym",
        "int8_asym",
        "int4_sym",
        "int4_asym",
        "int3_sym",
        "int2_sym",
        "nf4",
        "cb4",
        "mxfp4",
        "mxfp8_e4m3",
        "fp8_e4m3",
        "fp4",
        "nvfp4",
    ] = Field("int8_asym", description="type of the rounded weights")
    ratio: float | None = Field(
        None, gt=0, le=1, description="share of the weights in that type; others in backup_mode"
    )
    group_size: int | None = Field(None, ge=-1, description="weights that share a scale; -1 a whole row")
    all_layers: bool | None = Field(None, description="embeddings and the last layer too")
    awq: bool | None = Field(None, description="scale weights by what is multiplied with them before they are rounded")
    scale_estimation: bool | None = Field(None, description="look for the scales that lose least on the rows")
    gptq: bool | None = Field(None, description="round with the errors of earlier columns in mind")
    lora_correction: bool | None = Field(None, description="add small matrices for what rounding loses")
    sensitivity_metric: (
        Literal[
            "weight_quantization_error",
            "hessian_input_activation",
            "mean_activation_variance",
            "max_activation_variance",
            "mean_activation_magnitude",
        ]
        | None
    ) = Field(None, description="by what the layers that stay in backup_mode are chosen")
    backup_mode: Literal["none", "int8_sym", "int8_asym", "mxfp8_e4m3", "fp8_e4m3"] | None = Field(
        None, description="type of the weights beyond ratio, of embeddings and the last layer"
    )
    compression_format: Literal["dequantize"] | None = Field(None, description="how codes are stored: as codes")
    subset_size: int = Field(128, ge=1, description="rows that are read at most")

    @field_validator("mode", "sensitivity_metric", "backup_mode", "compression_format", mode="before")
    @classmethod
    def _lower(cls, value: Any) -> Any:
        told = value.lower() if isinstance(value, str) else value
        return "dequantize" if told == "dq" else told


class OpenVINOWeightCompression(RoundingPass):
    """Round the weights of a model to 8 or 4 bits with nncf; what is computed with them stays in float.

    A checkpoint becomes a model of OpenVINO, as OpenVINOConversion makes one; a graph of ONNX stays one. The outputs
    are held against those before on rows.
    """

    class Params(RoundingParams):
        """Names are those of Olive's OpenVINOWeightCompression."""

        compress_config: CompressConfig = Field(CompressConfig(), description="arguments of nncf.compress_weights")
        extra_args: dict[str, Any] | None = Field(
            None, description="target_opset (of an ONNX graph) and advanced_compression_parameters of nncf"
        )
        min_cosine: float = Field(
            0.9, ge=0, le=1, description="of outputs to those before, the least over outputs; below it the step fails"
        )

    aliases: ClassVar[tuple[str, ...]] = ("OpenVINOWeightCompression",)
    example: ClassVar[Mapping[str, Any]] = {"compress_config": {"mode": "int4_sym", "group_size": 64, "ratio": 0.8}}
    accepts: ClassVar[frozenset[str]] = frozenset({"hf", "onnx", "openvino"})
    libraries: ClassVar[tuple[str, ...]] = ("torch", "transformers", "openvino", "nncf", "onnx")
    params: Params

    def check(self, facts: ModelFacts, machine: Machine, data: Mapping[str, DataConfig]) -> Iterator[Problem]:
        """Ways that need rows, and arguments that are not served."""
        yield from super().check(facts, machine, data)
        config = self.params.compress_config
        asked = [key for key in _FOR_DATA if getattr(config, key)]
        if config.sensitivity_metric not in (None, "weight_quantization_error"):
            asked.append("sensitivity_metric")
        if asked and self.params.data_config is None:
            message = f"'{asked[0]}' looks at what is computed on rows, and no data_config names some."
            yield Problem("missing-data", self.name, message, "Name one.", ("compress_config", asked[0]))
        if config.mode.startswith("int8") and any(
            getattr(config, key) not in (None, False, -1) for key in ("ratio", "group_size", "awq", *_FOR_DATA)
        ):
            message = f"'{config.mode}' has one scale for each row of all weights: ratio, group_size and ways to round "
            fix = "Remove them, or choose a mode of 4 bits."
            yield Problem("invalid-value", self.name, f"{message}are of other modes.", fix, ("compress_config", "mode"))
        for key, value in (self.params.extra_args or {}).items():
            is_served = key in (*_SERVED, *_IDLE) or (key == "library" and value in (None, "transformers"))
            if not is_served and value not in (None, False):
                fix = "Put OnnxConversion before it: a graph of ONNX stays one." if key == "use_onnx" else "Remove it."
                message = f"'{key}' is not served: checkpoints are loaded without optimum-intel."
                yield Problem("unsupported", self.name, message, fix, ("extra_args", key))
        if signature_before(facts) is None and facts.kind not in ("script", "graph"):
            message = f"it is not known what {facts.in_words} takes as inputs."
            yield Problem("unsupported", self.name, message, "Export it by its own tool, and name the ONNX file.")

    def estimate(self, facts: ModelFacts, machine: Machine, data: Mapping[str, DataConfig]) -> Estimate:  # noqa: ARG002
        """The libraries, the weights before, and both in nncf."""
        weights = 4 * facts.n_parameters
        return Estimate(memory_bytes=int(1.5e9 + 3.5 * weights), disk_bytes=int(self._share * weights))

    @property
    def _share(self) -> float:
        """Bytes of the result for each of the weights in float32."""
        kind = self.params.compress_config.mode.partition("_")[0]
        return _BITS.get(kind, 8.0) / 32 + 0.02

    def forecast(self, facts: ModelFacts) -> ModelFacts:
        """A graph with smaller weights."""
        return facts.as_graph(signature_before(facts), 4 * self._share)

    def run(self, model: Model, context: Context) -> Model:
        """Round, compare and write."""
        import nncf

        config = self.params.compress_config
        before, graph = self._before(model, context)
        rows = self.rows(model, context, max(config.subset_size, 1) if self.params.data_config else None)
        expected = outputs(before, rows)
        given = self._arguments(nncf, graph, context)
        with words("nncf does not round the weights"):
            data = dataset(rows, before.input_names) if self._reads_rows() else None
            result = nncf.compress_weights(graph, dataset=data, **given)
            after = session_of(result, context.scratch / "after")
        found = cosine(outputs(after, rows), expected)
        kinds = self._kinds(result)
        told = ", ".join(f"{count} weights in {kind}" for kind, count in kinds.items()) or "no weight"
        context.report.record(rounded=kinds, cosine=round(found, 5), summary=f"{told}, cosine {found:.4g} to before")
        if not kinds:
            context.report.warn("no weight could be rounded: the model has none that nncf knows, or all are ignored")
        if found < self.params.min_cosine:
            raise ModelError(
                f"rounded, the outputs have a cosine of {found:.4g} to those before, and min_cosine asks for "
                f"{self.params.min_cosine}: choose another mode, a smaller group_size or ratio, awq or "
                "scale_estimation with rows of your own (data_config), or lower it"
            )
        return self.written(model, result, context)

    def _before(self, model: Model, context: Context) -> tuple[Any, Any]:
        """The model as it is, ready to run, and as nncf takes it."""
        if model.format == "hf":
            ir, _ = converted(model, context, Wishes())
            return OpenvinoSession(ir.clone()), ir
        graph = self.opened(model)
        if model.format == "onnx":
            return open_graph(model), self._in_opset(graph)
        return open_graph(model), graph

    def _in_opset(self, proto: Any) -> Any:
        """The graph in the opset that blocks of weights need."""
        from onnxscript import version_converter

        from olivine.exporting.graph_files import from_proto, to_proto

        target = int((self.params.extra_args or {}).get("target_opset", _OF_ONNX))
        graph = from_proto(proto)
        if graph.opset_imports.get("", 0) >= target:
            return proto
        with words(f"the graph has no form in opset {target}"):
            version_converter.convert_version(graph, target, fallback=True)
        return to_proto(graph)

    def _reads_rows(self) -> bool:
        """Whether nncf is given rows: modes of 8 bits take none."""
        return self.params.data_config is not None and not self.params.compress_config.mode.startswith("int8")

    def _arguments(self, nncf: Any, graph: Any, context: Context) -> dict[str, Any]:
        config = self.params.compress_config.model_dump(exclude_none=True)
        config.pop("compression_format", None)
        kinds = {
            "mode": nncf.CompressWeightsMode,
            "sensitivity_metric": nncf.SensitivityMetric,
            "backup_mode": nncf.BackupMode,
        }
        given = {key: kinds[key](value) if key in kinds else value for key, value in config.items()}
        advanced = (self.params.extra_args or {}).get(_ADVANCED)
        if advanced:
            given["advanced_parameters"] = record_of(nncf.AdvancedCompressionParameters, advanced, _ADVANCED)
        if scopes := self._scopes(graph, context):
            given["ignored_scope"] = ignored(scopes)
        return given

    def _scopes(self, graph: Any, context: Context) -> dict[str, list[str]]:
        """What stays as it is: of an ONNX graph what nncf writes in a form that onnxruntime does not run, too."""
        scopes = self.params.scopes
        if not hasattr(graph, "graph"):
            return scopes
        in_rows = self.params.compress_config.mode.startswith("int8")
        wider = with_types(scopes, graph, ("Conv",) if in_rows else ("Conv", "Gather", "Gemm"))
        if wider != scopes:
            left = " and ".join(sorted(set(wider["types"]) - set(scopes.get("types", ()))))
            context.report.note(
                f"weights of {left} stay as they are: onnxruntime does not run what nncf makes of them (of a Gemm, "
                "GemmToMatMulAdd of GraphSurgeries makes a product that it rounds)"
            )
        return wider

    @staticmethod
    def _kinds(result: Any) -> dict[str, int]:
        """How many weights are stored in fewer bits, by their type."""
        if hasattr(result, "graph"):
            from onnx import TensorProto

            names = [TensorProto.DataType.Name(one.data_type).lower() for one in result.graph.initializer if one.dims]
            return dict(Counter(name for name in names if name in ("int8", "uint8", "int4", "uint4", "float8e4m3fn")))
        constants = [one for one in result.get_ops() if one.get_type_name() == "Constant"]
        kinds = [
            one.get_element_type().get_type_name()
            for one in constants
            if len(one.get_output_shape(0)) > 1 and one.get_output_size() == 1
        ]
        rounded = ("i8", "u8", "i4", "u4", "u3", "u2", "nf4", "f8e4m3", "f4e2m1")
        return {kind: count for kind, count in sorted(Counter(kinds).items()) if kind in rounded}
