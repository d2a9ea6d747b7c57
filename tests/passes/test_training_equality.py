"""Packed, folded and chunked training makes the update that plain Trainer and peft make on padded rows."""

import pytest
import torch
from training_tools import adapted, assert_equal, ours, plain, rows, whole

from olivine.training import memory
from tiny import tiny_model

ARCHITECTURES = ["llama", "phi3", "qwen2", "qwen3", "gemma", "mistral"]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_packed_rows_give_the_gradients_of_padded_ones(architecture, tmp_path, monkeypatch):
    folder = tiny_model(tmp_path / "model", architecture)
    expected = plain(monkeypatch, adapted(folder), rows(), tmp_path / "a")
    found, report = ours(monkeypatch, adapted(folder), rows(), tmp_path / "b")
    assert report.facts["packed"] is True
    assert report.facts["loss_in_chunks"] is True
    assert_equal(found, expected)


METHODS = {
    "DoRA": {"use_dora": True},
    "PiSSA": {"init_lora_weights": "pissa"},
    "LoHa": {"method": "LoHaConfig"},
    "LoKr": {"method": "LoKrConfig"},
    "LoKr in four": {"method": "LoKrConfig", "decompose_both": True, "decompose_factor": 4, "r": 1},
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("architecture", ["llama", "phi3"])
def test_other_methods_get_the_gradients_of_plain_peft(method, architecture, tmp_path, monkeypatch):
    folder = tiny_model(tmp_path / "model", architecture)
    expected = plain(monkeypatch, adapted(folder, **METHODS[method]), rows(), tmp_path / "a")
    found, report = ours(monkeypatch, adapted(folder, **METHODS[method]), rows(), tmp_path / "b")
    assert (report.facts["packed"], report.facts["loss_in_chunks"]) == (True, True)
    assert all(gradient.abs().max() > 0 for gradient in found[0].values())
    assert_equal(found, expected)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("tied", [False, True])
def test_whole_models_get_the_gradients_of_plain_training(architecture, tied, tmp_path, monkeypatch):
    folder = tiny_model(tmp_path / "model", architecture, tied=tied)
    expected = plain(monkeypatch, whole(folder), rows(), tmp_path / "a")
    found, report = ours(monkeypatch, whole(folder), rows(), tmp_path / "b")
    assert (report.facts["packed"], report.facts["loss_in_chunks"]) == (True, True)
    assert any("embed_tokens" in name for name in found[0])
    assert any("lm_head" in name for name in found[0]) is not tied
    assert_equal(found, expected)


def test_micro_batches_change_no_update(tiny_llama, tmp_path, monkeypatch):
    found, _ = ours(monkeypatch, adapted(tiny_llama), rows(), tmp_path / "a")
    monkeypatch.setattr(memory, "choose", lambda *_, **__: memory.Choice(30, 0, 0, fits=True))
    split, _ = ours(monkeypatch, adapted(tiny_llama), rows(), tmp_path / "b")
    assert_equal(split, found)


def test_window_of_the_model_is_kept(tmp_path, monkeypatch):
    folder = tiny_model(tmp_path / "model", "mistral", sliding_window=6)
    expected = plain(monkeypatch, adapted(folder), rows(), tmp_path / "a")
    found, report = ours(monkeypatch, adapted(folder), rows(), tmp_path / "b")
    assert report.facts["packed"] is True
    assert_equal(found, expected)


@pytest.mark.parametrize("head", ["saved", "adapted", "tied"])
def test_trained_heads_get_their_gradient(head, tiny_llama, tiny_tied, tmp_path, monkeypatch):
    settings = {
        "saved": {"modules_to_save": ["lm_head"]},
        "adapted": {"target_modules": ["q_proj", "lm_head"]},
        "tied": {},
    }
    folder = tiny_tied if head == "tied" else tiny_llama
    expected = plain(monkeypatch, adapted(folder, **settings[head]), rows(), tmp_path / "a")
    found, report = ours(monkeypatch, adapted(folder, **settings[head]), rows(), tmp_path / "b")
    assert report.facts["loss_in_chunks"] is True
    assert_equal(found, expected)


@pytest.mark.parametrize("more", [{"label_smoothing_factor": 0.1}, {"neftune_noise_alpha": 5.0}])
def test_arguments_that_need_padded_rows_get_them(more, tiny_llama, tmp_path, monkeypatch):
    torch.manual_seed(0)
    expected = plain(monkeypatch, adapted(tiny_llama), rows(), tmp_path / "a", **more)
    torch.manual_seed(0)
    found, report = ours(monkeypatch, adapted(tiny_llama), rows(), tmp_path / "b", **more)
    assert next(iter(more)) in report.facts["padded_because"]
    if "neftune_noise_alpha" not in more:  # the noise is drawn anew
        assert_equal(found, expected)


def test_checkpointing_changes_no_gradient(tiny_phi3, tmp_path, monkeypatch):
    expected, _ = ours(monkeypatch, adapted(tiny_phi3), rows(), tmp_path / "a")
    found, report = ours(monkeypatch, adapted(tiny_phi3), rows(), tmp_path / "b", gradient_checkpointing=True)
    assert report.facts["checkpointed_layers"] == 2
    assert_equal(found, expected)
