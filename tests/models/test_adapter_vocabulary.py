"""An adapter that was trained after tokens were added brings its vocabulary into the merged model."""

import json

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from olivine.errors import ModelError, Unsupported
from olivine.models import Model
from olivine.models.adapter import check
from olivine.models.loading import load_causal_lm, load_tokenizer
from olivine.models.materialize import materialize
from olivine.models.weights import weights
from olivine.passes import Context, Machine, passes
from reports import Told
from tiny import VOCABULARY

N_TOKENS, FILE = VOCABULARY + 6, "adapter_model.safetensors"
IDS = torch.tensor([[1, 40, 50, VOCABULARY + 1, VOCABULARY + 5, 3]])
TRAINED = {
    "neither": {},
    "both whole": {"modules_to_save": ["embed_tokens", "lm_head"]},
    "the embedding whole": {"modules_to_save": ["embed_tokens"]},
    "both as one": {"modules_to_save": ["embed_tokens"], "ensure_weight_tying": True},
    "the new tokens": {"trainable_token_indices": list(range(VOCABULARY, N_TOKENS))},
}


def grown(base, folder, **settings):
    """An adapter of the base with six more tokens, and the logits of the model that was trained."""
    torch.manual_seed(1)
    model = AutoModelForCausalLM.from_pretrained(base)
    model.resize_token_embeddings(N_TOKENS, mean_resizing=False)
    common = {"task_type": "CAUSAL_LM", "r": 4, "lora_alpha": 8, "target_modules": ["q_proj"]}
    model = peft.get_peft_model(model, peft.LoraConfig(**common | settings))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    model.save_pretrained(folder)
    return Model("adapter", folder, base=Model("hf", base)), model.eval()(IDS).logits


def merge(adapter, output):
    output.mkdir()
    step = passes.classes["merge"](passes.classes["merge"].Params())
    return step.run(adapter, Context(output, output, Machine("cpu", "CPUExecutionProvider", 1, 1, 2), Told()))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("trained", TRAINED)
@pytest.mark.parametrize("tied", [False, True])
def test_merged_model_has_the_adapters_tokens(trained, tied, tiny_llama, tiny_tied, tmp_path):
    adapter, expected = grown(tiny_tied if tied else tiny_llama, tmp_path / "a", **TRAINED[trained])
    assert torch.allclose(load_causal_lm(adapter)(IDS).logits, expected, atol=1e-4)
    merged = merge(adapter, tmp_path / "m")
    assert torch.allclose(load_causal_lm(merged)(IDS).logits, expected, atol=1e-4)
    (tmp_path / "written").mkdir()
    written = materialize(merged, tmp_path / "written")
    assert json.loads((written.path / "config.json").read_text())["vocab_size"] == N_TOKENS
    assert torch.allclose(AutoModelForCausalLM.from_pretrained(written.path)(IDS).logits, expected, atol=1e-4)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("target", ["embed_tokens", "lm_head"])
def test_tokens_of_which_peft_lost_rows_are_refused(target, tiny_llama, tmp_path):
    """Of an untied base PEFT saves the trained matrix alone; the new rows of the other one are nowhere."""
    adapter, _ = grown(tiny_llama, tmp_path / "a", target_modules=["q_proj", target])
    with pytest.raises(ModelError, match=f"the adapter has {N_TOKENS} tokens, the base {VOCABULARY}"):
        check(adapter, weights(adapter.base))


def test_tokenizer_with_more_tokens_than_the_model_is_refused(tiny_llama, llama_adapter, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(tiny_llama)
    tokenizer.add_tokens([f"<new{index}>" for index in range(N_TOKENS)])
    adapter = Model("adapter", tmp_path / "a", base=Model("hf", tiny_llama))
    tokenizer.save_pretrained(adapter.path)
    for name in (FILE, "adapter_config.json"):
        (adapter.path / name).write_bytes((llama_adapter / name).read_bytes())
    with pytest.raises(ModelError, match="brings no embedding for the others"):
        check(adapter, weights(adapter.base))


@pytest.mark.filterwarnings("ignore")
def test_adapters_tokenizer_is_the_merged_models(tiny_llama, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(tiny_llama)
    added = [f"<new{index}>" for index in range(N_TOKENS - len(tokenizer))]
    tokenizer.add_tokens(added)
    adapter, _ = grown(tiny_llama, tmp_path / "a")
    tokenizer.save_pretrained(adapter.path)
    assert load_tokenizer(merge(adapter, tmp_path / "m")).encode(added[-1]) == [N_TOKENS - 1]


@pytest.mark.parametrize("shape", [(4,), (4, 0), (4, 64, 1)])
def test_factor_that_is_no_matrix_is_refused(shape, tiny_llama, llama_adapter, tmp_path):
    adapter = Model("adapter", tmp_path, base=Model("hf", tiny_llama))
    tensors = load_file(llama_adapter / FILE)
    name = next(name for name in tensors if "lora_A" in name)
    save_file(tensors | {name: torch.zeros(shape)}, tmp_path / FILE)
    (tmp_path / "adapter_config.json").write_bytes((llama_adapter / "adapter_config.json").read_bytes())
    with pytest.raises(ModelError, match="factors of an update are matrices"):
        check(adapter, weights(adapter.base))


@pytest.mark.parametrize(
    "fields",
    [
        {"lora_alpha": float("inf")},
        {"lora_alpha": True},
        {"lora_alpha": 10**400},
        {"alpha_pattern": ["q_proj"]},
        {"alpha_pattern": {"q_proj": "8"}},
        {"alpha_pattern": {"(": 8}},
        {"rank_pattern": {"q_proj": 0}},
        {"modules_to_save": "lm_head"},
        {"trainable_token_indices": ["3"]},
        {"trainable_token_indices": {"embed_tokens": 3}},
        {"peft_type": []},
    ],
)
def test_field_of_another_kind_is_named(fields, tiny_llama, llama_adapter, tmp_path):
    config = json.loads((llama_adapter / "adapter_config.json").read_text())
    (tmp_path / "adapter_config.json").write_text(json.dumps(config | fields))
    (tmp_path / FILE).write_bytes((llama_adapter / FILE).read_bytes())
    base = Model("hf", tiny_llama)
    with pytest.raises((ModelError, Unsupported), match=next(iter(fields))):
        check(Model("adapter", tmp_path, base=base), weights(base))
