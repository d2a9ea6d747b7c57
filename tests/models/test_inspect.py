"""Facts and defects of a model are found from its config and headers alone."""

import json
import os
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from test_gguf_header import write_gguf

from olivine.errors import ModelError
from olivine.models import inspect
from olivine.models.inspect import check_checkpoint, read_config, read_facts
from tiny import VOCABULARY, tiny_model


def write_safetensors(file, header, n_bytes=64):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    file.write_bytes(struct.pack("<Q", len(text)) + text + bytes(n_bytes))


def tensor(shape=(4,), dtype="F32", offsets=(0, 16)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


@pytest.fixture
def copy(tiny_llama, tmp_path):
    return shutil.copytree(tiny_llama, tmp_path / "copy")


def change_config(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def only(path):
    """The one defect of a model."""
    (problem,) = check_checkpoint(path)
    assert problem.kind == "missing-model"
    assert problem.where == str(path)
    return f"{problem.message} {problem.fix}"


@pytest.mark.parametrize("architecture", ["llama", "smollm", "mistral", "phi3", "qwen2", "qwen3", "gemma"])
def test_facts_are_those_of_the_loaded_model(architecture, tmp_path):
    from transformers import AutoModelForCausalLM

    folder = tiny_model(tmp_path / "model", architecture)
    model = AutoModelForCausalLM.from_pretrained(folder)
    facts = read_facts(folder)
    assert facts.architecture == type(model).__name__
    assert facts.n_parameters == sum(parameter.numel() for parameter in model.parameters())
    assert (facts.as_decoder.hidden_size, facts.as_decoder.n_layers, facts.as_decoder.vocab_size) == (64, 2, VOCABULARY)
    assert (facts.as_decoder.intermediate_size, facts.as_decoder.context_length) == (128, 256)
    assert facts.as_decoder.tied_embeddings is bool(model.config.tie_word_embeddings)
    linear = {name.rpartition(".")[2] for name, module in model.named_modules() if hasattr(module, "in_features")}
    assert set(facts.as_decoder.linear_modules) == linear - {"lm_head"}
    assert facts.bytes_per_weight == pytest.approx(4, rel=0.1)
    assert list(check_checkpoint(folder)) == []


@pytest.mark.parametrize("tied", [True, False])
def test_parameters_are_counted_from_the_config_when_there_are_no_weights(tmp_path, tied):
    folder = tiny_model(tmp_path / "model", "llama", tied=tied)
    exact = read_facts(folder).n_parameters
    (folder / "model.safetensors").unlink()
    assert read_facts(folder).n_parameters == exact


def test_fused_layers_of_phi3_are_known_without_weights(tiny_phi3, tmp_path):
    folder = shutil.copytree(tiny_phi3, tmp_path / "copy")
    exact = read_facts(folder).as_decoder.linear_modules
    (folder / "model.safetensors").unlink()
    assert (
        set(read_facts(folder).as_decoder.linear_modules)
        == set(exact)
        == {"qkv_proj", "o_proj", "gate_up_proj", "down_proj"}
    )


def test_shards_are_counted_together(copy):
    from transformers import AutoModelForCausalLM

    exact = read_facts(copy)
    model = AutoModelForCausalLM.from_pretrained(copy)
    (copy / "model.safetensors").unlink()
    model.save_pretrained(copy, max_shard_size="100KB")
    assert (copy / "model.safetensors.index.json").is_file()
    assert read_facts(copy).n_parameters == exact.n_parameters
    assert list(check_checkpoint(copy)) == []


def test_gguf_file_tells_the_same_facts(tmp_path):
    facts = read_facts(write_gguf(tmp_path / "m.gguf"))
    assert facts.architecture == "LlamaForCausalLM"
    assert facts.n_parameters == 5 * 64 + 32 * 64
    assert (facts.as_decoder.hidden_size, facts.as_decoder.n_layers, facts.as_decoder.vocab_size) == (64, 2, 5)
    assert (facts.as_decoder.intermediate_size, facts.as_decoder.context_length) == (96, 128)
    assert facts.as_decoder.tied_embeddings
    assert facts.path == tmp_path / "m.gguf"


def test_size_for_each_layer_of_a_gguf_file_counts_as_the_largest(tmp_path):
    path = write_gguf(tmp_path / "m.gguf", **{"llama.feed_forward_length": [96, 160]})
    assert read_facts(path).as_decoder.intermediate_size == 160


def test_gguf_size_that_is_no_number_is_named(tmp_path):
    path = write_gguf(tmp_path / "m.gguf", **{"llama.block_count": ["many"]})
    assert "its block_count is no number" in only(path)


def test_part_of_a_split_gguf_file_says_how_to_join_it(tmp_path):
    path = write_gguf(tmp_path / "m-00001-of-00003.gguf", **{"split.count": 3})
    assert "is one of 3 parts" in only(path)
    assert "llama-gguf-split --merge" in only(path)


def test_gguf_file_with_a_vocabulary_only_has_no_weights(tmp_path):
    path = tmp_path / "vocab.gguf"
    path.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 0, 0))
    assert "has no weights" in only(path)


def test_alignment_of_zero_is_damage(tmp_path):
    path = write_gguf(tmp_path / "m.gguf", **{"general.alignment": 0})
    assert "is damaged" in only(path)


def test_folder_without_config(tmp_path):
    assert "has no config.json" in only(tmp_path)
    with pytest.raises(ModelError, match=r"has no config\.json"):
        read_facts(tmp_path)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"3", b"\xff\xfe\x00", b"[" * 100_000])
def test_config_that_is_no_object(copy, content):
    (copy / "config.json").write_bytes(content)
    assert only(copy).startswith("config.json ")
    with pytest.raises(ModelError, match=r"config\.json"):
        read_config(copy)


def test_inner_size_that_is_null_is_a_default(copy):
    change_config(copy, intermediate_size=None)
    assert read_facts(copy).decoder.intermediate_size == 0


@pytest.mark.parametrize("value", ["wide", "64", [64], {}, -64, 0, True, None, 8.5, float("inf"), float("nan")])
@pytest.mark.parametrize("key", ["hidden_size", "num_attention_heads", "vocab_size"])
def test_size_that_is_no_number(copy, key, value):
    change_config(copy, **{key: value})
    with pytest.raises(ModelError, match="is no number above 0"):
        read_facts(copy)


def test_context_in_which_nothing_follows_anything_is_refused(copy):
    change_config(copy, max_position_embeddings=1)
    with pytest.raises(ModelError, match="reads texts of 1 token"):
        read_facts(copy)


@pytest.mark.parametrize("names", [None, [], "LlamaForCausalLM", 3])
def test_architecture_that_is_not_said_is_unknown(copy, names):
    change_config(copy, architectures=names)
    assert read_facts(copy).architecture == "unknown"


def test_file_that_cannot_be_opened_is_named(copy, monkeypatch):
    real = Path.open

    def refuse(path, *arguments, **more):
        if path.suffix == ".safetensors":
            raise PermissionError(13, "Permission denied")
        return real(path, *arguments, **more)

    monkeypatch.setattr(Path, "open", refuse)
    assert "model.safetensors cannot be read: Permission denied" in only(copy)


def test_folder_that_is_closed_is_named(copy, monkeypatch):
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert "cannot be read" in only(copy)


@pytest.mark.parametrize("name", inspect.TOKENIZERS)
def test_any_form_of_tokenizer_will_do(copy, name):
    (copy / "tokenizer.json").rename(copy / name)
    assert list(check_checkpoint(copy)) == []


def test_folder_without_tokenizer_says_what_to_copy(copy):
    (copy / "tokenizer.json").unlink()
    assert "no tokenizer" in only(copy)
    assert "Copy the tokenizer's files" in only(copy)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "model.pth", "last.ckpt"])
def test_pickled_weights_are_refused_with_the_command_that_converts_them(copy, name):
    (copy / "model.safetensors").unlink()
    (copy / name).write_bytes(b"\x80\x02")
    assert f"pickled ('{name}')" in only(copy)
    assert "save_pretrained" in only(copy)


def test_pickled_weights_beside_safetensors_are_passed_over(copy):
    (copy / "pytorch_model.bin").write_bytes(b"\x80\x02")
    assert list(check_checkpoint(copy)) == []


def test_folder_without_weights(copy):
    (copy / "model.safetensors").unlink()
    assert "lacks the weights 'model.safetensors'" in only(copy)


@pytest.mark.parametrize("n_bytes", [0, 5, 100, -1])
def test_weights_that_are_cut_short(copy, n_bytes):
    data = (copy / "model.safetensors").read_bytes()
    (copy / "model.safetensors").write_bytes(data[:n_bytes])
    assert "model.safetensors is truncated" in only(copy)


@pytest.mark.parametrize(
    "header",
    [
        {"a": {}},
        {"a": 3},
        [],
        b"\xff",
        {"a": tensor(offsets=[0])},
        {"a": tensor(offsets=["0", "16"])},
        {"a": tensor(shape="x")},
        {"a": tensor(shape=[None])},
        {"a": {"dtype": "F32", "data_offsets": [0, 16]}},
        {"a": tensor() | {"dtype": ["F32"]}},
    ],
)
def test_header_that_describes_no_tensors(copy, header):
    write_safetensors(copy / "model.safetensors", header)
    assert "header" in only(copy)
    assert "model.safetensors is" in only(copy)


def test_weights_of_a_type_that_is_not_known(copy):
    write_safetensors(copy / "model.safetensors", {"a": tensor(), "b": tensor(dtype="F3")})
    assert "tensor 'b' has type 'F3', which is not known" in only(copy)


def test_weights_that_hold_nothing(copy):
    write_safetensors(copy / "model.safetensors", {"__metadata__": {"format": "pt"}}, 0)
    assert "has no weights" in only(copy)


@pytest.mark.parametrize(
    ("index", "said"),
    [
        ("{", "is not JSON"),
        ("[]", "must hold an object"),
        ("{}", "has no 'weight_map'"),
        ('{"weight_map": []}', "has no 'weight_map'"),
        ('{"weight_map": {}}', "has no 'weight_map'"),
        ('{"weight_map": {"a": 3}}', "tensor 'a' lies in '3', which is no file of this folder"),
        ('{"weight_map": {"a": "../model.safetensors"}}', "which is no file of this folder"),
    ],
)
def test_index_that_does_not_hold(copy, index, said):
    (copy / "model.safetensors.index.json").write_text(index)
    assert said in only(copy)


def test_shard_that_is_missing_is_named(copy):
    (copy / "model.safetensors").unlink()
    (copy / "model.safetensors.index.json").write_text('{"weight_map": {"a": "model-00001-of-00002.safetensors"}}')
    assert "lacks the weights 'model-00001-of-00002.safetensors'" in only(copy)


def test_every_defect_is_told_at_once(copy):
    (copy / "tokenizer.json").unlink()
    (copy / "model.safetensors").write_bytes(b"cut")
    assert len(list(check_checkpoint(copy))) == 2


def test_looking_at_a_model_imports_no_framework(tiny_llama):
    code = (
        "import sys; from pathlib import Path; from olivine.models.inspect import check_checkpoint, read_facts\n"
        f"path = Path({str(tiny_llama)!r}); assert not list(check_checkpoint(path)); read_facts(path)\n"
        "heavy = {'torch', 'transformers', 'onnx', 'numpy', 'safetensors', 'gguf'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_quantized_weights_are_unsupported_by_method(copy):
    config = read_config(copy) | {"quantization_config": {"quant_method": "bitsandbytes"}}
    (copy / "config.json").write_text(json.dumps(config))
    (problem,) = check_checkpoint(copy)
    assert problem.kind == "unsupported"
    assert "already quantized ('bitsandbytes')" in problem.message
