"""The architectures that `plan` calls supported: each proven, in the form of the hub and in that of transformers 5."""

import inspect
import json
import re
from pathlib import Path

import pytest
import transformers

from olivine.models import Model
from olivine.models.inspect import read_facts
from olivine.passes import Context, Machine, passes
from olivine.passes.export.build import ARCHITECTURES, NOT_EXPORTED
from olivine.work import Silent

MACHINE = Machine("cpu", "CPUExecutionProvider", 8 * 10**9, 10**12, 2)
Build = passes.classes["build"]
# Configs as the hub has them, but for boundaries that are met soon: windows of 16, ropes made for 64, contexts of 128.
SIZES = {
    "bos_token_id": 1,
    "eos_token_id": 2,
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "max_position_embeddings": 128,
    "num_attention_heads": 32,
    "num_hidden_layers": 24,
    "num_key_value_heads": 8,
    "torch_dtype": "bfloat16",
    "vocab_size": 32000,
}
LONG = {
    "type": "longrope",
    "short_factor": [1.0 + 0.02 * index for index in range(32)],
    "long_factor": [1.0 + 2.0 * index for index in range(32)],
}
LLAMA_3 = {
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
    "rope_type": "llama3",
}
YARN = {"type": "yarn", "factor": 2.0, "original_max_position_embeddings": 64}
EVERY_SECOND = ["sliding_attention", "full_attention"] * 12
# name of the row -> model_type, architecture, what its config says beside the sizes
ROWS = {
    "Llama 2 with linear scaling": (
        "llama",
        "LlamaForCausalLM",
        {"rope_scaling": {"type": "linear", "factor": 4.0}, "rope_theta": 10000.0, "num_key_value_heads": 32},
    ),
    "Llama 3.2, tied": (
        "llama",
        "LlamaForCausalLM",
        {"rope_scaling": LLAMA_3, "rope_theta": 500000.0, "tie_word_embeddings": True, "head_dim": 64},
    ),
    "a Llama with one pair of keys and values and biases": (
        "llama",
        "LlamaForCausalLM",
        {"num_key_value_heads": 1, "attention_bias": True, "mlp_bias": True, "rope_theta": 10000.0},
    ),
    "Mistral 0.1 with its window": ("mistral", "MistralForCausalLM", {"sliding_window": 16, "rope_theta": 10000.0}),
    "Mistral without a window": ("mistral", "MistralForCausalLM", {"sliding_window": None, "rope_theta": 1e6}),
    "Ministral, a window in every second layer": (
        "mistral",
        "MistralForCausalLM",
        {"sliding_window": 16, "layer_types": EVERY_SECOND, "head_dim": 128, "rope_theta": 1e8},
    ),
    "Phi-3-mini-4k": (
        "phi3",
        "Phi3ForCausalLM",
        {"sliding_window": 17, "original_max_position_embeddings": 128, "rope_theta": 10000.0, "rope_scaling": None},
    ),
    "a short Phi-3 that leaves the original length at transformers' 4096": ("phi3", "Phi3ForCausalLM", {}),
    "a Phi-3 with two sets of factors that is shorter than where they change": (
        "phi3",
        "Phi3ForCausalLM",
        {"original_max_position_embeddings": 4096, "rope_scaling": LONG, "rope_theta": 10000.0},
    ),
    "Phi-3-mini-128k": (
        "phi3",
        "Phi3ForCausalLM",
        {
            "sliding_window": 262144,
            "original_max_position_embeddings": 64,
            "rope_scaling": LONG,
            "rope_theta": 10000.0,
            "num_key_value_heads": 32,
        },
    ),
    "Phi-4-mini, which turns three quarters of a head": (
        "phi3",
        "Phi3ForCausalLM",
        {
            "hidden_size": 4096,
            "original_max_position_embeddings": 64,
            "partial_rotary_factor": 0.75,
            "rope_scaling": LONG | {key: [*LONG[key], *LONG[key][:16]] for key in ("short_factor", "long_factor")},
            "rope_theta": 10000.0,
            "sliding_window": 262144,
            "tie_word_embeddings": True,
        },
    ),
    "phi-2": (
        "phi",
        "PhiForCausalLM",
        {"num_key_value_heads": 32, "partial_rotary_factor": 0.5, "hidden_act": "gelu_new", "layer_norm_eps": 1e-05},
    ),
    "Qwen 2.5": (
        "qwen2",
        "Qwen2ForCausalLM",
        {"tie_word_embeddings": True, "use_sliding_window": False, "sliding_window": 128, "max_window_layers": 21},
    ),
    "Qwen 2 with its window on": (
        "qwen2",
        "Qwen2ForCausalLM",
        {"use_sliding_window": True, "sliding_window": 16, "max_window_layers": 12, "rope_theta": 1e6},
    ),
    "Qwen 2.5 with YaRN": ("qwen2", "Qwen2ForCausalLM", {"rope_scaling": YARN, "rope_theta": 1e6}),
    "Qwen 3": (
        "qwen3",
        "Qwen3ForCausalLM",
        {"head_dim": 128, "rope_theta": 1e6, "tie_word_embeddings": True, "use_sliding_window": False},
    ),
    "SmolLM3, every fourth layer without positions": (
        "smollm3",
        "SmolLM3ForCausalLM",
        {
            "no_rope_layer_interval": 4,
            "no_rope_layers": [1, 1, 1, 0] * 6,
            "rope_theta": 5e6,
            "sliding_window": None,
            "tie_word_embeddings": True,
            "use_sliding_window": False,
            "pad_token_id": 4,
        },
    ),
    "Gemma": (
        "gemma",
        "GemmaForCausalLM",
        {"head_dim": 256, "num_key_value_heads": 1, "hidden_act": "gelu", "hidden_activation": None, "pad_token_id": 0},
    ),
    "Gemma 2 with its soft caps": (
        "gemma2",
        "Gemma2ForCausalLM",
        {
            "attn_logit_softcapping": 50.0,
            "final_logit_softcapping": 30.0,
            "cache_implementation": "hybrid",
            "head_dim": 128,
            "hidden_act": "gelu_pytorch_tanh",
            "hidden_activation": "gelu_pytorch_tanh",
            "query_pre_attn_scalar": 144,
            "sliding_window": 16,
            "pad_token_id": 0,
        },
    ),
    "Gemma 3, five windows before each layer that reads everything": (
        "gemma3_text",
        "Gemma3ForCausalLM",
        {
            "head_dim": 256,
            "num_key_value_heads": 1,
            "num_attention_heads": 4,
            "hidden_activation": "gelu_pytorch_tanh",
            "query_pre_attn_scalar": 256,
            "rope_local_base_freq": 10000.0,
            "rope_scaling": {"rope_type": "linear", "factor": 8.0},
            "rope_theta": 1000000.0,
            "sliding_window": 16,
            "sliding_window_pattern": 6,
            "pad_token_id": 0,
        },
    ),
    "gpt-oss": (
        "gpt_oss",
        "GptOssForCausalLM",
        {
            "head_dim": 64,
            "intermediate_size": 2880,
            "layer_types": EVERY_SECOND,
            "num_local_experts": 32,
            "num_experts_per_tok": 4,
            "experts_per_token": 4,
            "attention_bias": True,
            "sliding_window": 16,
            "swiglu_limit": 7.0,
            "rope_theta": 150000,
            "rope_scaling": {
                "beta_fast": 32.0,
                "beta_slow": 1.0,
                "factor": 32.0,
                "original_max_position_embeddings": 64,
                "rope_type": "yarn",
                "truncate": False,
            },
        },
    ),
    "Granite 3.3": (
        "granite",
        "GraniteForCausalLM",
        {
            "attention_multiplier": 0.015625,
            "embedding_multiplier": 12.0,
            "logits_scaling": 8.0,
            "residual_multiplier": 0.22,
            "rope_theta": 1e7,
            "tie_word_embeddings": True,
        },
    ),
    "Granite 4, its form without experts and Mamba": (
        "granitemoehybrid",
        "GraniteMoeHybridForCausalLM",
        {
            "attention_multiplier": 0.015625,
            "embedding_multiplier": 12.0,
            "logits_scaling": 8.0,
            "residual_multiplier": 0.22,
            "layer_types": ["attention"] * 24,
            "num_local_experts": 0,
            "num_experts_per_tok": 0,
            "position_embedding_type": "rope",
            "shared_intermediate_size": 4096,
            "rope_theta": 1e7,
            "tie_word_embeddings": True,
        },
    ),
    "Hunyuan": (
        "hunyuan_v1_dense",
        "HunYuanDenseV1ForCausalLM",
        {
            "head_dim": 128,
            "use_qk_norm": True,
            "rope_scaling": {
                "alpha": 1000.0,
                "beta_fast": 32,
                "beta_slow": 1,
                "factor": 1.0,
                "mscale": 1.0,
                "mscale_all_dim": 0.0,
                "type": "dynamic",
            },
            "rope_theta": 10000.0,
            "tie_word_embeddings": True,
        },
    ),
    "LFM2": (
        "lfm2",
        "Lfm2ForCausalLM",
        {
            "block_auto_adjust_ff_dim": True,
            "block_dim": 2048,
            "block_ff_dim": 12288,
            "block_ffn_dim_multiplier": 1.0,
            "block_multiple_of": 256,
            "block_norm_eps": 1e-05,
            "conv_L_cache": 3,
            "conv_bias": False,
            "conv_dim": 2048,
            "conv_dim_out": 2048,
            "full_attn_idxs": [2, 5, 8, 10, 12, 14],
            "num_hidden_layers": 16,
            "norm_eps": 1e-05,
            "rope_theta": 1000000.0,
        },
    ),
    "Nemotron-Mini": (
        "nemotron",
        "NemotronForCausalLM",
        {"head_dim": 128, "hidden_act": "relu2", "norm_eps": 1e-05, "partial_rotary_factor": 0.5},
    ),
    "OLMo": ("olmo", "OlmoForCausalLM", {"num_key_value_heads": 32, "clip_qkv": None, "tie_word_embeddings": True}),
    "ERNIE 4.5": (
        "ernie4_5",
        "Ernie4_5ForCausalLM",
        {
            "head_dim": 128,
            "num_key_value_heads": 2,
            "rope_theta": 500000.0,
            "use_bias": False,
            "compression_ratio": 1.0,
        },
    ),
}


def hub_form(row):
    model_type, architecture, settings = ROWS[row]
    return {**SIZES, "architectures": [architecture], "model_type": model_type, **settings}


def todays_form(row):
    """What transformers 5 writes for a model that it has read."""
    config = hub_form(row)
    read = transformers.AutoConfig.for_model(**{key: one for key, one in config.items() if key != "torch_dtype"})
    return json.loads(read.to_json_string(use_diff=False))


@pytest.mark.parametrize("form", [hub_form, todays_form])
@pytest.mark.parametrize("row", ROWS)
def test_the_export_of_a_supported_architecture_is_the_model(row, form, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(form(row)))
    step = Build(Build.Params())
    assert not list(step.check(read_facts(tmp_path), MACHINE, {}))
    proof = step.prove(Model("hf", tmp_path), Context(tmp_path, tmp_path / "scratch", MACHINE, Silent()))
    assert {1, 7, 126, 128} <= set(proof["lengths"])
    limits = [sentence for sentence in proof["unproven"] if "length of 64" not in sentence]
    assert limits == []


SPEECH = {"WhisperForConditionalGeneration"}  # which test_whisper.py proves


def test_what_plan_calls_supported_is_what_the_table_proves():
    assert {architecture for _, architecture, _ in ROWS.values()} | SPEECH == ARCHITECTURES


def test_the_docs_name_every_supported_architecture():
    page = (Path(__file__).parents[2] / "docs" / "proof.md").read_text(encoding="utf-8")
    assert set(re.findall(r"`(\w+For(?:CausalLM|ConditionalGeneration))`", page)) == ARCHITECTURES


def test_an_architecture_that_is_not_exported_is_refused_with_its_reason(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(SIZES | {"architectures": ["PhiMoEForCausalLM"]}))
    refusal = next(Build(Build.Params()).check(read_facts(tmp_path), MACHINE, {}))
    assert "'PhiMoEForCausalLM' cannot be exported: its experts are built for CUDA alone" in refusal.message


def test_every_architecture_that_the_builder_knows_is_proven_or_refused_with_a_reason():
    from onnxruntime_genai.models import builder

    known = set(re.findall(r'architectures\[0\] == "(\w+)"', inspect.getsource(builder.create_model)))
    assert known >= ARCHITECTURES
    assert known - ARCHITECTURES == set(NOT_EXPORTED)
