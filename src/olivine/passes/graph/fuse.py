"""Fuse the nodes of transformer layers into the operators that onnxruntime has for them."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from olivine.config.schema import DataConfig
from olivine.errors import ModelError, Problem
from olivine.exporting.graph_files import Saving, from_proto, open_graph, operators, save_graph
from olivine.models import Model
from olivine.models.facts import ModelFacts
from olivine.models.json_files import is_file, read_object
from olivine.models.onnx_files import graph_of
from olivine.passes.graph._graph import Counts, GraphPass, SavingParams
from olivine.work import Context, Machine

if TYPE_CHECKING:
    import onnx_ir as ir

# transformers' model_type -> that of onnxruntime's optimizer
FAMILIES: Mapping[str, str] = {
    **dict.fromkeys(
        (
            *(
                "albert",
                "big_bird",
                "camembert",
                "deberta",
                "deberta-v2",
                "distilbert",
                "electra",
                "mobilebert",
                "mpnet",
            ),
            *("nystromformer", "roberta", "squeezebert", "xlm-roberta", "xlm_roberta", "ernie", "splinter"),
        ),
        "bert",
    ),
    **dict.fromkeys(("bart", "blenderbot", "m2m_100", "marian", "mbart", "pegasus", "whisper"), "bart"),
    **dict.fromkeys(
        ("beit", "data2vec-vision", "deit", "dinov2", "segformer", "vit", "audio-spectrogram-transformer"), "vit"
    ),
    **dict.fromkeys(("bloom", "codegen", "gpt2", "gpt_neo", "gptj", "llama", "mistral", "qwen2"), "gpt2"),
    **dict.fromkeys(("clip", "clip_text_model", "clip_vision_model"), "clip"),
    **dict.fromkeys(("t5", "mt5", "longt5", "umt5"), "t5"),
    "wav2vec2": "bert",
    "hubert": "bert",
}
OWN = (
    *("bart", "bert", "bert_tf", "bert_keras", "clip", "conformer", "gpt2", "gpt2_tf", "gpt_neox", "phi", "qwen3"),
    *("sam2", "swin", "tnlr", "t5", "unet", "vae", "vit", "mmdit"),
)
UNKNOWN = ("bert", "vit", "clip", "gpt2")  # to try where nothing tells the family
OPTIONS = (
    *("enable_gelu", "enable_layer_norm", "enable_attention", "enable_rotary_embeddings", "use_multi_head_attention"),
    *("disable_multi_head_attention_bias", "enable_skip_layer_norm", "enable_embed_layer_norm"),
    *("enable_bias_skip_layer_norm", "enable_bias_gelu", "enable_gelu_approximation", "enable_qordered_matmul"),
    *("enable_shape_inference", "enable_gemm_fast_gelu", "group_norm_channels_last", "attention_mask_format"),
    *("attention_op_type", "enable_nhwc_conv", "enable_group_norm", "enable_skip_group_norm", "enable_bias_splitgelu"),
    *("enable_packed_qkv", "enable_packed_kv", "enable_bias_add"),
)
RAW_MASK = 2  # onnxruntime's AttentionMaskFormat.AttentionMask


class Fuse(GraphPass):
    """Fuse attention, layer norms, embeddings and activations of a transformer into onnxruntime's own operators.

    The family follows from the config beside the graph, or is tried out. Unlike in onnxruntime's default, masks stay
    as they are: the shorter form reads a mask as a length, and is wrong for rows that are padded on the left.
    """

    class Params(SavingParams):
        """Names are those of Olive's OrtTransformersOptimization."""

        model_type: str | None = Field(None, description="family of the model; else as its config says, or as fits")
        num_heads: int = Field(0, ge=0, description="of attention; 0: as the config or the graph says")
        num_key_value_heads: int = Field(0, ge=0, description="of attention that shares keys; 0: as the graph has them")
        hidden_size: int = Field(0, ge=0, description="width of a layer; 0: as the config or the graph says")
        optimization_options: dict[str, Any] | None = Field(
            None, description="switches of onnxruntime's FusionOptions, such as enable_gelu_approximation"
        )
        opt_level: Literal[0, 1, 2, 99] | None = Field(None, description="of onnxruntime's own rules before fusions")
        use_gpu: bool | None = Field(None, description="else as the target's provider")
        only_onnxruntime: bool = Field(False, description="its own rules alone, no fusions")
        float16: bool = Field(False, description="convert to 16 bits afterwards")
        keep_io_types: bool = Field(True, description="float16: inputs and outputs stay as they are")
        force_fp32_ops: list[str] | None = Field(None, description="float16: operators that stay in 32 bits")
        force_fp32_nodes: list[str] | None = Field(None, description="float16: nodes that stay in 32 bits")
        force_fp16_inputs: dict[str, list[int]] | None = Field(
            None, description="float16: inputs of operators that are converted in any case"
        )
        input_int32: bool = Field(False, description="token ids and masks become inputs of 32 bits")

    aliases: ClassVar[tuple[str, ...]] = (
        "OrtTransformersOptimization",
        "OnnxTransformersOptimization",
        "OrtTransformerOptimization",
    )
    nothing: ClassVar[str] = (
        "no node was fused: fusions know graphs of the tracing exporter with plain attention, as OnnxConversion makes "
        "them by default (use_dynamo_exporter false, attn_implementation eager); where no config.json lies beside the "
        "graph, num_heads and hidden_size tell them apart"
    )
    copies: ClassVar[float] = 3.0
    params: Params

    def check(self, facts: ModelFacts, machine: Machine, data: Mapping[str, DataConfig]) -> Iterator[Problem]:  # noqa: ARG002
        """Families and switches that onnxruntime does not have."""
        given = self.params.model_type
        if given and given not in OWN and given not in FAMILIES:
            message = f"onnxruntime has no fusions for models of type '{given}'."
            fix = f"Leave it out to have it found, or choose one of {', '.join(OWN)}."
            yield Problem("invalid-value", self.name, message, fix, ("model_type",))
        for name in self.params.optimization_options or {}:
            if name not in OPTIONS:
                fix = f"There are: {', '.join(OPTIONS)}."
                key = ("optimization_options", name)
                yield Problem("unknown-key", self.name, f"onnxruntime has no fusion option '{name}'.", fix, key)
        if self.params.only_onnxruntime and self.params.opt_level == 0:
            message = "only_onnxruntime with opt_level 0 does nothing."
            yield Problem("invalid-value", self.name, message, "Set opt_level to 1, 2 or 99.", ("opt_level",))

    def change(self, model: Model, context: Context) -> "tuple[ir.Model, Counts]":
        """Fuse as the first family does that finds attention; else as the one that fuses most."""
        given = open_graph(graph_of(model))
        before, path = _fused(given), context.scratch / "unfused" / "model.onnx"
        path.parent.mkdir(exist_ok=True)
        save_graph(given, path, Saving())
        config = _config(model)
        best: tuple[int, Any, dict[str, int]] | None = None
        for family in self._families(config):
            optimizer = self._optimized(path, context, family, config)
            counts = {name: n - before.get(name, 0) for name, n in _fused(from_proto(optimizer.model)).items()}
            score = sum(n for n in counts.values() if n > 0) + 1000 * sum(counts.get(name, 0) for name in ATTENTION)
            if best is None or score > best[0]:
                best = score, optimizer, counts
            if score >= 1000:
                break
        if best is None:
            raise ModelError("no family of models is left to try")
        _, optimizer, counts = best
        counts = {name: n for name, n in counts.items() if n > 0}
        if counts and not any(name in counts for name in ATTENTION) and not any(before.get(name) for name in ATTENTION):
            context.report.warn("no attention was fused: " + self.nothing.partition(": ")[2])
        self._convert_types(optimizer)
        return from_proto(optimizer.model), counts

    def _families(self, config: Mapping[str, Any]) -> tuple[str, ...]:
        given = self.params.model_type or str(config.get("model_type", ""))
        known = given if given in OWN else FAMILIES.get(given)
        return (known,) if known else UNKNOWN

    def _optimized(self, path: Path, context: Context, family: str, config: Mapping[str, Any]) -> Any:
        from onnxruntime.transformers import optimizer
        from onnxruntime.transformers.fusion_options import FusionOptions

        options = FusionOptions(family)
        if options.attention_mask_format == 0:
            options.attention_mask_format = RAW_MASK
        for name, value in (self.params.optimization_options or {}).items():
            setattr(options, name, _operator(value) if name == "attention_op_type" else value)
        provider = context.machine.execution_provider
        use_gpu = self.params.use_gpu if self.params.use_gpu is not None else provider != "CPUExecutionProvider"
        text = config.get("text_config") if isinstance(config.get("text_config"), Mapping) else config
        try:
            return optimizer.optimize_model(
                str(path),
                model_type=family,
                num_heads=self.params.num_heads or _size(text, "num_attention_heads", "n_heads", "n_head"),
                hidden_size=self.params.hidden_size or _size(text, "hidden_size", "dim", "n_embd"),
                optimization_options=options,
                opt_level=self.params.opt_level,
                use_gpu=use_gpu,
                only_onnxruntime=self.params.only_onnxruntime,
                provider=provider.removesuffix("ExecutionProvider").lower() if use_gpu else None,
            )
        except Exception as error:  # the optimizer raises whatever a graph that it did not expect leads to
            raise ModelError(f"onnxruntime's optimizer for '{family}' fails on this graph: {_told(error)}") from error

    def _convert_types(self, optimizer: Any) -> None:
        if self.params.float16:
            optimizer.convert_float_to_float16(
                keep_io_types=self.params.keep_io_types,
                op_block_list=self.params.force_fp32_ops,
                node_block_list=self.params.force_fp32_nodes,
                force_fp16_inputs=self.params.force_fp16_inputs,
            )
        if self.params.input_int32:
            optimizer.change_graph_inputs_to_int32()


ATTENTION = ("Attention", "MultiHeadAttention", "GroupQueryAttention", "DecoderMaskedMultiHeadAttention")
_FUSED = (
    *ATTENTION,
    *("EmbedLayerNormalization", "SkipLayerNormalization", "LayerNormalization", "SimplifiedLayerNormalization"),
    *("SkipSimplifiedLayerNormalization", "RotaryEmbedding", "Gelu", "FastGelu", "BiasGelu", "QuickGelu", "GroupNorm"),
    *("SkipGroupNorm", "BiasSplitGelu", "BiasAdd", "GemmFastGelu", "RelativePositionBias", "NhwcConv"),
)


def _fused(graph: "ir.Model") -> dict[str, int]:
    """How many nodes there are of the operators that fusions make."""
    return {name: count for name, count in operators(graph).items() if name in _FUSED}


def _config(model: Model) -> Mapping[str, Any]:
    path = model.path / "config.json"
    return read_object(path) if is_file(path) else {}


def _size(config: Any, *names: str) -> int:
    values = (config.get(name) for name in names)
    return next((value for value in values if type(value) is int), 0)


def _operator(value: Any) -> Any:
    """A member of onnxruntime's AttentionOpType by its name."""
    from onnxruntime.transformers.fusion_options import AttentionOpType

    if not isinstance(value, str):
        return value
    try:
        return AttentionOpType(value)
    except ValueError:
        known = ", ".join(one.value for one in AttentionOpType)
        raise ModelError(f"there is no attention_op_type '{value}'; there are {known}") from None


def _told(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
