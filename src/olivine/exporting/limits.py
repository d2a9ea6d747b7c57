"""What cannot be exported, known from config.json alone: `plan` says so before anything is trained."""

from collections.abc import Iterator, Mapping
from typing import Any

LONGROPE = "longrope"
# architectures whose every layer has the window of the config, and those whose `layer_types` say which have it
WINDOW_EVERYWHERE = frozenset({"MistralForCausalLM", "Phi3ForCausalLM"})
WINDOW_BY_LAYER = frozenset(
    {
        "Gemma2ForCausalLM",
        "Gemma3ForCausalLM",
        "GptOssForCausalLM",
        "Qwen2ForCausalLM",
        "Qwen3ForCausalLM",
        "SmolLM3ForCausalLM",
    }
)
# key of a soft cap -> the architectures in which transformers heeds it; the builder does in all
SOFT_CAPS = {
    "attn_logit_softcapping": frozenset({"Gemma2ForCausalLM"}),
    "final_logit_softcapping": frozenset({"Gemma2ForCausalLM", "Gemma3ForCausalLM"}),
}
ROPE_TYPES = ("default", "linear", "dynamic", "yarn", LONGROPE, "llama3", "proportional")
ACTIVATIONS = ("silu", "swish", "gelu", "gelu_new", "gelu_fast", "gelu_pytorch_tanh", "relu", "relu2")
# keys of a config -> what they ask for, by architecture: the builder's graph has no place for it
NO_PLACE = {
    "OlmoForCausalLM": {"clip_qkv": "queries, keys and values that are clipped"},
    "PhiForCausalLM": {"qk_layernorm": "norms of queries and keys"},
    "NemotronForCausalLM": {"mlp_bias": "biases in the MLP"},
    "Lfm2ForCausalLM": {"conv_bias": "biases of convolutions"},
    "GraniteMoeHybridForCausalLM": {"num_local_experts": "experts"},
    "Gemma3ForCausalLM": {"use_bidirectional_attention": "attention to later tokens"},
}
# execution provider and type of activations for which the graph gets GroupQueryAttention, with windows, grouped heads,
# soft caps and sinks; for others the builder makes attention without any of these
GROUP_QUERY_ATTENTION = frozenset(
    {
        ("CPUExecutionProvider", "fp32"),
        ("CUDAExecutionProvider", "fp16"),
        ("CUDAExecutionProvider", "bf16"),
        ("DmlExecutionProvider", "fp16"),
        ("WebGpuExecutionProvider", "fp16"),
        ("WebGpuExecutionProvider", "fp32"),
        ("NvTensorRTRTXExecutionProvider", "fp16"),
        ("NvTensorRTRTXExecutionProvider", "bf16"),
    }
)
# precisions that a provider's kernels do not compute -> what it computes
NOT_COMPUTED = {
    ("CPUExecutionProvider", "bf16"): "int4, int8 or fp32",
    ("DmlExecutionProvider", "bf16"): "int4 or fp16",
    ("WebGpuExecutionProvider", "bf16"): "int4, int8 or fp16",
    ("NvTensorRTRTXExecutionProvider", "int8"): "int4, fp16 or bf16",
}
# onnxruntime's attention takes heads in pieces of so many dimensions
HEAD_STEP = 8


def head_size(config: Mapping[str, Any]) -> int:
    """Dimensions of one head; 0 when the config does not say."""
    heads = _size(config, "num_attention_heads")
    return _size(config, "head_dim") or (_size(config, "hidden_size") // heads if heads else 0)


def _size(config: Mapping[str, Any], key: str) -> int:
    """A size of the config; 0 where there is none, or what stands there is none."""
    value = config.get(key)
    return value if isinstance(value, int) and value > 0 else 0


def refusals(architecture: str, config: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """What keeps a model from being exported as it is, and what to do; config: the content of config.json."""
    size = head_size(config)
    if size % HEAD_STEP:
        yield f"its heads have {size} dimensions, and onnxruntime computes multiples of {HEAD_STEP}", ""
    yield from _rope_refusals(architecture, config)
    activation = config.get("hidden_activation") or config.get("hidden_act")
    if isinstance(activation, str) and activation not in ACTIVATIONS:
        yield f"its activation '{activation}' is unknown to the model builder", ""
    for key, what in NO_PLACE.get(architecture, {}).items():
        if config.get(key):
            yield f"{key} {config[key]!r} asks for {what}, which the model builder would leave out", ""
    if architecture == "GraniteMoeHybridForCausalLM" and _has_mamba(config):
        yield "it has Mamba layers, which the model builder does not know", ""


def precision_refusals(
    architecture: str, config: Mapping[str, Any], provider: str, precision: str, activations: str
) -> Iterator[tuple[str, str]]:
    """What a provider cannot compute so; activations: what the graph computes in, fp32, fp16 or bf16."""
    if (provider, precision) in NOT_COMPUTED:
        yield f"'{provider}' does not compute {precision}", f"Use {NOT_COMPUTED[provider, precision]}."
        return
    if (provider, activations) in GROUP_QUERY_ATTENTION:
        return
    fix = "Use int4, int8 or fp32." if provider == "CPUExecutionProvider" else "Use int4, fp16 or bf16."
    heads = config.get("num_attention_heads")
    if provider == "CPUExecutionProvider" and config.get("num_key_value_heads", heads) not in (None, heads):
        yield f"'{provider}' does not compute {precision} for models that share key-value heads", fix
    missing = {
        "an attention window": windowed(architecture, config),
        "soft caps in attention": architecture in SOFT_CAPS["attn_logit_softcapping"]
        and bool(config.get("attn_logit_softcapping", True)),
        "attention sinks": architecture == "GptOssForCausalLM",
    }
    for what in (name for name, there in missing.items() if there):
        yield f"'{provider}' computes {precision} without {what}, which this model has", fix


def windowed(architecture: str, config: Mapping[str, Any]) -> int:
    """The attention window that some layer may have and that is shorter than the context; 0 without one."""
    window, context = _size(config, "sliding_window"), _size(config, "max_position_embeddings")
    if architecture not in WINDOW_EVERYWHERE | WINDOW_BY_LAYER or config.get("use_sliding_window") is False:
        return 0
    return window if not context or window < context else 0


def _has_mamba(config: Mapping[str, Any]) -> bool:
    """By the names that transformers 5 and that the hub gives such layers, which all are when nothing is said."""
    kinds = config.get("layer_types") or config.get("layers_block_type") or ["mamba"]
    return not isinstance(kinds, list) or "mamba" in kinds or "linear_attention" in kinds


def _rope_refusals(architecture: str, config: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for parameters in _rope_parameters(config):
        kind = parameters.get("rope_type") or parameters.get("type") or "default"
        if kind not in ROPE_TYPES:
            fix = "Write 'longrope' in its config.json: that is its name today." if kind == "su" else ""
            yield f"its RoPE '{kind}' is unknown to transformers", fix
        original = _size({**config, **parameters}, "original_max_position_embeddings")
        longer = 0 < original < _size(config, "max_position_embeddings")
        if kind == LONGROPE and architecture != "Phi3ForCausalLM" and longer:
            fix = f"Set max_position_embeddings to {original} in its config.json for texts of up to {original} tokens."
            yield f"its RoPE changes after {original} tokens (longrope), which is exported for Phi-3 alone", fix


def _rope_parameters(config: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The sets of parameters, one for each kind of layer or one in all, in the form of today or the one before."""
    given = config.get("rope_parameters") or config.get("rope_scaling")
    if not isinstance(given, Mapping):
        return []
    inner = [value for value in given.values() if isinstance(value, Mapping)]
    return inner or [given]
