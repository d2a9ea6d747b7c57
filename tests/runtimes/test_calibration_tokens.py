"""Where calibration tokens come from, and what is too little."""

import json

import pytest
import torch

from olivine.config.schema import DataConfig
from olivine.errors import DataError
from olivine.models import Model
from olivine.models.inspect import read_facts
from olivine.models.loading import load_causal_lm, load_tokenizer
from olivine.models.opened import Opened
from olivine.runtimes.own_text import WRITTEN_TOKENS, calibration_tokens, own_text_bytes, written_tokens
from tiny import tiny_model


def rows_of(tmp_path, n_rows):
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps({"text": f"a lovely day number {i} ended"}) + "\n" for i in range(n_rows)))
    load = {"data_name": "json", "data_files": str(file)}
    return DataConfig(name="mine", load_dataset_config=load, pre_process_data_config={"text_cols": ["text"]})


def test_rows_of_the_user_fill_rows_of_tokens(tiny_llama, tmp_path):
    model = Model("hf", tiny_llama)
    tokens = calibration_tokens(model, data=rows_of(tmp_path, 200), n_tokens=1024, length=128)
    assert tokens.shape == (8, 128)
    text = load_tokenizer(model).decode(tokens[0])
    assert "a lovely day number" in text
    again = calibration_tokens(model, data=rows_of(tmp_path, 200), n_tokens=1024, length=128)
    other = calibration_tokens(model, data=rows_of(tmp_path, 200), n_tokens=1024, length=128, seed=1)
    assert torch.equal(tokens, again)
    assert not torch.equal(tokens, other)


def test_rows_that_were_held_out_are_not_looked_at(tiny_llama, tmp_path):
    from olivine.data import split

    model = Model("hf", tiny_llama)
    tokens = calibration_tokens(model, data=rows_of(tmp_path, 60), held_out=20, n_tokens=100_000, length=64, seed=3)
    text = load_tokenizer(model).decode(tokens.flatten())
    _, held_out = split(60, 20, 3)
    assert not [index for index in held_out if f"number {index} ended" in text]


def test_too_few_rows_are_an_error_that_says_how_many_are_needed(tiny_llama, tmp_path):
    with pytest.raises(DataError, match=r"data config 'mine' gives \d+ tokens, and to calibrate takes 512 at least"):
        calibration_tokens(Model("hf", tiny_llama), data=rows_of(tmp_path, 3))


def test_text_file_is_read_from_its_start(tiny_llama, tmp_path):
    model = Model("hf", tiny_llama)
    file = tmp_path / "text.txt"
    file.write_text("the quick brown fox " * 300)
    tokens = calibration_tokens(model, text=file, n_tokens=600, length=200)
    assert tokens.shape == (3, 200)
    assert load_tokenizer(model).decode(tokens[0]).lstrip("<s>").startswith("the quick brown fox")
    file.write_text("short")
    with pytest.raises(DataError, match=r"text.txt gives \d+ tokens"):
        calibration_tokens(model, text=file)
    file.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="is not UTF-8"):
        calibration_tokens(model, text=file)
    with pytest.raises(DataError, match="no such text file"):
        calibration_tokens(model, text=tmp_path / "none.txt")


def test_rows_are_no_longer_than_the_context(tiny_llama, tmp_path):
    assert calibration_tokens(Model("hf", tiny_llama), data=rows_of(tmp_path, 300)).shape[1] == 256


def test_model_writes_its_own_text_from_a_seed(tiny_llama):
    opened = Opened(Model("hf", tiny_llama))
    tokenizer = opened.tokenizer
    tokens = written_tokens(opened, 4, 24, seed=5)
    assert tokens.shape == (4, 24)
    assert torch.equal(tokens, written_tokens(opened, 4, 24, seed=5))
    assert not torch.equal(tokens, written_tokens(opened, 4, 24, seed=6))
    assert tokens[0, 0] == tokenizer.bos_token_id
    assert tokenizer.decode(tokens[1]).startswith("<|user|>\n")


def test_every_written_token_is_among_the_likeliest(tiny_llama):
    model = Model("hf", tiny_llama)
    tokens = written_tokens(Opened(model), 4, 24, dtype="float32")
    with torch.inference_mode():
        best = load_causal_lm(model)(tokens).logits.topk(51).indices  # one more: float32 sums differ with the shape
    start = 8  # behind the openings
    among_best = (best[:, start - 1 : -1] == tokens[:, start:, None]).any(dim=-1)
    assert among_best.all()


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "qwen3", "phi"])
def test_room_of_own_text_is_that_of_weights_keys_and_values(architecture, tmp_path):
    overrides = {"head_dim": 48} if architecture == "qwen3" else {}
    model = load_causal_lm(Model("hf", tiny_model(tmp_path / "model", architecture, **overrides)))
    cache = model(torch.full((1, 8), 50), use_cache=True).past_key_values
    a_token = sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers) / 8
    weights = sum(parameter.nbytes for parameter in model.parameters())
    assert own_text_bytes(read_facts(tmp_path / "model"), in_bf16=False) == weights + WRITTEN_TOKENS * a_token
    assert own_text_bytes(read_facts(tmp_path / "model"), in_bf16=True) == (weights + WRITTEN_TOKENS * a_token) / 2
