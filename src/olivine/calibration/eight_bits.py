"""Which weights get 8 bits where the others get 4: by what they are, or by the damage that 4 bits do to them."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from olivine import lazy
from olivine.calibration.decoder import HEAD
from olivine.models.tensors import Weights

if TYPE_CHECKING:
    import torch

    from olivine.kernels.blockwise import Format
else:
    torch = lazy.module("torch")

# Olive's older names -> the newer
OLDER = {
    "k_quant_last": "high_precision_lm_head",
    "k_quant_down": "high_precision_mlp_down",
    "k_quant_mixed": "high_precision_mlp_down_qkv",
}
BY_PLACE = tuple(OLDER.values())
BY_SCORE = ("snr", "snr_relative", "iqe", "iqe_relative", "kld_gradient")
_DOWN = ("down_proj", "fc2", "dense_4h_to_h", "c_proj")
_QKV = ("q_proj", "k_proj", "v_proj", "qkv_proj", "query_key_value", "Wqkv")


def share(params: Mapping[str, Any]) -> float:
    """The share of the weights that goes up to 8 bits by a score; 0 where places decide."""
    return round(1.0 - params["ratio"], 6) if params["algorithm"] in BY_SCORE and params["ratio"] else 0.0


def in_8_bits(algorithm: str, names: Sequence[str]) -> set[str]:
    """The weights of `names` that an algorithm by place picks: the head; the MLP's output, q, k, v of some layers."""
    layers = [layer for name in names if (layer := _layer(name)) is not None]
    n_layers = max(layers, default=-1) + 1
    leaves = {"high_precision_mlp_down": _DOWN, "high_precision_mlp_down_qkv": (*_DOWN, *_QKV)}.get(algorithm, ())
    return {name for name in names if name == HEAD or (_is_one_of(name, leaves) and _of_picked_layer(name, n_layers))}


def picked(layer: int, n_layers: int) -> bool:
    """Whether llama.cpp's rule takes a layer: the first and the last eighth, and every third in between."""
    return layer < n_layers / 8 or layer >= 7 * n_layers / 8 or (layer - n_layers // 8) % 3 == 2


def _of_picked_layer(name: str, n_layers: int) -> bool:
    layer = _layer(name)
    return layer is not None and picked(layer, n_layers)


def _layer(name: str) -> int | None:
    """The number of the layer in a weight's name: 3 of "model.layers.3.mlp.up_proj.weight"."""
    return next((int(part) for part in name.split(".") if part.isdigit()), None)


def _is_one_of(name: str, leaves: Sequence[str]) -> bool:
    leaf = name.removesuffix(".weight").rpartition(".")[2]
    attention = ".self_attn." in name or ".attn." in name
    return leaf in leaves and not (leaf in _DOWN and attention)  # GPT-2 calls the outputs of both alike


def promoted(
    formats: "Mapping[str, Format]", source: Weights, importances: "Mapping[str, torch.Tensor]", share: float
) -> "dict[str, Format]":
    """The formats with 8 bits for the weights whose outputs 4 bits damage most, up to that share of all weights.

    The score of a weight is the share of its output's power that 4 bits turn into noise, tr(dW H dW') / tr(W H W') with
    the importances [n_inputs] as the diagonal of H. Weights that read one input (q, k and v; gate and up) go up
    together: runtimes join them to one matrix.
    """
    from olivine.kernels.blockwise import Format, search
    from olivine.kernels.hessian import output_error, promote

    scores: dict[str, float] = {}
    sizes: dict[str, int] = {}
    together = units([name for name, fmt in formats.items() if fmt.bits == 4], importances)
    for unit, names in together.items():
        lost = power = 0.0
        for name in names:
            weight, importance = source[name].read().float(), importances[name]
            lost += output_error(weight - search(weight, formats[name], importance).dequantized(), importance)
            power += output_error(weight, importance)
            sizes[unit] = sizes.get(unit, 0) + weight.numel()
        scores[unit] = lost / power if power > 0 else 0.0
    chosen = {name for unit in promote(scores, sizes, int(share * sum(sizes.values()))) for name in together[unit]}
    return {name: Format(8, fmt.group, fmt.symmetric) if name in chosen else fmt for name, fmt in formats.items()}


def units(names: Sequence[str], importances: "Mapping[str, torch.Tensor]") -> dict[str, list[str]]:
    """Weights that read one input, by the first of them."""
    together: dict[str, list[str]] = {}
    for name in names:
        alike = (first for first in together if _read_one_input(first, name, importances))
        together.setdefault(next(alike, name), []).append(name)
    return together


def _read_one_input(first: str, second: str, importances: "Mapping[str, torch.Tensor]") -> bool:
    same_owner = first.rpartition(".")[0].rpartition(".")[0] == second.rpartition(".")[0].rpartition(".")[0]
    return same_owner and torch.equal(importances[first], importances[second])
