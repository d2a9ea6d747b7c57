"""What onnxruntime-genai's builder (0.18) misreads in a model of transformers 5, put right before it builds.

The builder reads a config by itself and makes a graph of it; nobody compares the graph with the model. Three seams are
used: the config object that it was about to read (`mend_config`), attributes of the builder once it has read it, and
its methods (`mend_builder`, called with the model that was loaded). What can be asked of transformers' own module
(rotary frequencies, epsilons, the head) is taken from there and not derived a second time from the config.
"""

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from olivine import lazy
from olivine.exporting.limits import LONGROPE, SOFT_CAPS, WINDOW_BY_LAYER, WINDOW_EVERYWHERE
from olivine.exporting.speech_input import SPEECH, mend_speech

if TYPE_CHECKING:
    import onnx_ir
    import torch
else:
    onnx_ir, torch = lazy.module("onnx_ir"), lazy.module("torch")

FULL, SLIDING = "full_attention", "sliding_attention"
# Gemma 3's initializers of cos and sin -> the kind of layers that they turn
GEMMA3_CACHES = {"global": FULL, "local": SLIDING}
# onnxruntime's attention turns dimensions in pairs, eight pairs at a time
TURNED_AT_ONCE = 16
OLMO_EPSILON = 1e-5  # a constant of OlmoLayerNorm, in no config and no module


def mend_config(config: Any) -> None:
    """Change the config that transformers read into one that the builder understands as transformers does."""
    architecture = config.architectures[0]
    _mend_windows(config, architecture)
    _mend_rope(config, architecture)
    for key, heeding in SOFT_CAPS.items():  # Gemma 3's config has both, and its attention takes none
        if architecture not in heeding and getattr(config, key, None) is not None:
            setattr(config, key, None)
    if architecture == "GemmaForCausalLM":  # the builder prefers a key that transformers ignores for the first Gemma
        config.hidden_activation = config.hidden_act


def _mend_windows(config: Any, architecture: str) -> None:
    """Say which layers have a window.

    The builder reads windows from `layer_types` alone: those of Mistral and Phi-3, whose configs have none, are dropped
    without a word. It writes a `sliding_window` into genai_config.json wherever the config holds the key, also when no
    layer has a window, or transformers ignores the key (a Llama): then the cache is shorter than what is asked of it.
    """
    window = getattr(config, "sliding_window", None)
    # a Mistral with layer_types is read as a Ministral, whose layers are of two kinds
    if architecture in WINDOW_EVERYWHERE and window and config.model_type != "ministral":
        config.layer_types = [SLIDING] * config.num_hidden_layers
    kinds = getattr(config, "layer_types", None) or ()
    if window is not None and not (architecture in WINDOW_EVERYWHERE | WINDOW_BY_LAYER and SLIDING in kinds):
        config.sliding_window = None


def _mend_rope(config: Any, architecture: str) -> None:
    """Leave the builder nothing of RoPE to read that it would misread.

    It knows one flat set of parameters: those of Gemma 3, one for each kind of layer, are a KeyError. The class for
    Llama ignores every form but llama3; YaRN has none of transformers' defaults and never truncates; llama3, dynamic
    and proportional RoPE are unknown outside of Llama. So it is told the default form, and `mend_builder` gives it the
    frequencies. Phi-3's two sets of factors stay its own, told as it knows them: transformers 5 writes `rope_type`
    where it asks for `type`, and says the magnitude in `attention_factor`.
    """
    given = getattr(config, "rope_parameters", None)
    rotary = _rotary(config)
    if not isinstance(given, dict) or rotary is None:
        return
    kinds = {kind: given[kind] for kind in (FULL, SLIDING) if isinstance(given.get(kind), dict)}
    parameters = kinds.get(FULL, given)
    theta = parameters.get("rope_theta", 10_000.0)
    # not every rotary module heeds the key, and proportional RoPE turns some dimensions by nothing
    config.partial_rotary_factor = 2 * _n_frequencies(rotary) / _head_size(config)
    if SLIDING in kinds:
        config.rope_local_base_freq = kinds[SLIDING].get("rope_theta", theta)
    if switches_factors(config, architecture):
        magnitude = {"short_mscale": rotary.attention_scaling, "long_mscale": rotary.attention_scaling}
        config.rope_parameters = parameters | magnitude | {"type": LONGROPE}
        return
    if architecture == "Phi3ForCausalLM":  # else the builder looks for two sets of factors, which are not there
        config.original_max_position_embeddings = config.max_position_embeddings
    config.rope_theta = theta
    config.rope_parameters = {"rope_type": "default", "rope_theta": theta}


def _rotary(config: Any) -> Any:
    """Transformers' rotary module for a config; None for models that are not of its own."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        return None
    module = sys.modules[MODEL_FOR_CAUSAL_LM_MAPPING[type(config)].__module__]
    kind = next((value for name, value in vars(module).items() if name.endswith("RotaryEmbedding")), None)
    return kind(config=config) if kind is not None else None


def _n_frequencies(rotary: Any) -> int:
    """How many pairs of dimensions are turned; the same for all kinds of layers."""
    return next(len(buffer) for name, buffer in rotary.named_buffers() if name.endswith("inv_freq"))


def _head_size(config: Any) -> int:
    return int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)


def switches_factors(config: Any, architecture: str) -> bool:
    """Whether the graph chooses between short and long factors: within the original length there are only short."""
    parameters = config.rope_parameters
    original = getattr(config, "original_max_position_embeddings", None)
    return (
        architecture == "Phi3ForCausalLM"
        and parameters.get("rope_type") == LONGROPE
        and (original or 0) < config.max_position_embeddings
    )


def turns_in_attention(config: Any) -> bool:
    """Whether onnxruntime's attention can turn queries and keys of a mended config; else nodes before it must."""
    return int(_head_size(config) * getattr(config, "partial_rotary_factor", 1.0)) % TURNED_AT_ONCE == 0


def mend_builder(maker: Any, model: Any) -> None:
    """Give the builder what it derives wrongly, from the model that it is about to make a graph of."""
    config, architecture = model.config, maker.model_type
    _take_frequencies(maker, model)
    _take_epsilon(maker, model)
    head = model.get_output_embeddings()
    # any linear layer that is as wide as the vocabulary is taken for the head
    maker.has_lm_head = lambda module: module is head
    # gpt-oss has a window in every other layer, whatever the config says
    maker.is_local = lambda layer: maker.layer_types[layer] == SLIDING
    if architecture.lower().startswith("gemma"):  # rounded to two digits; the third is named "gemma3_text" by now
        maker.embed_attrs["scale"] = float(config.hidden_size) ** 0.5
    if architecture == "OlmoForCausalLM":  # its norm subtracts the mean
        maker.layernorm_attrs["simple"] = False
    if architecture == "GraniteMoeHybridForCausalLM" and config.position_embedding_type != "rope":
        maker.attention_attrs |= {"rope": False, "use_rope_in_attn": False}
    if architecture == "SmolLM3ForCausalLM":
        _leave_layers_unturned(maker)
    if architecture == "GptOssForCausalLM":
        _take_experts(maker)
    if architecture == SPEECH:
        mend_speech(maker, model, quantized=maker.onnx_dtype != maker.io_dtype)


def _take_frequencies(maker: Any, model: Any) -> None:
    """Cosines and sines of every position from the frequencies of transformers' own rotary module.

    The builder computes them on its own, from less than all forms of RoPE. Two sets of factors (longrope) were made
    before the model was loaded, and are right.
    """
    rotary = next((module for module in model.modules() if type(module).__name__.endswith("RotaryEmbedding")), None)
    if rotary is None or "multi_cache" in maker.rope_attrs:
        return
    length = maker.rope_attrs["cache_length"]
    if hasattr(rotary, "inv_freq"):
        maker.make_rotary_embedding_caches_from_scratch = lambda: _cos_and_sin(rotary, "", length)
        return
    for name, kind in GEMMA3_CACHES.items():  # made before the model was loaded, both with the same scaling
        if not hasattr(rotary, f"{kind}_inv_freq"):  # no layer of that kind
            continue
        for function, table in zip(("cos", "sin"), _cos_and_sin(rotary, f"{kind}_", length), strict=True):
            value = maker.model.graph.initializers[f"{function}_cache_{name}"]
            cast = onnx_ir.tensor_adapters.to_torch_dtype(value.dtype)
            value.const_value = onnx_ir.tensor(table.to(cast), name=value.name)


def _cos_and_sin(rotary: Any, prefix: str, length: int) -> "tuple[torch.Tensor, torch.Tensor]":
    """Of every position and frequency [length, frequencies], with the magnitude that they are scaled by."""
    frequencies = getattr(rotary, f"{prefix}inv_freq").float()
    angles = torch.outer(torch.arange(length, dtype=torch.float32), frequencies)
    magnitude = getattr(rotary, f"{prefix}attention_scaling")
    return angles.cos() * magnitude, angles.sin() * magnitude


def _take_epsilon(maker: Any, model: Any) -> None:
    """What norms add to a variance: the builder reads `rms_norm_eps`, and not `norm_eps` or `layer_norm_eps`."""
    norms = (module for module in model.modules() if type(module).__name__.endswith(("Norm", "Norm1P")))
    epsilons = (getattr(norm, "variance_epsilon", getattr(norm, "eps", None)) for norm in norms)
    epsilon = next((value for value in epsilons if value is not None), None)
    if maker.model_type == "OlmoForCausalLM":
        epsilon = OLMO_EPSILON
    if epsilon is not None:
        maker.layernorm_attrs["epsilon"] = epsilon
        maker.attention_attrs["qk_norm_epsilon"] = epsilon


def _leave_layers_unturned(maker: Any) -> None:
    """SmolLM3 has layers without positions: the builder turns off RoPE within attention and then makes nodes for it."""
    make_attention: Callable[..., None] = super(type(maker), maker).make_attention
    attributes = maker.attention_attrs
    in_attention = attributes["use_rope_in_attn"]

    def layer(layer_id: int, *args: Any, **kwargs: Any) -> None:
        turned = bool(maker.no_rope_layers[layer_id])  # 1 for the layers that have positions
        attributes.update(rope=turned, use_rope_in_attn=turned and in_attention)
        make_attention(layer_id, *args, **kwargs)
        attributes.update(rope=True, use_rope_in_attn=in_attention)

    maker.make_attention = layer


def _take_experts(maker: Any) -> None:
    """The experts of gpt-oss as they are now: for quantized ones the builder wants the MXFP4 files of the original."""

    def experts(layer_id: int, *, decode: bool = False) -> "tuple[torch.Tensor, torch.Tensor]":  # noqa: ARG001
        own = maker.weights.model.layers[layer_id].mlp.experts
        return own.gate_up_proj.transpose(-1, -2).contiguous(), own.down_proj.transpose(-1, -2).contiguous()

    maker.load_mxfp4_experts = experts
