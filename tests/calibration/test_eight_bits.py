"""Which weights get 8 bits: those that a rule names, or those that 4 bits damage most."""

import torch

from olivine.calibration import eight_bits
from olivine.calibration.decoder import linear_weights
from olivine.calibration.eight_bits import promoted
from olivine.calibration.importances import importances
from olivine.kernels.blockwise import Format
from olivine.models import Model
from olivine.models.weights import weights
from tiny import VOCABULARY

TOKENS = torch.randint(0, VOCABULARY, (8, 64), generator=torch.Generator().manual_seed(0))


def test_layers_are_llama_cpps():
    """Of 32: the first and last four, and every third between; written out by hand."""
    assert [layer for layer in range(32) if eight_bits.picked(layer, 32)] == [
        *range(4),
        *(6, 9, 12, 15, 18, 21, 24, 27),
        *range(28, 32),
    ]


def names(n_layers, modules):
    of_layers = [f"model.layers.{layer}.{module}.weight" for layer in range(n_layers) for module in modules]
    return [*of_layers, "lm_head.weight"]


def test_each_algorithm_picks_its_modules():
    every = names(8, ["self_attn.q_proj", "self_attn.o_proj", "mlp.up_proj", "mlp.down_proj"])
    layers = (0, 3, 6, 7)
    down = {f"model.layers.{layer}.mlp.down_proj.weight" for layer in layers}
    queries = {f"model.layers.{layer}.self_attn.q_proj.weight" for layer in layers}
    assert eight_bits.in_8_bits("high_precision_lm_head", every) == {"lm_head.weight"}
    assert eight_bits.in_8_bits("high_precision_mlp_down", every) == {"lm_head.weight"} | down
    assert eight_bits.in_8_bits("high_precision_mlp_down_qkv", every) == {"lm_head.weight"} | down | queries


def test_the_worst_go_up_to_8_bits_and_those_that_read_one_input_together(tiny_llama):
    model = Model("hf", tiny_llama)
    formats = dict.fromkeys(linear_weights(model), Format(4, 64, symmetric=False))
    measured = importances(model, TOKENS)
    source = weights(model)
    sizes = {name: source[name].read().numel() for name in formats}
    for share in (0.0, 0.1, 0.3, 1.0):
        with_8_bits = promoted(formats, source, measured, share)
        up = {name for name, fmt in with_8_bits.items() if fmt.bits == 8}
        assert sum(sizes[name] for name in up) <= share * sum(sizes.values())
        for layer in range(2):
            for parts in (("self_attn", "qkv"), ("mlp", ("gate", "up"))):
                together = {f"model.layers.{layer}.{parts[0]}.{part}_proj.weight" for part in parts[1]}
                assert together <= up or not together & up
    assert len(up) == len(formats)
    assert all(with_8_bits[name].group == formats[name].group for name in formats)
