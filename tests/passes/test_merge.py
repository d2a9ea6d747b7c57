"""MergeAdapterWeights refuses what cannot be merged, by name, and writes a folder without weights."""

import json
import shutil

import pytest
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, GenerationConfig

from olivine.errors import ModelError, Unsupported
from olivine.models import Model
from olivine.passes import Context, Machine, passes
from reports import Told
from tiny import tiny_adapter, tiny_model

FILE = "adapter_model.safetensors"


def run(adapter, output):
    merge = passes.classes["merge"]
    output.mkdir()
    step = merge(merge.Params())
    step.requires(adapter)
    return step.run(adapter, Context(output, output, Machine("cpu", "CPUExecutionProvider", 1, 1, 2), Told()))


def changed(adapter_folder, target, change):
    """A copy of the adapter whose tensors went through `change`."""
    shutil.copytree(adapter_folder, target)
    save_file(change(load_file(target / FILE)), target / FILE)
    return target


def adapter_of(base, folder):
    return Model("adapter", folder, base=Model("hf", base))


def test_result_holds_config_and_tokenizer_but_no_weights(tiny_llama, llama_adapter, tmp_path):
    merged = run(adapter_of(tiny_llama, llama_adapter), tmp_path / "out")
    names = {file.name for file in merged.path.iterdir()}
    assert {"config.json", "tokenizer.json", "tokenizer_config.json"} <= names
    assert not any(name.endswith(".safetensors") for name in names)
    assert merged.base.format == "adapter"


@pytest.mark.parametrize("has_generation_config", [True, False])
def test_merged_model_stops_in_transformers_where_its_template_ends_a_turn(has_generation_config, tmp_path):
    base = tiny_model(tmp_path / "base")
    if not has_generation_config:
        (base / "generation_config.json").unlink()
    merged = run(adapter_of(base, tiny_adapter(base, tmp_path / "adapter")), tmp_path / "out")
    tokenizer, generation = AutoTokenizer.from_pretrained(base), GenerationConfig.from_pretrained(merged.path)
    assert generation.eos_token_id == [tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids("<|end|>")]
    assert (generation.bos_token_id, generation.pad_token_id) == (tokenizer.bos_token_id, tokenizer.pad_token_id)


def test_adapter_of_zeros_changes_nothing_and_is_refused(tiny_llama, llama_adapter, tmp_path):
    zeroed = changed(llama_adapter, tmp_path / "a", lambda t: {name: value * 0 for name, value in t.items()})
    with pytest.raises(ModelError, match="changes nothing"):
        run(adapter_of(tiny_llama, zeroed), tmp_path / "out")


def test_empty_adapter_is_refused(tiny_llama, llama_adapter, tmp_path):
    empty = changed(llama_adapter, tmp_path / "a", lambda _: {})
    with pytest.raises(ModelError, match="is empty"):
        run(adapter_of(tiny_llama, empty), tmp_path / "out")


def test_renamed_keys_are_refused_with_the_nearest_names(tiny_llama, llama_adapter, tmp_path):
    renamed = changed(
        llama_adapter, tmp_path / "a", lambda t: {n.replace("q_proj", "query_proj"): v for n, v in t.items()}
    )
    with pytest.raises(ModelError, match=r"no 'model\.layers\.\d\.self_attn\.query_proj\.weight'; nearest: .*q_proj"):
        run(adapter_of(tiny_llama, renamed), tmp_path / "out")


def test_half_of_an_update_is_refused_by_name(tiny_llama, llama_adapter, tmp_path):
    half = changed(
        llama_adapter,
        tmp_path / "a",
        lambda t: {n: v for n, v in t.items() if not ("layers.0" in n and "q_proj" in n and "lora_B" in n)},
    )
    with pytest.raises(ModelError, match=r"lacks lora_B of 'model\.layers\.0\.self_attn\.q_proj'"):
        run(adapter_of(tiny_llama, half), tmp_path / "out")


def test_other_revision_of_the_base_is_refused_by_shape(llama_adapter, tmp_path):
    wider = tiny_model(tmp_path / "wider", "llama", intermediate_size=160)
    with pytest.raises(ModelError, match=r"belongs to another base: '.*mlp\..*' is \[.*160"):
        run(adapter_of(wider, llama_adapter), tmp_path / "out")


def test_other_method_is_refused_by_name(tiny_llama, llama_adapter, tmp_path):
    folder = changed(llama_adapter, tmp_path / "a", lambda t: t)
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(config | {"peft_type": "IA3"}))
    with pytest.raises(Unsupported, match="'IA3' cannot be merged"):
        run(adapter_of(tiny_llama, folder), tmp_path / "out")


def test_pickled_adapter_is_refused(tiny_llama, llama_adapter, tmp_path):
    folder = changed(llama_adapter, tmp_path / "a", lambda t: t)
    (folder / FILE).rename(folder / "adapter_model.bin")
    with pytest.raises(ModelError, match="is pickled and is not read"):
        run(adapter_of(tiny_llama, folder), tmp_path / "out")


def test_trained_head_of_a_tied_model_stands_on_its_own(tiny_tied, tmp_path):
    import torch

    from olivine.models.loading import load_causal_lm
    from olivine.models.materialize import materialize

    folder = tiny_adapter(tiny_tied, tmp_path / "a", target_modules=["q_proj"], modules_to_save=["lm_head"])
    adapter = adapter_of(tiny_tied, folder)
    merged = run(adapter, tmp_path / "out")
    assert json.loads((merged.path / "config.json").read_text())["tie_word_embeddings"] is False
    ids = torch.tensor([[1, 40, 50, 60]])
    in_memory = load_causal_lm(merged)(ids).logits
    target = tmp_path / "materialized"
    target.mkdir()
    assert torch.equal(load_causal_lm(materialize(merged, target))(ids).logits, in_memory)
    assert not torch.equal(in_memory, load_causal_lm(Model("hf", tiny_tied))(ids).logits)


def test_checkpoint_is_not_an_adapter(tiny_llama, tmp_path):
    with pytest.raises(Unsupported, match="takes a model of format adapter, but got hf"):
        run(Model("hf", tiny_llama), tmp_path / "out")
