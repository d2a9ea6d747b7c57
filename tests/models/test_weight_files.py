"""Of several files in a folder those are read that transformers reads, and none where two sets could be meant."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from olivine.errors import ModelError
from olivine.models import Model
from olivine.models.checkpoint import checkpoint_weights
from olivine.models.inspect import check_checkpoint, read_facts
from olivine.models.loading import load_causal_lm

IDS = torch.tensor([[1, 40, 50, 60, 70, 80]])
INDEX = "model.safetensors.index.json"


@pytest.fixture
def copy(tiny_llama, tmp_path):
    return shutil.copytree(tiny_llama, tmp_path / "copy")


def other_weights(folder, name, scale=1.1):
    """The weights of the folder once more, scaled."""
    save_file({k: v * scale for k, v in load_file(folder / "model.safetensors").items()}, folder / name)


def shards(folder, target):
    """The model in two files and an index, in another folder."""
    tensors = load_file(folder / "model.safetensors")
    names = sorted(tensors)
    parts = {"model-00001-of-00002.safetensors": names[:5], "model-00002-of-00002.safetensors": names[5:]}
    for file, inside in parts.items():
        save_file({name: tensors[name] * 1.1 for name in inside}, target / file)
    index = {"weight_map": {name: file for file, inside in parts.items() for name in inside}}
    (target / INDEX).write_text(json.dumps(index))


def reads_as_transformers(folder):
    from transformers import AutoModelForCausalLM

    theirs = AutoModelForCausalLM.from_pretrained(folder)(IDS).logits
    assert list(check_checkpoint(folder)) == []
    return torch.allclose(load_causal_lm(Model("hf", folder))(IDS).logits, theirs, atol=1e-5)


def test_two_sets_of_weights_are_refused_by_name(copy):
    shards(copy, copy)
    (problem,) = check_checkpoint(copy)
    assert "two sets of weights: 'model.safetensors'" in problem.message
    assert "'model-00001-of-00002.safetensors' and 1 more" in problem.message
    with pytest.raises(ModelError, match="two sets of weights"):
        checkpoint_weights(copy)


def test_an_index_whose_shards_are_gone_is_passed_over(copy):
    shards(copy, copy)
    for file in copy.glob("model-*.safetensors"):
        file.unlink()
    assert reads_as_transformers(copy)


def test_an_index_that_names_the_one_file_is_one_set(copy):
    names = load_file(copy / "model.safetensors")
    (copy / INDEX).write_text(json.dumps({"weight_map": dict.fromkeys(names, "model.safetensors")}))
    assert reads_as_transformers(copy)


@pytest.mark.parametrize(
    "name",
    [
        "model.fp16.safetensors",
        "consolidated.safetensors",
        "model-00001-of-00001.safetensors",
        "adapter_model.safetensors",
    ],
)
def test_files_that_transformers_leaves_alone_are_left_alone(name, copy):
    n_bytes = read_facts(copy).weight_bytes
    other_weights(copy, name)
    assert reads_as_transformers(copy)
    assert read_facts(copy).weight_bytes == n_bytes


def test_file_that_the_config_names_is_read(copy):
    other_weights(copy, "other.safetensors")
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | {"transformers_weights": "other.safetensors"}))
    assert reads_as_transformers(copy)
    (copy / "config.json").write_text(json.dumps(config | {"transformers_weights": "../other.safetensors"}))
    (problem,) = check_checkpoint(copy)
    assert "transformers_weights '../other.safetensors' is no safetensors file of this folder" in problem.message


def test_adapter_beside_a_whole_model_is_refused(copy, llama_adapter):
    """transformers would put it on."""
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        shutil.copy(llama_adapter / name, copy)
    (problem,) = check_checkpoint(copy)
    assert "holds an adapter ('adapter_config.json') beside a whole model" in problem.message


def test_adapter_given_as_a_model_says_where_it_belongs(llama_adapter):
    (problem,) = check_checkpoint(llama_adapter)
    assert "is an adapter: name it as adapter_path" in problem.message


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("model-00001-of-00002.safetensors", "there are parts of a checkpoint"),
        ("consolidated.safetensors", "'consolidated.safetensors' is not read"),
    ],
)
def test_missing_weights_are_named_with_what_lies_there(name, said, copy):
    (copy / "model.safetensors").rename(copy / name)
    (problem,) = check_checkpoint(copy)
    assert "lacks the weights 'model.safetensors'" in problem.message
    assert said in problem.message


def test_head_of_its_own_under_a_tied_config_is_refused(tiny_tied, tmp_path):
    """transformers warns and keeps the two apart; who believes the config makes another model."""
    folder = shutil.copytree(tiny_tied, tmp_path / "tied")
    tensors = load_file(folder / "model.safetensors")
    same = tensors["model.embed_tokens.weight"].clone()
    save_file(tensors | {"lm_head.weight": same}, folder / "model.safetensors")
    assert reads_as_transformers(folder)
    same[-1, -1] += 1
    save_file(tensors | {"lm_head.weight": same}, folder / "model.safetensors")
    with pytest.raises(ModelError, match='write "tie_word_embeddings": false'):
        load_causal_lm(Model("hf", folder))


def test_link_to_itself_is_no_file(copy):
    (copy / "model.safetensors").unlink()
    (copy / "model.safetensors").symlink_to("model.safetensors")
    (problem,) = check_checkpoint(copy)
    assert "lacks the weights" in problem.message


@pytest.mark.parametrize("digits", [20, 3000, 5000])
def test_size_that_no_model_has_is_refused_in_a_sentence(digits, copy):
    text = (copy / "config.json").read_text().replace('"hidden_size": 64', '"hidden_size": ' + "9" * digits)
    (copy / "config.json").write_text(text)
    with pytest.raises(ModelError, match=r"config\.json") as told:
        read_facts(copy)
    assert len(str(told.value)) < 500
