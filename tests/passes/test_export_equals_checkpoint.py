"""The exported graph computes what transformers computes: prompt and decoding, below, at and above every boundary."""

import json

import numpy as np
import onnxruntime_genai
import pytest
import torch
import transformers

from olivine.exporting import limits
from olivine.models import Model
from olivine.models.inspect import read_facts
from olivine.passes import Context, Machine, passes
from olivine.work import Silent
from tiny import COMMON, VOCABULARY, tiny_tokenizer

MACHINE = Machine("cpu", "CPUExecutionProvider", 8 * 10**9, 10**12, 2)
Build = passes.classes["build"]
WINDOW, ORIGINAL, CONTEXT = 16, 64, 128
N_DECODED = 4
HEAD = {"head_dim": 16}
FULL, SLIDING = "full_attention", "sliding_attention"


def rope(kind, **settings):
    return {"rope_parameters": {"rope_type": kind, "rope_theta": 10_000.0, **settings}}


YARN = rope("yarn", factor=2.0, original_max_position_embeddings=ORIGINAL)
LLAMA3 = rope(
    "llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=ORIGINAL
)
LINEAR = rope("linear", factor=4.0)
DYNAMIC = rope("dynamic", factor=4.0)
FACTORS = {
    "short_factor": [1 + 0.1 * n for n in range(8)],
    "long_factor": [1 + 0.5 * n for n in range(8)],
    "original_max_position_embeddings": ORIGINAL,
}
LONG = {"sliding_window": None, "original_max_position_embeddings": ORIGINAL} | rope("longrope", **FACTORS)
SHORT = {"original_max_position_embeddings": CONTEXT}
GEMMA3 = HEAD | {"sliding_window": WINDOW, "num_hidden_layers": 3, "layer_types": [SLIDING, SLIDING, FULL]}
TWO_ROPES = {
    FULL: {"rope_type": "linear", "factor": 8.0, "rope_theta": 10_000.0},
    SLIDING: {"rope_type": "default", "rope_theta": 10_000.0},
}
EXPERTS = HEAD | {"num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": WINDOW}
GRANITE = {"embedding_multiplier": 12.0, "attention_multiplier": 0.3, "residual_multiplier": 0.2, "logits_scaling": 8.0}
HYBRID = {"num_local_experts": 0, "shared_intermediate_size": 128, "layer_types": ["attention"] * 2}
PARTIAL = {"partial_rotary_factor": 0.5}

# name -> transformers' config class and what differs from the common settings
MODELS = {
    "llama with biases and one key-value head": (
        "LlamaConfig",
        {"attention_bias": True, "mlp_bias": True, "num_key_value_heads": 1, "head_dim": 32},
    ),
    "llama with as many inner widths as words": ("LlamaConfig", {"intermediate_size": VOCABULARY}),
    "llama with heads that attention cannot turn": ("LlamaConfig", {"head_dim": 24}),
    "llama, linear": ("LlamaConfig", LINEAR),
    "llama, llama3": ("LlamaConfig", LLAMA3),
    "llama, yarn": ("LlamaConfig", YARN),
    "llama, dynamic": ("LlamaConfig", DYNAMIC),
    "llama, proportional": ("LlamaConfig", rope("proportional", partial_rotary_factor=0.5)),
    "llama, a factor that it ignores": ("LlamaConfig", rope("default", partial_rotary_factor=0.5)),
    "mistral with a window": ("MistralConfig", {"sliding_window": WINDOW, "num_key_value_heads": 1}),
    "mistral, llama3": ("MistralConfig", {"sliding_window": None, **LLAMA3}),
    "mistral, yarn": ("MistralConfig", {"sliding_window": WINDOW, **YARN}),
    "phi3 with a window": ("Phi3Config", {"sliding_window": WINDOW, "tie_word_embeddings": True, **SHORT}),
    "phi3, longrope": ("Phi3Config", LONG),
    "phi3, longrope with a magnitude": ("Phi3Config", LONG | rope("longrope", attention_factor=1.3, **FACTORS)),
    "phi3, longrope and a window": ("Phi3Config", LONG | {"sliding_window": WINDOW}),
    "phi3, longrope within its length": (
        "Phi3Config",
        SHORT | rope("longrope", **FACTORS | {"original_max_position_embeddings": CONTEXT}) | {"sliding_window": None},
    ),
    "phi3 turns three quarters of a head": (
        "Phi3Config",
        SHORT | rope("default", partial_rotary_factor=0.75) | {"sliding_window": None},
    ),
    "qwen2 with a window in its second layer": (
        "Qwen2Config",
        {"sliding_window": WINDOW, "use_sliding_window": True, "max_window_layers": 1},
    ),
    "qwen2 whose window begins after the last layer": (
        "Qwen2Config",
        {"sliding_window": WINDOW, "use_sliding_window": True, "max_window_layers": 2},
    ),
    "qwen3, yarn": ("Qwen3Config", HEAD | YARN | {"tie_word_embeddings": True}),
    "gemma of a width whose root is no round number": (
        "GemmaConfig",
        {"head_dim": 16, "hidden_size": 96, "tie_word_embeddings": True},
    ),
    "gemma2": ("Gemma2Config", HEAD | {"sliding_window": WINDOW, "query_pre_attn_scalar": 24}),
    "gemma3": ("Gemma3TextConfig", GEMMA3 | {"tie_word_embeddings": True}),
    "gemma3 with a cap of attention that it ignores": ("Gemma3TextConfig", GEMMA3 | {"attn_logit_softcapping": 1.0}),
    "gemma3 with two ropes": ("Gemma3TextConfig", GEMMA3 | {"rope_parameters": TWO_ROPES}),
    "gemma3 with local layers alone": ("Gemma3TextConfig", GEMMA3 | {"layer_types": [SLIDING] * 3}),
    "gpt-oss": ("GptOssConfig", EXPERTS),
    "gpt-oss with its layers the other way": ("GptOssConfig", EXPERTS | {"layer_types": [FULL, SLIDING]}),
    "granite": ("GraniteConfig", GRANITE | {"attention_bias": True}),
    "granite without positions": ("GraniteMoeHybridConfig", HYBRID | {"position_embedding_type": "nope"}),
    "granite's hybrid with positions": ("GraniteMoeHybridConfig", HYBRID | {"position_embedding_type": "rope"}),
    "hunyuan": ("HunYuanDenseV1Config", HEAD | rope("dynamic", alpha=1000.0, factor=1.0)),
    "lfm2": ("Lfm2Config", {"layer_types": ["conv", "full_attention"], "norm_eps": 1e-3}),
    "nemotron": ("NemotronConfig", {"head_dim": 32, "norm_eps": 1e-3, **PARTIAL}),
    "olmo": ("OlmoConfig", {}),
    "phi": ("PhiConfig", {"hidden_size": 128, "layer_norm_eps": 1e-3, **PARTIAL}),
    "smollm3 with a layer without positions": (
        "SmolLM3Config",
        {"no_rope_layers": [1, 0], "use_sliding_window": True, "sliding_window": WINDOW},
    ),
    "ernie": ("Ernie4_5Config", HEAD | {"use_bias": True}),
}


def save(folder, name, overrides):
    """A random model, whose norms and biases differ from element to element."""
    folder.mkdir(parents=True)
    tiny_tokenizer(folder)
    common = COMMON | {"max_position_embeddings": CONTEXT, "tie_word_embeddings": False, "vocab_size": VOCABULARY}
    ends = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}
    torch.manual_seed(0)
    config = getattr(transformers, name)(**common | ends | overrides)
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    model.save_pretrained(folder)
    return folder


def export(source, folder, **params):
    (folder / "built").mkdir(parents=True)
    (folder / "scratch").mkdir()
    step = Build(Build.Params(precision="fp32", **params))
    assert list(step.check(read_facts(source), MACHINE, {})) == []
    result = step.run(Model("hf", source), Context(folder / "built", folder / "scratch", MACHINE, Silent()))
    step.ensures(result)
    return result.path


def of_transformers(source, ids, n_prompt):
    """Logits [1 + N_DECODED, vocabulary] after the prompt and after each token that follows, with a cache."""
    model = transformers.AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32, attn_implementation="eager")
    found, cache = [], None
    with torch.no_grad():
        for part in [ids[:n_prompt], *([token] for token in ids[n_prompt:])]:
            output = model(torch.tensor([part]), past_key_values=cache, use_cache=True)
            cache = output.past_key_values
            found.append(output.logits[0, -1].numpy())
    return np.stack(found)


def of_runtime(built, ids, n_prompt):
    """The same of the exported folder in onnxruntime-genai, in the length that the folder says."""
    model = onnxruntime_genai.Model(str(built))
    generator = onnxruntime_genai.Generator(model, onnxruntime_genai.GeneratorParams(model))
    found = []
    for part in [ids[:n_prompt], *([token] for token in ids[n_prompt:])]:
        generator.append_tokens(np.array(part, dtype=np.int32))
        found.append(np.asarray(generator.get_logits()).reshape(-1, VOCABULARY)[-1])
    return np.stack(found)


def assert_same(source, built):
    boundaries = (WINDOW, ORIGINAL)
    lengths = [boundary + offset for boundary in boundaries for offset in (-N_DECODED, 0, 1)]
    for n_prompt in [5, *lengths, CONTEXT - N_DECODED - 1]:
        random = np.random.default_rng(n_prompt)
        ids = random.integers(7, VOCABULARY, n_prompt + N_DECODED).tolist()
        difference = np.abs(of_runtime(built, ids, n_prompt) - of_transformers(source, ids, n_prompt)).max()
        assert difference < 1e-4, f"a prompt of {n_prompt} tokens"


@pytest.mark.parametrize("name", MODELS)
def test_logits_are_those_of_transformers(name, tmp_path):
    source = save(tmp_path / "model", *MODELS[name])
    assert_same(source, export(source, tmp_path))


def without(config, *keys, **more):
    return {key: value for key, value in config.items() if key not in keys} | more


OLD_FORMS = {
    "llama, linear": lambda c: without(
        c, "rope_parameters", rope_theta=10_000.0, rope_scaling={"type": "linear", "factor": 4.0}
    ),
    "phi3, longrope": lambda c: without(
        c, "rope_parameters", rope_theta=10_000.0, rope_scaling={"type": "longrope", **without(FACTORS, "original")}
    ),
    "gemma2": lambda c: without(c, "rope_parameters", "layer_types", rope_theta=10_000.0),
    "gemma3 with two ropes": lambda c: without(
        c,
        "rope_parameters",
        "layer_types",
        "_sliding_window_pattern",
        rope_theta=10_000.0,
        rope_local_base_freq=10_000.0,
        rope_scaling={"rope_type": "linear", "factor": 8.0},
        sliding_window_pattern=3,
    ),
    "qwen2 with a window in its second layer": lambda c: without(c, "rope_parameters", "layer_types"),
    "mistral with a window": lambda c: without(c, "rope_parameters", rope_theta=10_000.0),
}


@pytest.mark.parametrize("name", OLD_FORMS)
def test_configs_in_the_form_of_the_hub_give_the_same_export(name, tmp_path):
    source = save(tmp_path / "model", *MODELS[name])
    new = export(source, tmp_path / "new")
    path = source / "config.json"
    path.write_text(json.dumps(OLD_FORMS[name](json.loads(path.read_text()))))
    old = export(source, tmp_path / "old")
    assert_same(source, old)
    for file in ("model.onnx", "model.onnx.data", "genai_config.json"):
        assert (old / file).read_bytes() == (new / file).read_bytes()


@pytest.mark.parametrize("name", ["mistral with a window", "gemma3"])
def test_a_cache_of_the_windows_length_computes_the_same(name, tmp_path):
    source = save(tmp_path / "model", *MODELS[name])
    built = export(source, tmp_path, extra_options={"windowed_kv_cache": True})
    decoder = json.loads((built / "genai_config.json").read_text())["model"]["decoder"]
    kinds = json.loads((source / "config.json").read_text()).get("layer_types", [SLIDING] * 2)
    assert decoder["sliding_window"]["layers"] == [n for n, kind in enumerate(kinds) if kind == SLIDING]
    assert_same(source, built)


REFUSED = {
    "heads have 20 dimensions": ("LlamaConfig", {"head_dim": 20}),
    "changes after 64 tokens (longrope)": ("LlamaConfig", rope("longrope", **FACTORS)),
    "activation 'quick_gelu'": ("LlamaConfig", {"hidden_act": "quick_gelu"}),
    "clip_qkv 0.5": ("OlmoConfig", {"clip_qkv": 0.5}),
    "qk_layernorm": ("PhiConfig", {"qk_layernorm": True, **PARTIAL}),
    "biases in the MLP": ("NemotronConfig", {"mlp_bias": True, "head_dim": 32}),
    "Mamba layers": ("GraniteMoeHybridConfig", HYBRID | {"layer_types": ["attention", "mamba"]}),
    "num_local_experts 4": ("GraniteMoeHybridConfig", HYBRID | {"num_local_experts": 4}),
    "biases of convolutions": ("Lfm2Config", {"layer_types": ["conv", "full_attention"], "conv_bias": True}),
}


@pytest.mark.parametrize("message", REFUSED)
def test_what_the_builder_would_leave_out_is_refused_in_the_plan(message, tmp_path):
    name, overrides = REFUSED[message]
    source = save(tmp_path / "model", name, overrides)
    (problem,) = Build(Build.Params()).check(read_facts(source), MACHINE, {})
    assert problem.kind == "unsupported"
    assert message in problem.message


def test_old_names_of_rope_are_refused_with_the_name_of_today(tmp_path):
    source = save(tmp_path / "model", "Phi3Config", LONG)
    config = without(json.loads((source / "config.json").read_text()), "rope_parameters")
    (source / "config.json").write_text(json.dumps(config | {"rope_scaling": {"type": "su", **FACTORS}}))
    (problem,) = Build(Build.Params()).check(read_facts(source), MACHINE, {})
    assert "'su' is unknown" in problem.message
    assert "'longrope'" in problem.fix


def test_configs_that_hold_nonsense_are_looked_at_without_a_traceback():
    values = [
        None,
        True,
        -1,
        2.5,
        float("nan"),
        "x",
        [],
        ["mamba"],
        {},
        {"rope_type": ["x"]},
        {"a": {"type": {}}},
        10**30,
    ]
    keys = [
        "head_dim",
        "num_attention_heads",
        "rope_scaling",
        "hidden_act",
        "layer_types",
        "sliding_window",
        "clip_qkv",
    ]
    random = np.random.default_rng(0)
    for _ in range(2000):
        config = {key: values[random.integers(len(values))] for key in [*keys, "max_position_embeddings"]}
        for architecture in ("LlamaForCausalLM", "MistralForCausalLM", "GraniteMoeHybridForCausalLM"):
            told = list(limits.refusals(architecture, config))
            told += limits.precision_refusals(architecture, config, "CPUExecutionProvider", "fp16", "fp16")
            assert all(isinstance(sentence, str) for sentence, _ in told)
