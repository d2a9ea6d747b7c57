"""GPTQ over a whole model: each layer sees the quantized ones, and a killed run goes on."""

import pytest
import torch

from olivine.calibration.decoder import linear_weights
from olivine.calibration.gptq_layers import Sweep, gptq_layers
from olivine.calibration.importances import importances
from olivine.calibration.layer_stream import LayerStream
from olivine.errors import ModelError
from olivine.kernels.blockwise import Format, search
from olivine.kernels.gptq import gptq
from olivine.models import Model
from olivine.models.loading import load_causal_lm
from olivine.models.weights import weights
from tiny import VOCABULARY

FMT = Format(4, 16, symmetric=False)
TOKENS = torch.randint(0, VOCABULARY, (16, 64), generator=torch.Generator().manual_seed(0))


def formats(model, *, head=False):
    return dict.fromkeys(linear_weights(model, head=head), FMT)


def slow(model):
    """The obvious way: the whole model in memory, one layer after the other."""
    whole, blocks = load_causal_lm(model), {}
    for index, layer in enumerate(whole.model.layers):
        inputs = {}
        handles = [
            module.register_forward_pre_hook(lambda _, args, name=name, into=inputs: into.__setitem__(name, args[0]))
            for name, module in layer.named_modules()
            if isinstance(module, torch.nn.Linear)
        ]
        with torch.inference_mode():
            whole(TOKENS)
        for name, hidden in inputs.items():
            rows = hidden.reshape(-1, hidden.shape[-1]).float()
            module = layer.get_submodule(name)
            one = gptq(module.weight.data, rows.T @ rows / len(rows), FMT, half_scales=True)
            blocks[f"model.layers.{index}.{name}.weight"] = one
            module.weight.data = one.dequantized()
        for handle in handles:
            handle.remove()
    return blocks


def test_codes_are_those_of_the_whole_model_done_layer_by_layer(tiny_llama, tmp_path):
    model = Model("hf", tiny_llama)
    blocks = gptq_layers(LayerStream(model, TOKENS), formats(model), Sweep(), tmp_path)
    expected = slow(model)
    assert set(blocks) == set(expected)
    for name, read in blocks.items():
        assert (read().codes != expected[name].codes).float().mean() < 0.01  # sums of tokens in another order
        assert torch.equal(read().scales, expected[name].scales) or "layers.0" not in name


def test_outputs_are_closer_than_after_a_search(tiny_llama, tmp_path):
    model = Model("hf", tiny_llama)
    importance = importances(model, TOKENS)
    source = weights(model)
    searched = {name: search(source[name].read(), FMT, importance[name]) for name in formats(model)}
    swept = {
        name: read()
        for name, read in gptq_layers(LayerStream(model, TOKENS), formats(model), Sweep(), tmp_path).items()
    }
    reference, errors = load_causal_lm(model), []
    with torch.inference_mode():
        truth = reference(TOKENS).logits
        for blocks in (searched, swept):
            other = load_causal_lm(model)
            for name, one in blocks.items():
                other.get_parameter(name).data = one.dequantized()
            errors.append(float((other(TOKENS).logits - truth).square().mean()))
    assert errors[1] < errors[0]


def test_drift_is_what_the_layers_before_have_moved(tiny_llama):
    """Counted by hand: the inputs of the second layer's linear layers in two whole models."""
    model = Model("hf", tiny_llama)
    source, moved = weights(model), load_causal_lm(model)
    name = "model.layers.0.mlp.down_proj.weight"
    moved.get_parameter(name).data *= 1.5
    stream, beside = LayerStream(model, TOKENS), LayerStream(model, TOKENS, source=source)
    for layer, other in zip(stream, beside, strict=True):
        statistics = layer.run("full", beside=other)
        if layer.name.endswith(".0"):
            assert all(float(one.drift.abs().max()) == 0 for one in statistics)
            layer.parameter(name).data *= 1.5
            layer.run()
        by_name = {leader: one for one in statistics for leader in one.names}
    inputs = {}
    for whole in (load_causal_lm(model), moved):
        module = whole.get_submodule("model.layers.1.mlp.up_proj")
        module.register_forward_pre_hook(lambda _, args, whole=whole: inputs.__setitem__(id(whole), args[0]))
        with torch.inference_mode():
            whole(TOKENS)
    was, now = (one.reshape(-1, one.shape[-1]).float() for one in inputs.values())
    drift = by_name["model.layers.1.mlp.up_proj.weight"].drift
    torch.testing.assert_close(drift, (was - now).T @ now / len(now), atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize("sequential", [False, True])
def test_layers_that_lead_their_inputs_back_end_closer(tiny_llama, tmp_path, sequential):
    model = Model("hf", tiny_llama)
    coarse = dict.fromkeys(formats(model), Format(4, 64, symmetric=True))
    reference, errors = load_causal_lm(model), []
    with torch.inference_mode():
        truth = reference(TOKENS).logits
        for share in (0.0, 1.0):
            sweep = Sweep(true_sequential=sequential, led_back=share)
            stream, beside = LayerStream(model, TOKENS), LayerStream(model, TOKENS)
            other = load_causal_lm(model)
            for name, read in gptq_layers(stream, coarse, sweep, tmp_path / str(share), beside).items():
                other.get_parameter(name).data = read().dequantized()
            errors.append(float((other(TOKENS).logits - truth).square().mean()))
    assert errors[1] < errors[0]


def test_killed_run_goes_on_from_its_last_layer(tiny_llama, tmp_path):
    model = Model("hf", tiny_llama)
    whole = gptq_layers(LayerStream(model, TOKENS), formats(model), Sweep(), tmp_path / "whole")
    gptq_layers(LayerStream(model, TOKENS), formats(model), Sweep(), tmp_path / "cut")
    (tmp_path / "cut" / "model.layers.1.safetensors").unlink()
    (tmp_path / "cut" / "model.layers.1.partial").write_bytes(b"half")
    first = (tmp_path / "cut" / "model.layers.0.safetensors").stat()
    again = gptq_layers(LayerStream(model, TOKENS), formats(model), Sweep(), tmp_path / "cut")
    kept = (tmp_path / "cut" / "model.layers.0.safetensors").stat()
    assert (kept.st_ino, kept.st_mtime_ns) == (first.st_ino, first.st_mtime_ns)  # not quantized again
    for name, read in whole.items():
        assert torch.equal(again[name]().codes, read().codes)
        assert torch.equal(again[name]().zero_points, read().zero_points)


def test_true_sequential_and_the_head_are_served(tiny_llama, tmp_path):
    model = Model("hf", tiny_llama)
    by_weight = formats(model, head=True)
    plain = gptq_layers(LayerStream(model, TOKENS), by_weight, Sweep(), tmp_path / "a")
    sequential = gptq_layers(LayerStream(model, TOKENS), by_weight, Sweep(true_sequential=True), tmp_path / "b")
    assert set(plain) == set(sequential) == set(by_weight)
    assert plain["lm_head.weight"]().codes.shape == (VOCABULARY, 64)
    first = "model.layers.0.self_attn.q_proj.weight"
    assert torch.equal(plain[first]().codes, sequential[first]().codes)
    later = "model.layers.0.mlp.down_proj.weight"
    assert not torch.equal(plain[later]().codes, sequential[later]().codes)


def test_only_what_is_named_is_quantized_each_in_its_format(tiny_phi3, tmp_path):
    model = Model("hf", tiny_phi3)
    by_weight = {"model.layers.0.self_attn.qkv_proj.weight": FMT, "model.layers.1.mlp.down_proj.weight": Format(8, 32)}
    blocks = gptq_layers(LayerStream(model, TOKENS), by_weight, Sweep(act_order=False), tmp_path)
    assert {name: (read().bits, read().group, read().zero_points is None) for name, read in blocks.items()} == {
        "model.layers.0.self_attn.qkv_proj.weight": (4, 16, False),
        "model.layers.1.mlp.down_proj.weight": (8, 32, True),
    }


def test_group_that_does_not_fit_names_the_weight(tiny_llama, tmp_path):
    model = Model("hf", tiny_llama)
    by_weight = dict.fromkeys(linear_weights(model), Format(4, 256))
    with pytest.raises(ModelError, match=r"q_proj.weight.*cannot be quantized.*256 does not divide"):
        gptq_layers(LayerStream(model, TOKENS), by_weight, Sweep(), tmp_path)
