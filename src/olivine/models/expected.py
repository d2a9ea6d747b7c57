"""The tensors that a config asks for, by architecture: names and shapes, computed without a framework.

Of an architecture that is not in the table nothing is said; the loader finds out. Sizes that config.json leaves to
transformers' defaults are not judged either: a letter without a number makes the shape None.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from olivine.errors import ModelError

# Letters of a shape: H hidden, I intermediate, Q all query heads, K all key heads, D one head, V vocabulary,
# P queries, keys and values in one, G gate and up in one.
_ATTENTION = {
    "self_attn.q_proj.weight": "QH",
    "self_attn.k_proj.weight": "KH",
    "self_attn.v_proj.weight": "KH",
    "self_attn.o_proj.weight": "HQ",
}
_MLP = {"mlp.gate_proj.weight": "IH", "mlp.up_proj.weight": "IH", "mlp.down_proj.weight": "HI"}
_NORMS = {"input_layernorm.weight": "H", "post_attention_layernorm.weight": "H"}
_LLAMA = {**_ATTENTION, **_MLP, **_NORMS}
_SANDWICH = {"pre_feedforward_layernorm.weight": "H", "post_feedforward_layernorm.weight": "H"}
_HEAD_NORMS = {"self_attn.q_norm.weight": "D", "self_attn.k_norm.weight": "D"}
_QKV_BIASES = {"self_attn.q_proj.bias": "Q", "self_attn.k_proj.bias": "K", "self_attn.v_proj.bias": "K"}
_ATTENTION_BIASES = {**_QKV_BIASES, "self_attn.o_proj.bias": "H"}
_MLP_BIASES = {"mlp.gate_proj.bias": "I", "mlp.up_proj.bias": "I", "mlp.down_proj.bias": "H"}
_FUSED = {
    "self_attn.qkv_proj.weight": "PH",
    "self_attn.o_proj.weight": "HQ",
    "mlp.gate_up_proj.weight": "GH",
    "mlp.down_proj.weight": "HI",
    **_NORMS,
}
_NORM_BIASES = {"input_layernorm.bias": "H", "post_attention_layernorm.bias": "H"}
_EMBEDDING, _HEAD = "model.embed_tokens.weight", "lm_head.weight"


@dataclass(frozen=True)
class _Kind:
    """An architecture. layer: of each decoder layer. flags: what a key of the config adds to a layer when it is true.

    is_tied: whether head and embedding are one where the config says nothing. splits_hidden: a head is the hidden size
    over the number of heads where the config says nothing.
    """

    layer: Mapping[str, str]
    flags: Mapping[str, Mapping[str, str]]
    norm: tuple[str, ...] = ("model.norm.weight",)
    is_tied: bool = False
    splits_hidden: bool = True


_BIASES = {"attention_bias": _ATTENTION_BIASES, "mlp_bias": _MLP_BIASES}
_NO_GATE = {name: shape for name, shape in _LLAMA.items() if "gate" not in name}
KINDS: Mapping[str, _Kind] = {
    "LlamaForCausalLM": _Kind(_LLAMA, _BIASES),
    "MistralForCausalLM": _Kind(_LLAMA, {}),
    "Qwen2ForCausalLM": _Kind({**_LLAMA, **_QKV_BIASES}, {}),
    "Qwen3ForCausalLM": _Kind({**_LLAMA, **_HEAD_NORMS}, {"attention_bias": _ATTENTION_BIASES}, splits_hidden=False),
    "Phi3ForCausalLM": _Kind(_FUSED, {}),
    "GemmaForCausalLM": _Kind(_LLAMA, {"attention_bias": _ATTENTION_BIASES}, is_tied=True, splits_hidden=False),
    "Gemma2ForCausalLM": _Kind(
        {**_LLAMA, **_SANDWICH}, {"attention_bias": _ATTENTION_BIASES}, is_tied=True, splits_hidden=False
    ),
    "Gemma3ForCausalLM": _Kind(
        {**_LLAMA, **_SANDWICH, **_HEAD_NORMS}, {"attention_bias": _ATTENTION_BIASES}, is_tied=True, splits_hidden=False
    ),
    "SmolLM3ForCausalLM": _Kind(_LLAMA, _BIASES, is_tied=True),
    "GraniteForCausalLM": _Kind(_LLAMA, _BIASES),
    "Ernie4_5ForCausalLM": _Kind(
        _LLAMA, {"use_bias": {**_ATTENTION_BIASES, **_MLP_BIASES}}, is_tied=True, splits_hidden=False
    ),
    "HunYuanDenseV1ForCausalLM": _Kind(
        {**_LLAMA, "self_attn.query_layernorm.weight": "D", "self_attn.key_layernorm.weight": "D"},
        {"attention_bias": _ATTENTION_BIASES},
    ),
    "NemotronForCausalLM": _Kind(
        {**_NO_GATE, **_NORM_BIASES},
        {
            "attention_bias": _ATTENTION_BIASES,
            "mlp_bias": {name: shape for name, shape in _MLP_BIASES.items() if "gate" not in name},
        },
        norm=("model.norm.weight", "model.norm.bias"),
    ),
    "OlmoForCausalLM": _Kind({**_ATTENTION, **_MLP}, {"attention_bias": _ATTENTION_BIASES}, norm=()),
}
# `model_type` of config.json -> the architecture, for the sentence that asks for it
MODEL_TYPES = {
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "phi": "PhiForCausalLM",
    "phi3": "Phi3ForCausalLM",
    "gemma": "GemmaForCausalLM",
    "gemma2": "Gemma2ForCausalLM",
    "gemma3_text": "Gemma3ForCausalLM",
    "smollm3": "SmolLM3ForCausalLM",
    "granite": "GraniteForCausalLM",
    "ernie4_5": "Ernie4_5ForCausalLM",
    "nemotron": "NemotronForCausalLM",
    "olmo": "OlmoForCausalLM",
    "gpt_oss": "GptOssForCausalLM",
    "lfm2": "Lfm2ForCausalLM",
}


def ties_embeddings(config: Mapping[str, Any], architecture: str) -> bool:
    """Whether head and embedding are one tensor."""
    kind = KINDS.get(architecture)
    return bool(config.get("tie_word_embeddings", kind.is_tied if kind else True))


def expected_shapes(config: Mapping[str, Any], architecture: str) -> dict[str, tuple[int, ...] | None]:
    """Name -> shape (None where it is not known) of every tensor that a checkpoint must have; empty when not known."""
    kind, n_layers = KINDS.get(architecture), config.get("num_hidden_layers")
    if kind is None or not isinstance(n_layers, int) or "text_config" in config:
        return {}
    sizes = _sizes(config, kind)
    names = {_EMBEDDING: "VH", **dict.fromkeys(kind.norm, "H")}
    if not ties_embeddings(config, architecture):
        names[_HEAD] = "VH"
    layer = dict(kind.layer)
    for key, more in kind.flags.items():
        if config.get(key) is True:
            layer |= more
    names |= {f"model.layers.{index}.{name}": shape for index in range(n_layers) for name, shape in layer.items()}
    return {name: _shape(letters, sizes) for name, letters in names.items()}


def _sizes(config: Mapping[str, Any], kind: _Kind) -> dict[str, int]:
    """The number of each letter that the config tells."""

    def told(key: str) -> int | None:
        value = config.get(key)
        return value if type(value) is int and value > 0 else None

    hidden, heads, groups = told("hidden_size"), told("num_attention_heads"), told("num_key_value_heads")
    inner, head = told("intermediate_size"), told("head_dim")
    if head is None and kind.splits_hidden and hidden and heads:
        head = hidden // heads
    sizes = {"H": hidden, "I": inner, "V": told("vocab_size"), "D": head, "G": 2 * inner if inner else None}
    if head and heads and groups:
        sizes |= {"Q": heads * head, "K": groups * head, "P": (heads + 2 * groups) * head}
    return {letter: size for letter, size in sizes.items() if size is not None}


def _shape(letters: str, sizes: Mapping[str, int]) -> tuple[int, ...] | None:
    return tuple(sizes[letter] for letter in letters) if all(letter in sizes for letter in letters) else None


def missing_and_misshapen(
    shapes: Mapping[str, tuple[int, ...]], config: Mapping[str, Any], architecture: str
) -> Iterator[str]:
    """A sentence for the tensors that are not there, and one for the first whose shape is another."""
    expected = expected_shapes(config, architecture)
    missing = [name for name in expected if name not in shapes]
    if missing == [_HEAD]:
        yield (
            f"lacks the weights '{_HEAD}'; if the head is the embedding, write "
            '"tie_word_embeddings": true into its config.json'
        )
    elif missing:
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        yield f"lacks the weights {', '.join(missing[:3])}{more}, which its config asks for ({architecture})"
    for name, shape in expected.items():
        if shape is not None and name in shapes and shapes[name] != shape:
            yield f"'{name}' is {list(shapes[name])}, but the config asks for {list(shape)}"
            return


def refuse_unfit(folder: Any, shapes: Mapping[str, tuple[int, ...]], config: Mapping[str, Any]) -> None:
    """Raise ModelError when the weights of a folder are not those that its config asks for."""
    names = config.get("architectures")
    if not isinstance(names, list) or not names or not isinstance(names[0], str):
        known = MODEL_TYPES.get(str(config.get("model_type")))
        fix = f'write "architectures": ["{known}"] into it' if known else 'write its "architectures" into it'
        raise ModelError(f"{folder}: config.json does not name its architecture; {fix}")
    for sentence in missing_and_misshapen(shapes, config, str(names[0])):
        raise ModelError(f"{folder} {sentence}" if sentence.startswith("lacks") else f"{folder}: {sentence}")
