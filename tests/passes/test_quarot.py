"""A turned model: every tensor is another one, and the logits are those before."""

import json
from dataclasses import replace

import pytest
import torch
from transformers import AutoModelForCausalLM

from olivine.errors import Unsupported
from olivine.kernels.rotation import hadamard, hadamard_rotation, random_rotation
from olivine.models import Model
from olivine.models.inspect import read_facts
from olivine.models.weights import weights
from olivine.passes import Context, passes
from olivine.testing.passes import MACHINE
from reports import Told
from tiny import tiny_model


@pytest.mark.parametrize("order", [1, 2, 4, 8, 12, 20, 28, 36, 44, 60, 64])
def test_rows_of_a_hadamard_matrix_are_orthogonal_signs(order):
    matrix = hadamard(order)
    assert torch.equal(matrix @ matrix.T, order * torch.eye(order))
    assert matrix.abs().unique().tolist() == [1.0]


@pytest.mark.parametrize("size", [1, 7, 16, 48, 96, 100, 576, 896, 3072])
def test_rotation_of_any_width_is_orthogonal(size):
    for rotation in (hadamard_rotation(size), random_rotation(size) if size < 600 else hadamard_rotation(size, 3)):
        matrix = rotation.matrix()
        assert (matrix @ matrix.T - torch.eye(size)).abs().max() < 1e-4
    if size in (16, 48, 96, 576, 896, 3072):  # orders with a known Hadamard matrix: one outlier goes evenly everywhere
        assert (hadamard_rotation(size).matrix().abs() * size**0.5 - 1).abs().max() < 1e-4


def turned(folder, tmp_path, **params):
    plugin = passes.find("QuaRot")
    (tmp_path / "out").mkdir()
    (tmp_path / "scratch").mkdir()
    context = Context(tmp_path / "out", tmp_path / "scratch", MACHINE, Told())
    step = plugin(plugin.Params(**params))
    assert not list(step.check(read_facts(folder), MACHINE, {}))
    return step.run(Model("hf", folder), context), context.report


def logits(folder):
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.inference_mode():
        return model(torch.randint(8, model.config.vocab_size, (2, 24))).logits


@pytest.mark.parametrize("architecture", ["llama", "smollm", "phi3", "qwen2", "qwen3", "gemma", "mistral"])
@pytest.mark.parametrize("mode", ["hadamard", "random"])
def test_turned_model_gives_the_same_logits(architecture, mode, tmp_path):
    folder = tiny_model(tmp_path / "m", architecture, hidden_size=48, intermediate_size=80)
    result, told = turned(folder, tmp_path, rotate_mode=mode)
    before = logits(folder)
    assert (logits(result.path) - before).abs().max() < 1e-4 * before.abs().max().clamp(min=1)
    assert told.facts["largest_difference"] < 1e-3
    plain, other = weights(Model("hf", folder)), weights(result)
    for name, tensor in plain.items():
        if len(tensor.shape) == 2:
            assert not torch.allclose(other[name].read(), tensor.read(), atol=1e-3), name


def test_outlier_of_a_channel_is_spread_and_4_bits_lose_less(tiny_llama, tmp_path):
    folder = tmp_path / "m"
    model = AutoModelForCausalLM.from_pretrained(tiny_llama)
    with torch.no_grad():
        for layer in model.model.layers:
            layer.mlp.gate_proj.weight[:, 3] *= 40
    model.save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_bytes((tiny_llama / name).read_bytes())
    result, _ = turned(folder, tmp_path)
    key = "model.layers.0.mlp.gate_proj.weight"
    spread = {path: weights(Model("hf", path))[key].read() for path in (folder, result.path)}
    widest = {path: float((w.abs().amax(dim=1) / w.square().mean(dim=1).sqrt()).mean()) for path, w in spread.items()}
    assert widest[result.path] < 0.6 * widest[folder]


def test_head_of_its_own_is_said_in_config_and_forecast(tiny_tied, tmp_path):
    result, _ = turned(tiny_tied, tmp_path)
    assert json.loads((result.path / "config.json").read_text())["tie_word_embeddings"] is False
    plugin = passes.find("QuaRot")
    forecast = plugin(plugin.Params()).forecast(read_facts(tiny_tied))
    assert not forecast.as_decoder.tied_embeddings
    assert forecast.n_parameters == read_facts(result.path).n_parameters


@pytest.mark.parametrize("architecture", ["gemma2", "olmo2", "phi"])
def test_model_that_cannot_be_turned_is_refused_in_the_plan_and_in_the_worker(architecture, tmp_path):
    folder, plugin = tiny_model(tmp_path / "m", architecture), passes.find("QuaRot")
    (problem,) = plugin(plugin.Params()).check(read_facts(folder), MACHINE, {})
    assert "model.layers.0." in problem.message
    with pytest.raises(Unsupported, match=r"model.layers.0.* cannot be turned"):
        plugin(plugin.Params()).run(Model("hf", folder), Context(tmp_path, tmp_path, MACHINE, Told()))


def test_quantized_model_is_refused_in_the_plan(tiny_llama):
    facts = replace(read_facts(tiny_llama), config={"quantization_config": {"quant_method": "gptq"}})
    plugin = passes.find("QuaRot")
    (problem,) = plugin(plugin.Params()).check(facts, MACHINE, {})
    assert problem.fix == "Put this pass before the one that quantizes."
