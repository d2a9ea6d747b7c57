"""The proof before work: an export that is the model passes; one that leaves something out is told by what it lacks."""

import json
import shutil

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from olivine.errors import OlivineError
from olivine.exporting import proving
from olivine.exporting.cut_config import LONGEST, cut
from olivine.models import Model
from olivine.passes import Context, Machine, passes
from olivine.work import Silent
from tiny import tiny_model

MACHINE = Machine("cpu", "CPUExecutionProvider", 8 * 10**9, 10**12, 2)
Build = passes.classes["build"]
WINDOWED = {"use_sliding_window": True, "sliding_window": 16, "max_window_layers": 1}
LLAMA_3_1 = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "bos_token_id": 128000,
    "eos_token_id": [128001, 128008, 128009],
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "max_position_embeddings": 131072,
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "num_key_value_heads": 8,
    "rms_norm_eps": 1e-05,
    "rope_scaling": {
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
        "rope_type": "llama3",
    },
    "rope_theta": 500000.0,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "vocab_size": 128256,
}
PHI_3_MINI = {
    "architectures": ["Phi3ForCausalLM"],
    "auto_map": {"AutoConfig": "configuration_phi3.Phi3Config"},
    "model_type": "phi3",
    "bos_token_id": 1,
    "eos_token_id": 32000,
    "pad_token_id": 32000,
    "hidden_size": 3072,
    "intermediate_size": 8192,
    "max_position_embeddings": 4096,
    "original_max_position_embeddings": 4096,
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "num_key_value_heads": 32,
    "rope_scaling": None,
    "rope_theta": 10000.0,
    "sliding_window": 2047,
    "tie_word_embeddings": False,
    "vocab_size": 32064,
}
GEMMA_3_1B = {
    "architectures": ["Gemma3ForCausalLM"],
    "model_type": "gemma3_text",
    "bos_token_id": 2,
    "eos_token_id": [1, 106],
    "pad_token_id": 0,
    "head_dim": 256,
    "hidden_size": 1152,
    "intermediate_size": 6912,
    "max_position_embeddings": 32768,
    "num_attention_heads": 4,
    "num_hidden_layers": 26,
    "num_key_value_heads": 1,
    "query_pre_attn_scalar": 256,
    "rope_local_base_freq": 10000,
    "rope_theta": 1000000,
    "sliding_window": 512,
    "sliding_window_pattern": 6,
    "vocab_size": 262144,
}
QWEN_2_5 = {
    "architectures": ["Qwen2ForCausalLM"],
    "model_type": "qwen2",
    "hidden_size": 896,
    "intermediate_size": 4864,
    "max_position_embeddings": 32768,
    "max_window_layers": 21,
    "num_attention_heads": 14,
    "num_hidden_layers": 24,
    "num_key_value_heads": 2,
    "sliding_window": 4096,
    "tie_word_embeddings": True,
    "use_sliding_window": True,
    "vocab_size": 151936,
}


def config_of(folder, architecture, **settings):
    """The config.json that transformers writes for a tiny model."""
    return json.loads((tiny_model(folder / "model", architecture, **settings) / "config.json").read_text())


def prove(config, folder, spoil=lambda model: None):
    """The proof of an export that spoils the small checkpoint first, as a builder that leaves something out would."""

    def export(model, context):
        spoiled = folder / "spoiled"
        shutil.copytree(model.path, spoiled)
        spoil(spoiled)
        context.output.mkdir(parents=True, exist_ok=True)
        return Build(Build.Params(precision="fp32")).run(Model("hf", spoiled), context)

    return proving.prove(config, export, Context(folder / "output", folder / "scratch", MACHINE, Silent()))


def without(**changes):
    """Change the config of a checkpoint; None removes a key."""

    def spoil(folder):
        config = json.loads((folder / "config.json").read_text()) | changes
        kept = {key: value for key, value in config.items() if value is not None}
        (folder / "config.json").write_text(json.dumps(kept))

    return spoil


def with_weights(change):
    """Change some tensors of a checkpoint: `change(name, tensor)` gives what is saved."""

    def spoil(folder):
        file = folder / "model.safetensors"
        tensors = {name: change(name, tensor).contiguous() for name, tensor in load_file(file).items()}
        save_file(tensors, file, {"format": "pt"})

    return spoil


@pytest.mark.parametrize("architecture", ["llama", "smollm", "qwen3", "phi3", "gemma"])
def test_a_sound_export_is_proven_up_to_its_context(architecture, tmp_path):
    proof = prove(config_of(tmp_path, architecture), tmp_path)
    assert {1, 7, 254, 256} <= set(proof["lengths"])
    assert proof["largest_difference"] < 1e-3
    assert proof["unproven"] == []


def test_both_sides_of_a_window_are_tried(tmp_path):
    proof = prove(config_of(tmp_path, "qwen2", **WINDOWED), tmp_path)
    assert {14, 15, 16, 17, 18, 19, 52} <= set(proof["lengths"])


def test_a_dropped_window_is_told_with_its_size(tmp_path):
    config = config_of(tmp_path, "qwen2", **WINDOWED)
    spoil = without(use_sliding_window=False, layer_types=None)
    with pytest.raises(OlivineError, match="beyond the window of 16 the exported graph reads everything") as error:
        prove(config, tmp_path, spoil)
    assert "from 17 tokens on logits differ by" in str(error.value)


def test_a_window_that_is_one_token_too_wide_is_seen(tmp_path):
    config = config_of(tmp_path, "qwen2", **WINDOWED)
    with pytest.raises(OlivineError, match="from 17 tokens on"):
        prove(config, tmp_path, without(sliding_window=17))


def test_a_dropped_rope_scaling_is_told_by_its_kind(tmp_path):
    rope = {"rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0, "low_freq_factor": 1.0}
    rope |= {"high_freq_factor": 4.0, "original_max_position_embeddings": 64}
    config = config_of(tmp_path, "llama", rope_parameters=rope)
    spoil = without(rope_parameters={"rope_type": "default", "rope_theta": 10000.0})
    with pytest.raises(OlivineError, match="no 'llama3' scaling of its rotary embedding"):
        prove(config, tmp_path, spoil)


@pytest.mark.parametrize(
    ("key", "what"), [("attn_logit_softcapping", "attention scores"), ("final_logit_softcapping", "logits")]
)
def test_a_soft_cap_that_is_dropped_is_told(key, what, tmp_path):
    with pytest.raises(
        OlivineError,
        match=f"logits differ by .*: the exported graph has no soft cap of {what}",
    ):
        prove(config_of(tmp_path, "gemma2"), tmp_path, without(**{key: 1000.0}))


@pytest.mark.parametrize("name", ["q_proj.bias", "k_norm.weight", "input_layernorm.weight", "model.norm.weight"])
def test_a_part_that_is_left_out_is_seen(name, tmp_path):
    config = config_of(tmp_path, "qwen3", attention_bias=True)
    plain = torch.zeros_like if name.endswith("bias") else torch.ones_like
    spoil = with_weights(lambda own, tensor: plain(tensor) if own.endswith(name) else tensor)
    with pytest.raises(OlivineError, match=r"not the model: .*logits differ"):
        prove(config, tmp_path, spoil)


def test_another_epsilon_of_the_norms_is_seen(tmp_path):
    with pytest.raises(OlivineError, match="at every length logits differ"):
        prove(config_of(tmp_path, "llama", rms_norm_eps=1e-5), tmp_path, without(rms_norm_eps=1e-4))


def test_what_the_builder_raises_is_told(tmp_path):
    def export(model, context):
        raise KeyError("rope_type")

    context = Context(tmp_path / "output", tmp_path / "scratch", MACHINE, Silent())
    with pytest.raises(OlivineError, match="cannot export this architecture: KeyError: 'rope_type'"):
        proving.prove(config_of(tmp_path, "llama"), export, context)


def test_a_config_that_transformers_cannot_run_is_told_as_that(tmp_path):
    config = config_of(tmp_path, "mistral", sliding_window=None) | {"layer_types": ["sliding_attention"] * 2}
    config |= {"model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"]}
    with pytest.raises(OlivineError, match=r"transformers itself cannot run a model of this config: .*sliding_window"):
        prove(config, tmp_path)


def test_a_model_without_a_class_of_transformers_is_said_to_be_unproven(tmp_path):
    config = config_of(tmp_path, "llama") | {"model_type": "house_made", "auto_map": {"AutoConfig": "house.Made"}}
    proof = prove(config, tmp_path)
    assert proof["lengths"] == []
    assert "transformers makes no model of this config" in proof["unproven"][0]
    assert "house_made" in proof["unproven"][0]


def test_a_text_that_grows_past_the_length_of_its_rope_is_said_to_be_unproven(tmp_path):
    factors = {"short_factor": [1.0 + 0.1 * i for i in range(8)], "long_factor": [1.0 + 0.5 * i for i in range(8)]}
    rope = {"type": "longrope", **factors}
    config = config_of(tmp_path, "phi3") | {"rope_scaling": rope, "original_max_position_embeddings": 64}
    config |= {"rope_theta": 10000.0}
    del config["rope_parameters"]
    proof = prove(config, tmp_path)
    assert {62, 64, 65, 71} <= set(proof["lengths"])
    assert "original length of 64" in proof["unproven"][0]


@pytest.mark.parametrize("config", [LLAMA_3_1, PHI_3_MINI, GEMMA_3_1B, QWEN_2_5], ids=lambda one: one["model_type"])
def test_a_cut_config_is_small_and_keeps_what_shapes_the_graph(config):
    full = transformers.AutoConfig.for_model(**{key: one for key, one in config.items() if key != "auto_map"})
    small = cut(config, full)
    own = transformers.AutoConfig.for_model(**small.config)
    assert own.num_hidden_layers <= 8
    assert own.hidden_size <= 600
    assert own.vocab_size < 400
    assert head_size(own) == head_size(full)
    assert (own.num_key_value_heads == 1) == (full.num_key_value_heads == 1)
    assert (own.num_key_value_heads == own.num_attention_heads) == (
        full.num_key_value_heads == full.num_attention_heads
    )
    assert set(kinds(own)) == set(kinds(full))
    assert own.rope_parameters.keys() == full.rope_parameters.keys()
    assert own.tie_word_embeddings == full.tie_word_embeddings
    assert max(small.boundaries, default=0) <= LONGEST
    assert small.config.keys() <= config.keys() | {"dtype", "bos_token_id", "eos_token_id", "pad_token_id"}


def head_size(config):
    return getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads


def kinds(config):
    return getattr(config, "layer_types", None) or ["full_attention"]


def test_windows_that_can_be_tried_are_kept_and_longer_ones_stand_in_the_same_order():
    mini = cut(PHI_3_MINI, transformers.Phi3Config(**{k: v for k, v in PHI_3_MINI.items() if k != "auto_map"}))
    assert mini.window == 2047
    assert mini.window < mini.original == mini.context < LONGEST
    long = QWEN_2_5 | {"sliding_window": 16384}
    small = cut(long, transformers.Qwen2Config(**long))
    assert 1000 < small.window < small.context < LONGEST
    assert small.config["sliding_window"] == small.window
    yarn = long | {"rope_scaling": {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 8192}}
    small = cut(yarn, transformers.Qwen2Config(**yarn))
    assert (small.context, small.boundaries) == (32768, [1024])


def test_the_length_at_which_a_rope_changes_its_table_is_tried_as_it_is():
    factors = {"short_factor": [1.0] * 48, "long_factor": [4.0] * 48}
    long = PHI_3_MINI | {"max_position_embeddings": 131072, "rope_scaling": {"type": "longrope", **factors}}
    small = cut(long, transformers.Phi3Config(**{key: one for key, one in long.items() if key != "auto_map"}))
    assert (small.original, small.context) == (4096, 131072)
    assert 4096 in small.boundaries


def test_layers_are_picked_where_a_kind_comes_late():
    small = cut(QWEN_2_5, transformers.Qwen2Config(**QWEN_2_5))
    assert small.config["num_hidden_layers"] == 2
    assert small.config["max_window_layers"] == 1


def test_options_that_leave_a_part_out_are_said_to_be_unproven(tiny_llama, tmp_path):
    step = Build(Build.Params(exclude_lm_head=True, precision="fp32", extra_options={"kv_cache_quant_scheme": "x"}))
    context = Context(tmp_path / "output", tmp_path / "scratch", MACHINE, Silent())
    proof = step.prove(Model("hf", tiny_llama), context)
    assert proof["lengths"]
    assert proof["unproven"] == [
        "exclude_lm_head: the graph is proven with its head, not without",
        "the graph is proven without extra_options kv_cache_quant_scheme",
    ]


def test_an_adapter_is_proven_by_the_config_of_its_base(tiny_llama, llama_adapter):
    base = Model("hf", tiny_llama)
    assert proving.config_of(Model("adapter", llama_adapter, base=base)) == proving.config_of(base)


def test_metadata_alone_has_nothing_to_prove(tiny_llama, tmp_path):
    step = Build(Build.Params(metadata_only=True))
    proof = step.prove(Model("hf", tiny_llama), Context(tmp_path, tmp_path / "scratch", MACHINE, Silent()))
    assert proof["lengths"] == []
    assert "nothing to prove" in proof["unproven"][0]
