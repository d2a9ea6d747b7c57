"""Small GGUF files as llama.cpp's converter writes them: read by us as transformers reads them."""

import json

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from olivine.errors import ModelError, Unsupported
from olivine.models import Model
from olivine.models.gguf_weights import gguf_weights
from olivine.models.loading import load_causal_lm, load_tokenizer
from olivine.models.materialize import materialize
from olivine.models.weights import weights
from olivine.passes import Context, Machine, passes
from olivine.work import Silent
from tiny import tiny_model

IDS = torch.tensor([[1, 40, 50, 60, 70, 80]])
# llama.cpp turns the rows of these, so that rotary halves lie beside each other
TURNED = {"q_proj": 4, "k_proj": 2}


def turn(values, n_heads):
    return values.reshape(n_heads, 2, values.shape[0] // n_heads // 2, -1).swapaxes(1, 2).reshape(values.shape)


def write_gguf(folder, file, architecture, kind, *, leave_out=()):
    """The tiny model in `folder` as a GGUF file of one kind of numbers."""
    import gguf

    model = AutoModelForCausalLM.from_pretrained(folder)
    config, tokenizer = model.config, AutoTokenizer.from_pretrained(folder)
    writer = gguf.GGUFWriter(file, architecture)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    head_dim = getattr(config, "head_dim", None) or 16
    writer.add_rope_dimension_count(head_dim)
    writer.add_key_length(head_dim)
    writer.add_value_length(head_dim)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("default")
    tokens = tokenizer.convert_ids_to_tokens(range(config.vocab_size))
    writer.add_token_list([token or f"<unused{index}>" for index, token in enumerate(tokens)])
    writer.add_token_types([3 if index < 7 else 1 for index in range(config.vocab_size)])
    merges = json.loads((folder / "tokenizer.json").read_text())["model"]["merges"]
    writer.add_token_merges([" ".join(pair) for pair in merges])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    writer.add_pad_token_id(2)
    writer.add_chat_template(tokenizer.chat_template)
    names = gguf.get_tensor_name_map(getattr(gguf.MODEL_ARCH, architecture.upper()), config.num_hidden_layers)
    for name, tensor in model.state_dict().items():
        if (name == "lm_head.weight" and config.tie_word_embeddings) or name in leave_out:
            continue
        values, stem = tensor.numpy(), name.rpartition(".")[0]
        if architecture == "llama" and stem.rpartition(".")[2] in TURNED:
            values = turn(values, TURNED[stem.rpartition(".")[2]])
        of = kind if values.ndim == 2 else gguf.GGMLQuantizationType.F32
        target = names.get_name(stem) + "." + name.rpartition(".")[2]
        writer.add_tensor(target, gguf.quantize(np.ascontiguousarray(values), of), raw_dtype=of)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


def view(file, output):
    """The model that the pass `gguf` makes of a file."""
    step, machine = passes.classes["gguf"], Machine("cpu", "CPUExecutionProvider", 1, 1, 2)
    output.mkdir()
    return step(step.Params()).run(Model("gguf", file), Context(output, output, machine, Silent()))


@pytest.mark.parametrize(
    ("architecture", "kind", "tied"),
    [
        ("llama", "F32", False),
        ("llama", "F16", False),
        ("llama", "BF16", False),
        ("llama", "Q8_0", True),
        ("llama", "Q4_0", False),
        ("qwen2", "Q8_0", True),
        ("qwen3", "Q8_0", False),
    ],
)
def test_logits_and_tokens_are_those_of_transformers(architecture, kind, tied, tmp_path):
    import gguf

    more = {"head_dim": 128} if architecture == "qwen3" else {}  # transformers assumes it
    folder = tiny_model(tmp_path / "hf", architecture, tied=tied, **more)
    file = write_gguf(folder, tmp_path / "a.gguf", architecture, getattr(gguf.GGMLQuantizationType, kind))
    model = view(file, tmp_path / "view")
    reference = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="a.gguf", dtype=torch.float32)
    ours = load_causal_lm(model)
    assert torch.equal(ours(IDS).logits, reference(IDS).logits)
    if kind == "F32":  # and those of the model that it was made from
        torch.testing.assert_close(ours(IDS).logits, AutoModelForCausalLM.from_pretrained(folder)(IDS).logits)
    assert ours.config.tie_word_embeddings == tied
    assert not hasattr(ours.config, "quantization_config")
    assert "lm_head.weight" in weights(model) or tied
    text = "### Text: what a lovely day\n### The tone is:\njoy"
    tokenizer = load_tokenizer(model)
    oracle = AutoTokenizer.from_pretrained(tmp_path, gguf_file="a.gguf")
    assert tokenizer(text)["input_ids"] == oracle(text)["input_ids"]
    assert tokenizer.chat_template == oracle.chat_template
    assert ours.generation_config.eos_token_id == 1


def test_materialized_view_loads_without_the_file(tmp_path):
    import gguf

    folder = tiny_model(tmp_path / "hf", "llama")
    model = view(write_gguf(folder, tmp_path / "a.gguf", "llama", gguf.GGMLQuantizationType.Q8_0), tmp_path / "view")
    expected = load_causal_lm(model)(IDS).logits
    (tmp_path / "own").mkdir()
    materialize(model, tmp_path / "own")
    (tmp_path / "a.gguf").unlink()
    assert torch.equal(AutoModelForCausalLM.from_pretrained(tmp_path / "own")(IDS).logits, expected)


def test_missing_tensor_is_named(tmp_path):
    import gguf

    folder, name = tiny_model(tmp_path / "hf", "llama"), "model.layers.1.mlp.up_proj.weight"
    file = write_gguf(folder, tmp_path / "a.gguf", "llama", gguf.GGMLQuantizationType.F16, leave_out=[name])
    with pytest.raises(ModelError, match=rf"lacks the weights {name}"):
        gguf_weights(file, view(file, tmp_path / "view").path)


def test_unknown_architecture_is_unsupported_by_name(tmp_path):
    import gguf

    writer = gguf.GGUFWriter(tmp_path / "a.gguf", "wavtokenizer-dec")
    writer.add_tensor("output.weight", np.zeros((32, 32), dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(Unsupported, match="wavtokenizer-dec"):
        view(tmp_path / "a.gguf", tmp_path / "view")


def test_file_itself_is_read_through_the_pass(tmp_path):
    with pytest.raises(Unsupported, match="through the pass 'gguf'"):
        weights(Model("gguf", tmp_path / "a.gguf"))
