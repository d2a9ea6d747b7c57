"""An adapter merges to the model that PEFT runs, whatever it trained; what has another equation is refused by name."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from olivine.errors import ModelError, OlivineError, Unsupported
from olivine.models import Model
from olivine.models.adapter import deltas, read_config, refuse_if_nothing_changes, unties
from olivine.models.loading import load_causal_lm
from olivine.models.materialize import materialize
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
    "some tokens": {"target_modules": ["q_proj"], "trainable_token_indices": [3, 40]},
    "some tokens by name": {"target_modules": ["q_proj"], "trainable_token_indices": {"embed_tokens": [50, 1]}},
    "DoRA": {"use_dora": True},
    "rank-stabilised": {"use_rslora": True, "rank_pattern": {"q_proj": 2}, "alpha_pattern": {"up_proj": 32}},
    "LoHa": {"method": "LoHaConfig", "alpha_pattern": {"up_proj": 32}},
    "LoHa and a head": {"method": "LoHaConfig", "target_modules": ["q_proj"], "modules_to_save": ["lm_head"]},
    "LoKr": {"method": "LoKrConfig", "rank_pattern": {"q_proj": 2}},
    "LoKr in four": {"method": "LoKrConfig", "decompose_both": True, "decompose_factor": 4, "r": 1},
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


SPLIT = {
    "all": {"target_modules": "all-linear"},
    "some": {"target_modules": ["k_proj", "up_proj", "o_proj"]},
    "DoRA": {"target_modules": ["q_proj", "v_proj", "gate_proj"], "use_dora": True},
    "LoHa": {"target_modules": ["q_proj", "v_proj", "gate_proj"], "method": "LoHaConfig"},
    "whole layer": {"target_modules": ["o_proj"], "modules_to_save": ["v_proj"]},
    "head": {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]},
}


def split_twin(fused, folder, **settings):
    """A Llama with the weights of a Phi-3: what other tools make of it."""
    tiny_model(folder, "llama", rms_norm_eps=1e-5, **settings)
    tensors = load_file(fused / "model.safetensors")
    for name in [name for name in tensors if "qkv_proj" in name or "gate_up_proj" in name]:
        whole = tensors.pop(name)
        leaves = {"q_proj": 64, "k_proj": 32, "v_proj": 32} if "qkv" in name else {"gate_proj": 128, "up_proj": 128}
        for leaf, rows in zip(leaves, whole.split(list(leaves.values())), strict=True):
            tensors[name.replace("qkv_proj" if "qkv" in name else "gate_up_proj", leaf)] = rows.contiguous()
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    return folder


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("trained", SPLIT)
def test_adapter_of_split_layers_fits_a_fused_base(trained, tied, tmp_path):
    fused = tiny_model(tmp_path / "fused", "phi3", tied=tied)
    twin = split_twin(fused, tmp_path / "twin", tie_word_embeddings=tied)
    folder = tiny_adapter(twin, tmp_path / "a", **SPLIT[trained])
    expected = load_causal_lm(Model("adapter", folder, base=Model("hf", twin)))(IDS).logits
    adapter, merged = merged_model(fused, folder, tmp_path / "m")
    for model in (adapter, merged):
        assert (load_causal_lm(model)(IDS).logits - expected).abs().max() <= 1e-4
    assert not torch.allclose(expected, load_causal_lm(Model("hf", fused))(IDS).logits)


def test_split_adapter_of_another_fused_base_is_refused_by_rows(tmp_path):
    twin = split_twin(tiny_model(tmp_path / "fused", "phi3"), tmp_path / "twin")
    folder = tiny_adapter(twin, tmp_path / "a", target_modules=["q_proj", "k_proj"])
    other = tiny_model(tmp_path / "other", "phi3", num_key_value_heads=4)
    with pytest.raises(ModelError, match=r"another base: 'k_proj' is \[64, 64\] in its '.*qkv_proj.weight', but .*32"):
        merged_model(other, folder, tmp_path / "m")


@pytest.mark.parametrize(
    ("method", "lost", "message"),
    [
        ("LoHaConfig", "hada_w2_a", r"lacks hada_w2_a of 'model\.layers\.0"),
        ("LoKrConfig", "lokr_w1", r"lacks lokr_w1_a of 'model\.layers\.0"),
    ],
)
def test_factor_that_is_missing_is_named(method, lost, message, tiny_llama, tmp_path):
    folder = tiny_adapter(tiny_llama, tmp_path / "a", method=method)
    tensors = {name: value for name, value in load_file(folder / FILE).items() if not name.endswith(lost)}
    save_file(tensors, folder / FILE)
    with pytest.raises(ModelError, match=message):
        merged_model(tiny_llama, folder, tmp_path / "m")


def test_loha_of_other_sizes_is_refused(tiny_llama, tmp_path):
    folder = tiny_adapter(tiny_llama, tmp_path / "a", method="LoHaConfig", target_modules=["q_proj"])
    tensors = load_file(folder / FILE)
    name = next(name for name in tensors if name.endswith("hada_w2_b"))
    save_file(tensors | {name: tensors[name][:, :32].contiguous()}, folder / FILE)
    with pytest.raises(ModelError, match=r"ranks of .*q_proj.* differ"):
        merged_model(tiny_llama, folder, tmp_path / "m")


def test_tokens_that_the_base_has_not_are_refused(tiny_llama, tmp_path):
    folder = tiny_adapter(tiny_llama, tmp_path / "a", target_modules=["q_proj"], trainable_token_indices=[3, 4])
    path = folder / "adapter_config.json"
    config = json.loads(path.read_text())
    for tokens, message in (([3, 9999], "tokens that .* has not"), ([3], "names others")):
        path.write_text(json.dumps(config | {"trainable_token_indices": tokens}))
        with pytest.raises(ModelError, match=message):
            merged_model(tiny_llama, folder, tmp_path / "m")


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
    update = deltas(adapter, weights(adapter.base))[name].update
    expected = (halved[name].float() + 2.0 * update.b.read().float() @ update.a.read().float()).bfloat16()
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


@pytest.fixture
def half_llama(tiny_llama, tmp_path):
    """The same model in float16, whose largest number is 65504."""
    base = shutil.copytree(tiny_llama, tmp_path / "half")
    save_file({k: v.half() for k, v in load_file(base / "model.safetensors").items()}, base / "model.safetensors")
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps(config | {"dtype": "float16"}))
    return base


@pytest.mark.parametrize("scale", [1e8, 1e-9])
def test_update_outside_of_the_bases_type_is_refused(scale, half_llama, tmp_path):
    """Too large: merged it is infinite. Too small: merged it is the base."""
    folder = tiny_adapter(half_llama, tmp_path / "a", lora_alpha=scale, target_modules=["down_proj"])
    adapter = Model("adapter", folder, base=Model("hf", half_llama))
    if scale < 1:
        with pytest.raises(OlivineError, match=r"changes no weight in its type: .* too small for float16"):
            refuse_if_nothing_changes(adapter, weights(adapter.base))
        return
    merged = weights(Model("hf", half_llama, base=adapter))
    with pytest.raises(
        OlivineError, match=r"'model\.layers\.1\.mlp\.down_proj\.weight' holds values that are infinite"
    ):
        merged["model.layers.1.mlp.down_proj.weight"].read()
    (tmp_path / "m").mkdir()
    with pytest.raises(OlivineError, match=r"down_proj\.weight' holds values that are infinite"):
        materialize(Model("hf", half_llama, base=adapter), tmp_path / "m")


def test_truncated_adapter_is_refused(tiny_llama, llama_adapter, tmp_path):
    folder = shutil.copytree(llama_adapter, tmp_path / "a")
    with (folder / FILE).open("r+b") as file:
        file.truncate((folder / FILE).stat().st_size - 1)
    with pytest.raises(ModelError, match="is truncated"):
        merged_model(tiny_llama, folder, tmp_path / "m")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "is not JSON"),
        ('{"peft_type": "LORA"}', "has no number 'lora_alpha'"),
        ('{"peft_type": "LOKR", "alpha": 8}', "has no number 'r'"),
    ],
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
