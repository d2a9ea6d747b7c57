"""A model that is filled from lazy weights is the model that transformers loads."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from olivine.errors import ModelError
from olivine.models import Model
from olivine.models.loading import load_causal_lm
from olivine.models.materialize import materialize
from olivine.models.weights import weights
from olivine.reading import hear_reading
from tiny import tiny_adapter, tiny_model

IDS = torch.tensor([[1, 40, 50, 60, 70, 80]])


@pytest.mark.parametrize("architecture", ["llama", "smollm", "mistral", "phi3", "qwen2", "qwen3", "gemma"])
def test_logits_equal_those_of_transformers(architecture, tmp_path):
    folder = tiny_model(tmp_path, architecture)
    expected = AutoModelForCausalLM.from_pretrained(folder)(IDS).logits
    assert torch.equal(load_causal_lm(Model("hf", folder))(IDS).logits, expected)


def test_adapter_is_applied_by_peft(tiny_llama, llama_adapter):
    base = Model("hf", tiny_llama)
    adapted = load_causal_lm(Model("adapter", llama_adapter, base=base))(IDS).logits
    assert not torch.allclose(adapted, load_causal_lm(base)(IDS).logits)


def test_bfloat16_casts_every_weight(tiny_llama):
    model = load_causal_lm(Model("hf", tiny_llama), dtype="bfloat16")
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}


def test_nothing_is_read_before_it_is_asked_for(tiny_llama, monkeypatch):
    import numpy as np

    read, real = [], np.fromfile
    monkeypatch.setattr(np, "fromfile", lambda *a, **k: read.append(a) or real(*a, **k))
    tensors = weights(Model("hf", tiny_llama))
    assert read == []
    tensors["model.norm.weight"].read()
    assert len(read) == 1


def test_rows_are_those_of_the_whole_tensor_and_nothing_else_is_read(tiny_llama, monkeypatch):
    import numpy as np

    tensor = weights(Model("hf", tiny_llama))["model.layers.0.mlp.up_proj.weight"]
    whole, n_read, real = tensor.read(), [], np.fromfile
    monkeypatch.setattr(np, "fromfile", lambda *a, **k: n_read.append(a[2]) or real(*a, **k))
    assert torch.equal(tensor.rows(3, 10), whole[3:10])
    assert n_read == [7 * whole.shape[1] * whole.element_size()]


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("architecture", ["llama", "phi3", "gemma"])
def test_merged_model_equals_base_plus_adapter(architecture, tied, tmp_path):
    base = Model("hf", tiny_model(tmp_path / "base", architecture, tied=tied))
    adapter = Model("adapter", tiny_adapter(base.path, tmp_path / "adapter"), base=base)
    merged = Model("hf", base.path, base=adapter)
    expected = load_causal_lm(adapter)(IDS).logits
    lazy = load_causal_lm(merged)(IDS).logits
    assert (lazy - expected).abs().max() <= 1e-4
    target = tmp_path / "merged"
    target.mkdir()
    materialize(merged, target)
    reloaded = AutoModelForCausalLM.from_pretrained(target)(IDS).logits
    assert torch.equal(reloaded, lazy)


def test_merge_agrees_with_peft(tiny_llama, llama_adapter):
    from peft import PeftModel

    oracle = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(tiny_llama), llama_adapter
    ).merge_and_unload()
    merged = weights(Model("hf", tiny_llama, base=Model("adapter", llama_adapter, base=Model("hf", tiny_llama))))
    for name, parameter in oracle.state_dict().items():
        torch.testing.assert_close(merged[name].read(), parameter, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize(
    "settings",
    [{"use_rslora": True}, {"use_dora": True}, {"rank_pattern": {"q_proj": 2}, "alpha_pattern": {"q_proj": 32}}],
)
def test_variants_of_lora_merge_like_peft(settings, tiny_llama, tmp_path):
    base = Model("hf", tiny_llama)
    adapter = Model("adapter", tiny_adapter(tiny_llama, tmp_path, **settings), base=base)
    merged = load_causal_lm(Model("hf", tiny_llama, base=adapter))(IDS).logits
    assert (merged - load_causal_lm(adapter)(IDS).logits).abs().max() <= 1e-4


def test_materialized_shards_have_an_index(tiny_llama, llama_adapter, tmp_path):
    merged = Model("hf", tiny_llama, base=Model("adapter", llama_adapter, base=Model("hf", tiny_llama)))
    materialize(merged, tmp_path, max_shard_bytes=100_000)
    assert (tmp_path / "model.safetensors.index.json").is_file()
    reloaded = AutoModelForCausalLM.from_pretrained(tmp_path)(IDS).logits
    assert torch.equal(reloaded, load_causal_lm(merged)(IDS).logits)


def test_missing_weights_are_named(tiny_llama, tmp_path):
    from safetensors.torch import load_file, save_file

    for file in tiny_llama.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    tensors = load_file(tmp_path / "model.safetensors")
    tensors.pop("model.layers.1.mlp.up_proj.weight")
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match=r"lacks the weights model\.layers\.1\.mlp\.up_proj\.weight"):
        load_causal_lm(Model("hf", tmp_path))


@pytest.mark.parametrize("key", ["attn_implementation", "_attn_implementation", "experts_implementation"])
def test_code_that_a_config_names_is_not_asked_for(key, tiny_llama, llama_adapter, tmp_path):
    """transformers takes such a name for a repository of the hub and imports what lies there."""
    folder = shutil.copytree(tiny_llama, tmp_path / "copy")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {key: "evil/repository"}))
    model = load_causal_lm(Model("hf", folder))
    assert model.config._attn_implementation == "sdpa"
    assert "evil" not in str(model.config)
    (tmp_path / "merged").mkdir()
    adapter = Model("adapter", llama_adapter, base=Model("hf", folder))
    merged = materialize(Model("hf", folder, base=adapter), tmp_path / "merged")
    assert "evil" not in (merged.path / "config.json").read_text()


def test_python_of_a_model_is_not_run_without_trust(tiny_llama, tmp_path):
    folder = shutil.copytree(tiny_llama, tmp_path / "copy")
    config = json.loads((folder / "config.json").read_text()) | {"model_type": "own"}
    (folder / "config.json").write_text(json.dumps(config | {"auto_map": {"AutoConfig": "evil.Config"}}))
    (folder / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w').write('')")
    with pytest.raises(ModelError, match="trust_remote_code"):
        load_causal_lm(Model("hf", folder))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("write", ["load", "materialize"])
def test_reading_tells_how_far_it_is_up_to_all_bytes_of_the_model(write, tiny_llama, tmp_path):
    model, far = Model("hf", tiny_llama), []
    n_bytes = sum(tensor.nbytes for tensor in load_file(tiny_llama / "model.safetensors").values())
    hear_reading(lambda done, total: far.append((done, total)))
    if write == "load":
        load_causal_lm(model)
    else:
        materialize(model, tmp_path, max_shard_bytes=100_000)
    assert [total for _, total in far] == [n_bytes] * len(weights(model))
    assert [done for done, _ in far] == sorted({done for done, _ in far})
    assert far[-1] == (n_bytes, n_bytes)
