"""Decoder layers in their fused form make the update of plain Trainer and peft, and leave the model's own form alone."""

import pytest
import torch
from training_tools import Told, adapted, arguments, assert_equal, ours, plain, rows
from transformers import AutoModelForCausalLM

from olivine.kernels.linear8bit import Linear8bit, round_layer
from olivine.training import acceleration, sharding, trainer
from olivine.training.trainer import Settings
from tiny import tiny_model

FUSED = Settings(fuse=True)
ARCHITECTURES = ["llama", "phi3", "qwen2", "qwen3", "gemma", "mistral"]
ADAPTERS = {
    "some layers of a group": {"target_modules": ["q_proj", "v_proj", "up_proj"]},
    "one layer": {"target_modules": ["down_proj"]},
    "another scaling": {"r": 3, "use_rslora": True},
}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("recomputed", [False, True])
def test_fused_layers_give_the_gradients_of_plain_peft(architecture, recomputed, tmp_path, monkeypatch):
    window = {"sliding_window": 6} if architecture == "mistral" else {}
    folder = tiny_model(tmp_path / "model", architecture, **window)
    expected = plain(monkeypatch, adapted(folder), rows(), tmp_path / "a")
    more = {"gradient_checkpointing": True} if recomputed else {}
    found, report = ours(monkeypatch, adapted(folder), rows(), tmp_path / "b", settings=FUSED, **more)
    assert report.facts["fused_layers"] is True
    assert_equal(found, expected)


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_adapters_on_some_layers_get_the_gradients_of_plain_peft(adapter, tiny_llama, tmp_path, monkeypatch):
    expected = plain(monkeypatch, adapted(tiny_llama, **ADAPTERS[adapter]), rows(), tmp_path / "a")
    found, report = ours(monkeypatch, adapted(tiny_llama, **ADAPTERS[adapter]), rows(), tmp_path / "b", settings=FUSED)
    assert report.facts["fused_layers"] is True
    assert_equal(found, expected)


OTHERS = {
    "dropout": {"lora_dropout": 0.1},
    "magnitudes": {"use_dora": True},
    "trained biases": {"bias": "lora_only"},
    "ranks that differ within a group": {"rank_pattern": {"k_proj": 2}},
    "a rank that is too high": {"r": 65},
}


@pytest.mark.parametrize("other", OTHERS)
def test_other_adapters_keep_their_layers(other, tmp_path):
    model = adapted(tiny_model(tmp_path / "model", "qwen2"), **OTHERS[other])
    classes = [type(layer) for layer in acceleration._layers(model)]
    acceleration.use_lora_linear(model)
    assert acceleration.use_packed_attention(model) == ""
    fused, reason = acceleration.use_fused_layers(model)
    assert fused is None
    assert "adapters" in reason
    assert [type(layer) for layer in acceleration._layers(model)] == classes


def fused(folder, **settings):
    model = adapted(folder, **settings)
    acceleration.use_lora_linear(model)
    assert acceleration.use_packed_attention(model) == ""
    taken, reason = acceleration.use_fused_layers(model)
    assert reason == ""
    return model, taken


def test_weights_of_a_group_are_views_of_one_tensor_and_still_their_layers_own(tiny_llama):
    model, _ = fused(tiny_llama)
    attention = model.get_base_model().model.layers[0].self_attn
    before = adapted(tiny_llama).get_base_model().model.layers[0].self_attn
    storages = set()
    for name in ("q_proj", "k_proj", "v_proj"):
        weight = getattr(attention, name).base_layer.weight
        assert torch.equal(weight, getattr(before, name).base_layer.weight)
        storages.add(weight.untyped_storage().data_ptr())
    assert len(storages) == 1


def test_adapter_is_saved_byte_for_byte_as_from_layers_that_are_not_fused(tiny_llama, tmp_path):
    adapted(tiny_llama).save_pretrained(tmp_path / "own")
    fused(tiny_llama)[0].save_pretrained(tmp_path / "fused")
    own, ours_ = ((tmp_path / kind / "adapter_model.safetensors").read_bytes() for kind in ("own", "fused"))
    assert own == ours_


def test_layers_that_are_given_back_are_what_they_were(tiny_llama):
    model, taken = fused(tiny_llama)
    ids = torch.tensor([[5, 40, 50, 60]])
    expected = adapted(tiny_llama)(ids).logits
    taken.give_up()
    assert not [layer for layer in acceleration._layers(model) if "Fused" in type(layer).__name__]
    torch.testing.assert_close(model(ids).logits, expected)


def test_disabled_adapters_change_nothing(tiny_llama):
    model, _ = fused(tiny_llama)
    ids = torch.tensor([[5, 40, 50, 60]])
    with model.disable_adapter():
        found = model(ids, use_cache=False).logits
    torch.testing.assert_close(found, AutoModelForCausalLM.from_pretrained(tiny_llama)(ids).logits)


def test_interrupted_training_ends_with_the_same_adapter(tiny_llama, tmp_path):
    def train(folder, n_steps):
        torch.manual_seed(0)
        model = adapted(tiny_llama)
        more = {"max_steps": n_steps, "learning_rate": 0.01, "save_strategy": "steps", "save_steps": 2}
        more["lr_scheduler_type"] = "constant"
        trainer.train(model, rows(32), None, arguments(folder, **more), 2, Told(), FUSED)
        return {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}

    whole = train(tmp_path / "whole", 4)
    train(tmp_path / "parts", 2)
    resumed = train(tmp_path / "parts", 4)
    assert all(torch.equal(resumed[name], whole[name]) for name in whole)


def test_neither_norms_nor_activations_are_kept(tiny_llama):
    model, _ = fused(tiny_llama)
    model.train()
    config, ids = model.config, torch.randint(5, 300, (1, 64), generator=torch.Generator().manual_seed(0))
    kept = []

    def keep(tensor):
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model(ids, use_cache=False, logits_to_keep=1)
    shape = (64, config.intermediate_size)  # which the projection of queries, keys and values may have as well
    beside = {tensor.untyped_storage().data_ptr() for tensor in kept if tensor.shape[-2:] != shape}
    wide = [tensor for tensor in kept if tensor.untyped_storage().data_ptr() not in beside]
    stream = {tensor.data_ptr() for tensor in kept if tensor.shape[-2:] == (64, config.hidden_size)}
    assert not wide
    # of each layer the stream twice and attention's result; the last norm's input once more
    assert len(stream) <= 3 * config.num_hidden_layers + 2


def in_eight_bits(folder, **settings):
    """An adapted model whose decoder's linear layers are in 8 bits; its sizes are multiples of 16."""
    model = adapted(folder, **settings)
    for layer in acceleration._layers(model):
        for module in list(layer.modules()):
            if hasattr(module, "base_layer") and type(module.base_layer) is torch.nn.Linear:
                module.base_layer = Linear8bit(module.base_layer)
    return model


@pytest.mark.parametrize("architecture", ["llama", "phi3", "qwen3"])
def test_fused_layers_on_a_base_in_eight_bits_give_the_gradients_of_its_own(architecture, tmp_path, monkeypatch):
    folder = tiny_model(tmp_path / "model", architecture)
    expected, _ = ours(monkeypatch, in_eight_bits(folder), rows(), tmp_path / "a", settings=Settings(fuse=False))
    found, report = ours(monkeypatch, in_eight_bits(folder), rows(), tmp_path / "b", settings=FUSED)
    assert report.facts["fused_layers"] is True
    assert found[1] == pytest.approx(expected[1], abs=1e-3)
    exact, _ = ours(monkeypatch, adapted(folder), rows(), tmp_path / "c", settings=Settings(fuse=False))
    for name, gradient in found[0].items():
        # both forms round the same weights; an input that differs in its last bit may go to another 8 bits, which is a
        # part of what 8 bits cost
        of_form = (gradient - expected[0][name]).norm()
        assert of_form <= 0.5 * (expected[0][name] - exact[0][name]).norm(), name


def test_every_linear_layer_of_a_decoder_layer_goes_into_eight_bits(tiny_llama):
    layers = AutoModelForCausalLM.from_pretrained(tiny_llama).model.layers
    assert [round_layer(layer) for layer in layers] == [7] * len(layers)


@pytest.fixture
def one_rank(tmp_path):
    """A process group of this process alone: a base that is sharded over it is gathered like any other."""
    store = torch.distributed.FileStore(str(tmp_path / "store"), 1)
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize("recomputed", [False, True])
@pytest.mark.parametrize("architecture", ["qwen2", "qwen3"])
def test_fused_layers_of_a_sharded_base_give_the_gradients_of_plain_peft(
    architecture, recomputed, one_rank, tmp_path, monkeypatch
):
    folder = tiny_model(tmp_path / "model", architecture)
    expected = plain(monkeypatch, adapted(folder), rows(), tmp_path / "a")
    model = adapted(folder, each_layer=sharding.shard_layer)
    sharding.shard_rest(model)
    settings = Settings(fuse=True, sharded=True)
    more = {"gradient_checkpointing": True} if recomputed else {}
    found, report = ours(monkeypatch, model, rows(), tmp_path / "b", settings=settings, **more)
    assert report.facts["fused_layers"] is True
    assert_equal(found, expected)
