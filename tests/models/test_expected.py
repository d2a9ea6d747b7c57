"""What a config asks for is what transformers' own module has, by name and shape; plan holds the weights against it."""

import json
import shutil

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from olivine.models import Model
from olivine.models.expected import KINDS, MODEL_TYPES, expected_shapes
from olivine.models.inspect import check_checkpoint
from olivine.models.loading import load_causal_lm
from tiny import VOCABULARY, tiny_model

SIZES = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "head_dim": 24,
    "vocab_size": 389,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
# what transformers itself cannot do without
WITHOUT_DEFAULT = {"HunYuanDenseV1ForCausalLM": {"head_dim": 64}, "NemotronForCausalLM": {"num_key_value_heads": 8}}
IDS = torch.tensor([[1, 40, 50, 60, 70, 80]])


def state_of(architecture, **settings):
    """transformers' config as it is written, and the shapes of its module."""
    made = getattr(transformers, architecture)
    config = made.config_class(**settings)
    with torch.device("meta"):
        module = made(config)
    tied = set(module._tied_weights_keys or {}) if config.tie_word_embeddings else set()
    return config.to_dict(), {name: tuple(t.shape) for name, t in module.state_dict().items() if name not in tied}


@pytest.mark.parametrize("architecture", KINDS)
@pytest.mark.parametrize("n_groups", [1, 2, 4])
@pytest.mark.parametrize("more", [{}, {"attention_bias": True, "mlp_bias": True, "use_bias": True}])
def test_table_is_transformers(architecture, n_groups, more):
    for tied in (False, True):
        settings = SIZES | more | {"num_key_value_heads": n_groups, "tie_word_embeddings": tied}
        config, state = state_of(architecture, **settings)
        assert expected_shapes(config, architecture) == state


@pytest.mark.parametrize("architecture", KINDS)
def test_sizes_that_a_config_leaves_out_are_transformers_or_not_judged(architecture):
    """A config.json that says almost nothing: transformers' defaults hold for the rest."""
    config = {"num_hidden_layers": 1, **WITHOUT_DEFAULT.get(architecture, {})}
    _, state = state_of(architecture, **config)
    expected = expected_shapes(config, architecture)
    assert expected.keys() == state.keys()
    assert all(shape is None or shape == state[name] for name, shape in expected.items())


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_model_types_are_transformers(model_type):
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    assert MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[model_type] == MODEL_TYPES[model_type]


@pytest.fixture
def copy(tiny_llama, tmp_path):
    return shutil.copytree(tiny_llama, tmp_path / "copy")


def change(folder, tensors=None, **config):
    path, file = folder / "config.json", folder / "model.safetensors"
    record = json.loads(path.read_text()) | config
    path.write_text(json.dumps({key: value for key, value in record.items() if value is not None}))
    if tensors is not None:
        save_file({name: value.contiguous() for name, value in tensors(load_file(file)).items()}, file)


def only(folder):
    (problem,) = check_checkpoint(folder)
    return problem.message


def test_head_that_an_untied_config_asks_for_is_missed_in_the_plan(copy):
    change(copy, lambda t: {name: value for name, value in t.items() if name != "lm_head.weight"})
    assert "lacks the weights 'lm_head.weight'; if the head is the embedding, write" in only(copy)
    change(copy, tie_word_embeddings=True)
    assert list(check_checkpoint(copy)) == []


def test_layers_that_are_missing_are_named(copy):
    change(copy, num_hidden_layers=3)
    assert "lacks the weights model.layers.2." in only(copy)
    assert "and 6 more, which its config asks for (LlamaForCausalLM)" in only(copy)


def test_shape_that_the_config_does_not_ask_for_is_named(copy):
    change(copy, vocab_size=390)
    assert f"'model.embed_tokens.weight' is [{VOCABULARY}, 64], but the config asks for [390, 64]" in only(copy)


@pytest.mark.parametrize("names", [None, [], "LlamaForCausalLM"])
def test_config_that_names_no_architecture_says_which(names, copy):
    change(copy, architectures=names)
    assert 'does not name its architecture; write "architectures": ["LlamaForCausalLM"]' in only(copy)


@pytest.mark.parametrize("tied", [False, True])
def test_checkpoint_of_the_bare_model_is_read_as_transformers_reads_it(tied, tmp_path):
    folder = tiny_model(tmp_path / "m", "llama", tied=tied)
    expected = transformers.AutoModelForCausalLM.from_pretrained(folder)(IDS).logits
    change(folder, lambda t: {name.removeprefix("model."): value for name, value in t.items()})
    assert list(check_checkpoint(folder)) == []
    assert torch.equal(load_causal_lm(Model("hf", folder))(IDS).logits, expected)
    assert torch.equal(transformers.AutoModelForCausalLM.from_pretrained(folder)(IDS).logits, expected)
