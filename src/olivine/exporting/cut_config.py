"""A config cut down: every kind of layer that the model has, in small widths, with the same code path everywhere.

What decides how the graph is made stays: the size of a head and the share of it that rotates, how heads share keys and
values, windows, rope forms, soft caps, multipliers, ties, biases. What only makes the model large shrinks: layers,
heads, widths, vocabulary, experts. The file is cut as it was written, old keys of the hub and new ones alike, since an
export reads them too.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from olivine.models.config import CODE_KEYS

# Lengths up to here are tried as they are; a model this narrow reads as many tokens in about a second.
LONGEST = 2600
LONGEST_ROPE = 4200  # where a rope has two tables, the length at which they change cannot be shortened
VOCABULARY = 320
_WIDTHS = ("intermediate_size", "moe_intermediate_size", "shared_intermediate_size", "shared_expert_intermediate_size")
_WIDTH = 128
_EXPERTS = ("num_local_experts", "num_experts", "n_routed_experts")
_FIRST_LAYERS = ("max_window_layers", "first_k_dense_replace", "num_dense_layers")  # layers before that one differ
SOFT_CAPS = {"attn_logit_softcapping": "attention scores", "final_logit_softcapping": "logits"}
_CAP = 1.0  # below what a small random model reaches, as the caps of a model are hardly: a graph without them differs
_MOST_LAYERS = 8  # a pattern of kinds that needs more is picked out of the model, layer by layer
_ROPES_BY_LENGTH = ("longrope", "su", "dynamic", "yarn")  # their angles follow from the lengths in the config
_SPECIAL = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
FIRST_PLAIN_TOKEN = 8  # those below end, begin or fill up
# What says nothing of the graph, belongs to the weights that are not taken over, or names code to run.
_LEFT_OUT = ("quantization_config", "auto_map", "_name_or_path", "torch_dtype", *CODE_KEYS)


@dataclass(frozen=True)
class Cut:
    """A cut config and the lengths at which a model of it may change what it does.

    config: as config.json. window: tokens that a layer with a window sees, None without one. original: the length that
    its rope was trained for, where there is one. context: tokens that it reads at most. rope_has_two_tables: in texts
    longer than `original` every token has other angles.
    """

    config: dict[str, Any]
    window: int | None
    original: int | None
    context: int
    rope_has_two_tables: bool

    @property
    def boundaries(self) -> list[int]:
        """The lengths that are tried, in order."""
        lengths = {length for length in (self.window, self.context) if length is not None and length <= LONGEST}
        longest = LONGEST_ROPE if self.rope_has_two_tables else LONGEST
        if self.original is not None and self.original <= longest:
            lengths.add(self.original)
        return sorted(length for length in lengths if length <= self.context)


def cut(config: Mapping[str, Any], full: Any) -> Cut:
    """The config of a small model of the same kind.

    config: as config.json holds it. full: the same, as transformers reads it (its defaults filled in).
    """
    small = {key: value for key, value in config.items() if key not in _LEFT_OUT} | {"dtype": "float32"}
    _fewer_layers(small, full)
    _narrower(small, full)
    small |= {key: min(cap, _CAP) for key in SOFT_CAPS if isinstance(cap := getattr(full, key, None), int | float)}
    _fewer_tokens(small, full)
    window, original, context = _shorter(small, full)
    return Cut(small, window, original, context, bool(_ropes(full) & {"longrope", "su"}))


def _fewer_layers(small: dict[str, Any], full: Any) -> None:
    n_layers = full.num_hidden_layers
    per_layer = {
        key: value for key, value in full.to_dict().items() if isinstance(value, list) and len(value) == n_layers
    }
    first = {key: value for key in _FIRST_LAYERS if isinstance(value := getattr(full, key, None), int)}
    kinds = [
        (*(str(value[index]) for value in per_layer.values()), *(index < value for value in first.values()))
        for index in range(n_layers)
    ]
    kept = _kept(kinds)
    small["num_hidden_layers"] = len(kept)
    for key in per_layer.keys() & small.keys():
        small[key] = [per_layer[key][index] for index in kept]
    for key in first.keys() & small.keys():
        small[key] = sum(index < first[key] for index in kept)


def _kept(kinds: Sequence[Any]) -> list[int]:
    """The layers at the start up to the first of the last kind, two at least; or the first of each kind."""
    firsts = sorted({kind: kinds.index(kind) for kind in kinds}.values())
    n_kept = max(2, firsts[-1] + 1)
    return list(range(min(n_kept, len(kinds)))) if n_kept <= _MOST_LAYERS else firsts


def _narrower(small: dict[str, Any], full: Any) -> None:
    """Two heads, or four that share two pairs of keys and values, or two that share one; each as wide as it was."""
    n_heads, hidden = full.num_attention_heads, full.hidden_size
    n_pairs = getattr(full, "num_key_value_heads", None) or n_heads
    width = getattr(full, "head_dim", None) or hidden // n_heads
    heads, pairs = (2, 2) if n_pairs == n_heads else (2, 1) if n_pairs == 1 else (4, 2)
    if n_heads > heads:
        small["num_attention_heads"] = heads
        if "num_key_value_heads" in small:
            small["num_key_value_heads"] = pairs
        apart = hidden - n_heads * width  # where heads are wider or narrower than the model, they stay so
        small["hidden_size"] = heads * width + (32 if apart > 0 else -32 if apart < 0 else 0)
        if hasattr(full, "mamba_n_heads"):  # asked for by configs that have no such layer, too
            small |= {"mamba_n_heads": heads, "mamba_d_head": "auto"}
    for key in _WIDTHS:
        if isinstance(small.get(key), int):
            small[key] = min(small[key], _WIDTH)
    for key in _EXPERTS:
        if isinstance(small.get(key), int):
            small[key] = min(small[key], max(4, 2 * getattr(full, "num_experts_per_tok", 2)))


def _fewer_tokens(small: dict[str, Any], full: Any) -> None:
    """Few tokens, and those that begin, end and fill up among them: a class may have defaults beyond."""
    small |= {key: value for key in _SPECIAL if key not in small and (value := getattr(full, key, None)) is not None}
    small["vocab_size"] = min(int(small.get("vocab_size", VOCABULARY)), VOCABULARY)
    for key, value in small.items():
        if key.endswith("token_id") and isinstance(value, int):
            small[key] = _SPECIAL.get(key, FIRST_PLAIN_TOKEN - 1)
        elif key.endswith("token_id") and isinstance(value, list):
            small[key] = [_SPECIAL.get(key, FIRST_PLAIN_TOKEN - 1)]


def _shorter(small: dict[str, Any], full: Any) -> tuple[int | None, int | None, int]:
    """Window, original length and context, shortened where they are too long to try and only count tokens.

    A rope whose angles follow from the lengths keeps them. For any other the context is the number of rows of a table,
    and a window a number in the graph: shorter ones are the same graph, as long as they stand in the same order.
    """
    context, window = int(full.max_position_embeddings), _window(full)
    original = _original(full)
    binding = window if window is not None and window < context else None
    if binding is not None and binding > LONGEST:
        binding = window = small["sliding_window"] = 1024 + binding % 1024
    if context <= LONGEST or _ropes(full) & set(_ROPES_BY_LENGTH):
        return window, original, context
    same = original == context
    shorter = max(1024, *((length or 0) + 512 for length in (binding, None if same else original)))
    if shorter >= context:
        return window, original, context
    small["max_position_embeddings"] = shorter
    if same and "original_max_position_embeddings" in small:
        small["original_max_position_embeddings"] = shorter
    if window is not None:
        small["sliding_window"] = binding if binding is not None else shorter
        window = small["sliding_window"]
    return window, shorter if same else original, shorter


def _window(full: Any) -> int | None:
    """Of the layers that have one; transformers leaves it None where no layer uses it."""
    window = getattr(full, "sliding_window", None)
    kinds = getattr(full, "layer_types", None)
    return int(window) if window and (kinds is None or "sliding_attention" in kinds) else None


def _rope_settings(full: Any) -> list[Mapping[str, Any]]:
    """The rope of the model, or of each type of layer."""
    settings = getattr(full, "rope_parameters", None) or {}
    nested = [value for value in settings.values() if isinstance(value, Mapping)]
    return nested or [settings]


def _ropes(full: Any) -> set[str]:
    return {str(one.get("rope_type", "default")) for one in _rope_settings(full)}


def _original(full: Any) -> int | None:
    top = getattr(full, "original_max_position_embeddings", None)
    originals = [top, *(one.get("original_max_position_embeddings") for one in _rope_settings(full))]
    return next((int(length) for length in originals if length), None)
