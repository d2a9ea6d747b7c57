"""Which modules a quantizing pass keeps in 8 bits because an earlier SelectiveMixedPrecision says so."""

from collections.abc import Mapping, Sequence
from typing import Any

# Olive's older names -> the newer
OLDER = {
    "k_quant_last": "high_precision_lm_head",
    "k_quant_down": "high_precision_mlp_down",
    "k_quant_mixed": "high_precision_mlp_down_qkv",
}
BY_PLACE = tuple(OLDER.values())
BY_SCORE = ("snr", "snr_relative", "iqe", "iqe_relative", "kld_gradient")
_HEAD = "lm_head"
_DOWN = ("down_proj", "fc2", "dense_4h_to_h", "c_proj")
_QKV = ("q_proj", "k_proj", "v_proj", "qkv_proj", "query_key_value", "Wqkv")


def selection(earlier: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """The params of the last SelectiveMixedPrecision among the params of earlier steps."""
    return next((params for params in reversed(earlier) if {"algorithm", "high_bits", "ratio"} <= set(params)), None)


def share(params: Mapping[str, Any]) -> float:
    """The share of the weights that goes up to 8 bits by a score; 0 where places decide."""
    return round(1.0 - params["ratio"], 6) if params["algorithm"] in BY_SCORE and params["ratio"] else 0.0


def inherited(earlier: Sequence[Mapping[str, Any]], *, ranks: bool) -> dict[str, Any]:
    """Params of a quantizing pass after it. ranks: the pass can rank weights, and takes `int8_share`."""
    found = selection(earlier)
    if found is None:
        return {}
    given = {key: found[key] for key in ("bits", "group_size", "sym") if found.get(key) is not None}
    if ranks and share(found):
        return given | {"int8_share": share(found)}
    return given | {"mixed_precision": found["algorithm"]}


def in_8_bits(algorithm: str, names: Sequence[str]) -> set[str]:
    """The weights among `names` that an algorithm by place picks: the head, of some layers the MLP's output, q, k, v.

    The layers are llama.cpp's choice: the first and the last eighth, and every third in between.
    """
    layers = sorted({int(place) for name in names if (place := _layer(name)) is not None})
    n_layers = layers[-1] + 1 if layers else 0
    leaves = {"high_precision_mlp_down": _DOWN, "high_precision_mlp_down_qkv": (*_DOWN, *_QKV)}.get(algorithm, ())
    chosen = set()
    for name in names:
        place, leaf = _layer(name), name.removesuffix(".weight").rpartition(".")[2]
        attention = ".self_attn." in name or ".attn." in name
        if leaf == _HEAD or (
            place is not None
            and leaf in leaves
            and not (leaf in _DOWN and attention)  # GPT-2 calls the outputs of both alike
            and picked(int(place), n_layers)
        ):
            chosen.add(name)
    return chosen


def picked(layer: int, n_layers: int) -> bool:
    """Whether llama.cpp's rule takes a layer."""
    return layer < n_layers / 8 or layer >= 7 * n_layers / 8 or (layer - n_layers // 8) % 3 == 2


def _layer(name: str) -> str | None:
    parts = name.split(".")
    return next((part for part in parts if part.isdigit()), None)
