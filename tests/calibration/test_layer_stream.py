"""The model that runs layer by layer is the model; what it gathers is what reached each linear layer."""

import pytest
import torch
from safetensors.torch import load_file, save_file

from olivine.calibration.decoder import decoder_layers, linear_weights
from olivine.calibration.importances import importances, token_counts
from olivine.calibration.layer_stream import LayerStream
from olivine.errors import ModelError, Unsupported
from olivine.models import Model
from olivine.models.loading import load_causal_lm
from tiny import VOCABULARY, tiny_model

ARCHITECTURES = ["llama", "smollm", "mistral", "phi3", "qwen2", "qwen3", "gemma", "gemma2", "gemma3"]


BATCH = {"batch_tokens": 48}  # the five rows of `tokens` go forward two, two and one at a time


@pytest.fixture
def tokens():
    return torch.randint(0, VOCABULARY, (5, 24), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_streamed_hidden_states_are_those_of_the_whole_model(architecture, tmp_path, tokens):
    model = Model("hf", tiny_model(tmp_path / "m", architecture))
    whole = load_causal_lm(model)
    seen = {}
    for name, module in whole.named_modules():
        if isinstance(module, torch.nn.Linear):
            module.register_forward_pre_hook(
                lambda _, args, name=name: seen.setdefault(f"{name}.weight", []).append(
                    args[0].reshape(-1, args[0].shape[-1])
                )
            )
    with torch.inference_mode():
        hidden = torch.cat([whole.base_model(batch).last_hidden_state for batch in tokens.split(2)])
    stream = LayerStream(model, tokens, **BATCH)
    statistics = {name: one.values for layer in stream for one in layer.run("full") for name in one.names}
    assert torch.equal(torch.cat(list(stream.final())), hidden)
    seen["lm_head.weight"] = [hidden.reshape(-1, hidden.shape[-1])]
    inputs = {name: torch.cat(parts) for name, parts in seen.items()}
    assert set(statistics) == set(inputs) - {"lm_head.weight"} == set(linear_weights(model))
    for name, matrix in statistics.items():
        assert torch.allclose(matrix, inputs[name].T @ inputs[name] / tokens.numel(), rtol=1e-3, atol=1e-4)
    measured = importances(model, tokens, **BATCH)
    assert set(measured) == set(inputs)
    for name, values in measured.items():
        assert torch.allclose(values, inputs[name].square().mean(dim=0), rtol=1e-4, atol=1e-6)


def test_layers_that_read_one_tensor_share_a_statistic_and_know_their_norm(tiny_llama, tiny_phi3, tokens):
    first = next(iter(LayerStream(Model("hf", tiny_llama), tokens, **BATCH)))
    shared = {tuple(name.split(".")[-2] for name in one.names): one.source for one in first.run("diagonal")}
    norms = {name: f"model.layers.0.{name}.weight" for name in ("input_layernorm", "post_attention_layernorm")}
    assert shared == {
        ("q_proj", "k_proj", "v_proj"): norms["input_layernorm"],
        ("o_proj",): None,
        ("gate_proj", "up_proj"): norms["post_attention_layernorm"],
        ("down_proj",): None,
    }
    fused = next(iter(LayerStream(Model("hf", tiny_phi3), tokens, **BATCH)))
    assert [len(one.names) for one in fused.run("diagonal")] == [1, 1, 1, 1]


def test_one_layer_is_in_memory_at_a_time(tiny_llama, tokens):
    stream = LayerStream(Model("hf", tiny_llama), tokens, **BATCH)
    for layer in stream:
        filled = [module for module in stream.layers if not next(module.parameters()).is_meta]
        assert filled == [layer.module]
    assert all(next(module.parameters()).is_meta for module in stream.layers)


def test_changed_weights_decide_what_the_next_layer_sees(tiny_llama, tokens):
    model = Model("hf", tiny_llama)
    stream = LayerStream(model, tokens, **BATCH)
    for index, layer in enumerate(stream):
        layer.run("diagonal")
        if index == 0:
            layer.parameter("model.layers.0.mlp.down_proj.weight").data.zero_()
            layer.run()
    whole = load_causal_lm(model)
    whole.model.layers[0].mlp.down_proj.weight.data.zero_()
    with torch.inference_mode():
        expected = torch.cat([whole.model(batch).last_hidden_state for batch in tokens.split(2)])
    assert torch.equal(torch.cat(list(stream.final())), expected)


def test_weights_that_overflow_are_named_by_their_layer(tiny_llama, tokens, tmp_path):
    broken = tmp_path / "m"
    broken.mkdir()
    for file in tiny_llama.iterdir():
        (broken / file.name).write_bytes(file.read_bytes())
    tensors = load_file(broken / "model.safetensors")
    tensors["model.layers.1.mlp.up_proj.weight"][0, 0] = float("nan")
    save_file(tensors, broken / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"activations of model.layers.1 are not finite"):
        importances(Model("hf", broken), tokens)
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, broken / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"lacks the weights model.layers.1.mlp.up_proj.weight"):
        importances(Model("hf", broken), tokens)


def test_model_without_a_list_of_layers_is_refused():
    class Flat:
        base_model_prefix = "model"
        base_model = torch.nn.Linear(2, 2)

    with pytest.raises(Unsupported, match="Flat cannot be calibrated"):
        decoder_layers(Flat())


def test_tokens_are_counted():
    counts = token_counts(torch.tensor([[1, 1, 3], [0, 1, 3]]), 5)
    assert counts.tolist() == [1, 3, 0, 2, 0]
