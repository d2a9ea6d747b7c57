"""An adapter merges to the model that PEFT runs, whatever it trained; what has another equation is refused by name."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from olivine.errors import ModelError, Unsupported
from olivine.models import Model
from olivine.models.adapter import deltas, read_config, refuse_if_nothing_changes, unties
from olivine.models.loading import load_causal_lm
from olivine.models.weights import weights
from tiny import tiny_adapter, tiny_model

IDS = torch.tensor([[1, 40, 50, 60, 70, 80]])
FILE = "adapter_model.safetensors"
TRAINED = {
    "embedding": {"target_modules": ["q_proj", "embed_tokens"]},
    "head": {"target_modules": ["q_proj", "lm_head"]},
    "both": {"target_modules": ["q_proj", "embed_tokens", "lm_head"]},
    "both as one": {"target_modules": ["q_proj", "embed_tokens"], "ensure_weight_tying": True},
    "embedding with DoRA": {"target_modules": ["embed_tokens"], "use_dora": True},
    "whole embedding": {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"]},
    "whole head": {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]},
    "whole embedding and head": {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens", "lm_head"]},
    "norm": {"target_modules": ["q_proj"], "modules_to_save": ["norm"]},
}


def merged_model(base, folder, output):
    """The merge as the pass writes it: a config that says whether the head is still tied."""
    adapter = Model("adapter", folder, base=Model("hf", base))
    refuse_if_nothing_changes(adapter, weights(adapter.base))
    shutil.copytree(base, output, ignore=shutil.ignore_patterns("*.safetensors"))
    config = json.loads((output / "config.json").read_text())
    if unties(adapter, weights(adapter.base), tied=config["tie_word_embeddings"]):
        config["tie_word_embeddings"] = False
    (output / "config.json").write_text(json.dumps(config))
    return adapter, Model("hf", output, base=adapter)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("trained", TRAINED)
@pytest.mark.parametrize("tied", [False, True])
def test_merge_is_what_peft_runs(trained, tied, tiny_llama, tiny_tied, tmp_path):
    base = tiny_tied if tied else tiny_llama
    adapter, merged = merged_model(base, tiny_adapter(base, tmp_path / "a", **TRAINED[trained]), tmp_path / "m")
    expected = load_causal_lm(adapter)(IDS).logits
    assert (load_causal_lm(merged)(IDS).logits - expected).abs().max() <= 1e-4
    assert not torch.allclose(expected, load_causal_lm(adapter.base)(IDS).logits)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("bias", ["all", "lora_only"])
def test_trained_biases_are_merged(bias, tmp_path):
    base = tiny_model(tmp_path / "base", "qwen2")
    folder = tiny_adapter(base, tmp_path / "a", target_modules=["q_proj", "v_proj"], bias=bias)
    adapter, merged = merged_model(base, folder, tmp_path / "m")
    assert (load_causal_lm(merged)(IDS).logits - load_causal_lm(adapter)(IDS).logits).abs().max() <= 1e-4


def test_merge_in_bfloat16_is_computed_in_float32(tiny_llama, tmp_path):
    base = shutil.copytree(tiny_llama, tmp_path / "base")
    halved = {name: value.bfloat16() for name, value in load_file(base / "model.safetensors").items()}
    save_file(halved, base / "model.safetensors", {"format": "pt"})
    adapter, merged = merged_model(base, tiny_adapter(base, tmp_path / "a"), tmp_path / "m")
    name = "model.layers.0.mlp.up_proj.weight"
    a, b = deltas(adapter, weights(adapter.base))[name].factors
    expected = (halved[name].float() + 2.0 * b.read().float() @ a.read().float()).bfloat16()
    assert torch.equal(weights(merged)[name].read(), expected)


def test_merge_leaves_the_files_of_the_base_alone(tiny_llama, llama_adapter, tmp_path):
    before = (tiny_llama / "model.safetensors").read_bytes()
    _, merged = merged_model(tiny_llama, llama_adapter, tmp_path / "m")
    for tensor in weights(merged).values():
        assert torch.equal(tensor.read(), tensor.read())
    assert (tiny_llama / "model.safetensors").read_bytes() == before


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("alora_invocation_tokens", [5]),
        ("layer_replication", [[0, 2], [1, 2]]),
        ("lora_bias", True),
        ("trainable_token_indices", [3]),
        ("target_parameters", ["experts.gate_up_proj"]),
        ("init_lora_weights", "pissa"),
        ("init_lora_weights", "pissa_niter_4"),
        ("init_lora_weights", "olora"),
        ("init_lora_weights", "loftq"),
    ],
)
def test_other_equations_are_refused_by_name(field, value, tiny_llama, llama_adapter, tmp_path):
    folder = shutil.copytree(llama_adapter, tmp_path / "a")
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(config | {field: value}))
    with pytest.raises(Unsupported, match=field):
        merged_model(tiny_llama, folder, tmp_path / "m")


@pytest.mark.parametrize("init", ["gaussian", "orthogonal", "eva", False])
def test_ways_to_start_that_leave_the_base_alone_are_read(init, llama_adapter, tmp_path):
    folder = shutil.copytree(llama_adapter, tmp_path / "a")
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(config | {"init_lora_weights": init}))
    assert read_config(folder)["init_lora_weights"] == init


def test_adapter_with_nan_is_refused_by_tensor(tiny_llama, llama_adapter, tmp_path):
    folder = shutil.copytree(llama_adapter, tmp_path / "a")
    tensors = load_file(folder / FILE)
    name = next(name for name in tensors if "lora_B" in name)
    tensors[name][0, 0] = float("nan")
    save_file(tensors, folder / FILE)
    with pytest.raises(ModelError, match=r"NaN or infinite.*lora_B"):
        merged_model(tiny_llama, folder, tmp_path / "m")


def test_truncated_adapter_is_refused(tiny_llama, llama_adapter, tmp_path):
    folder = shutil.copytree(llama_adapter, tmp_path / "a")
    with (folder / FILE).open("r+b") as file:
        file.truncate((folder / FILE).stat().st_size - 1)
    with pytest.raises(ModelError, match="is truncated"):
        merged_model(tiny_llama, folder, tmp_path / "m")


@pytest.mark.parametrize(
    ("text", "said"), [("{", "is not JSON"), ('{"peft_type": "LORA"}', "has no number 'lora_alpha'")]
)
def test_damaged_config_of_an_adapter_is_named(text, said, llama_adapter, tmp_path):
    folder = shutil.copytree(llama_adapter, tmp_path / "a")
    (folder / "adapter_config.json").write_text(text)
    with pytest.raises(ModelError, match=said):
        read_config(folder)


def test_quantized_base_is_refused_before_its_weights_are_read(tiny_llama, llama_adapter, tmp_path):
    base = shutil.copytree(tiny_llama, tmp_path / "base")
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps(config | {"quantization_config": {"quant_method": "fp8"}}))
    with pytest.raises(Unsupported, match=r"already quantized \('fp8'\)"):
        merged_model(base, llama_adapter, tmp_path / "m")
