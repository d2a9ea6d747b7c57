"""Texts that an encoder-decoder writes of others: rows become its inputs, and what it writes is held against them."""

import json

import numpy as np
import pytest
import torch
import transformers

import encoders
from encoders import tiny_encoder, write_config
from olivine.config import load
from olivine.config.schema import DataConfig
from olivine.evaluate import inputs_of, metrics
from olivine.evaluate._base import OutputEvidence
from olivine.models import Model
from olivine.models.speech import prompt_of
from olivine.workflow.engine import run
from olivine.workflow.plan import make_plan

TEXTS = ["joy", "fear of the dark", "pack my box", "a lovely day"]
BEGIN, END = 2, 1
SIZES = {
    "vocab_size": 389,
    "d_model": 32,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64,
    "max_position_embeddings": 24,
    "init_std": 0.4,
    "pad_token_id": 2,
    "bos_token_id": 0,
    "eos_token_id": END,
    "decoder_start_token_id": BEGIN,
    "forced_eos_token_id": None,
}


@pytest.fixture(scope="module")
def writer(tmp_path_factory):
    """A tiny Marian that writes twelve tokens at most."""
    folder = tmp_path_factory.mktemp("writer")
    encoders.KINDS["writer"] = ("MarianMTModel", "MarianConfig", SIZES)
    try:
        tiny_encoder(folder, "writer")
    finally:
        del encoders.KINDS["writer"]
    said = {"decoder_start_token_id": BEGIN, "eos_token_id": END, "pad_token_id": 2, "max_length": 12}
    (folder / "generation_config.json").write_text(json.dumps(said))
    return folder


@pytest.fixture(scope="module")
def written(writer):
    """What transformers writes of each text: the likeliest token after the others, up to the end."""
    module = transformers.MarianMTModel.from_pretrained(writer).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(writer)
    texts = []
    for text in TEXTS:
        ids, given = torch.tensor([[BEGIN]]), tokenizer(text, return_tensors="pt")
        given.pop("token_type_ids", None)
        with torch.inference_mode():
            while ids.shape[1] < 12 and ids[0, -1] != END:
                best = module(**given, decoder_input_ids=ids).logits[:, -1].argmax(-1, keepdim=True)
                ids = torch.cat([ids, best], 1)
        texts.append(tokenizer.decode(ids[0], skip_special_tokens=True))
    assert len(set(texts)) > 1
    return texts


def rows_of(folder, lines):
    (folder / "rows.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return {
        "name": "pairs",
        "load_dataset_config": {"data_name": "json", "data_files": str(folder / "rows.jsonl")},
        "pre_process_data_config": {"input_cols": ["text"], "label_col": "target"},
    }


def test_decoder_reads_the_text_that_it_is_to_write(writer, tmp_path):
    data = rows_of(tmp_path, [{"text": "joy", "target": "fear"}])
    data["pre_process_data_config"] = {"text_cols": ["text"], "label_col": "target"}
    (row,) = inputs_of(Model("hf", writer, task="translation"), DataConfig.model_validate(data), 4)
    tokenizer = transformers.AutoTokenizer.from_pretrained(writer)
    assert row["input_ids"].tolist() == [tokenizer("joy")["input_ids"]]
    assert row["decoder_input_ids"].tolist() == [[BEGIN, *tokenizer("fear", add_special_tokens=False)["input_ids"]]]


def test_no_more_is_read_than_there_are_positions(writer, tmp_path):
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((writer / name).read_bytes())
    assert prompt_of(writer).n_most == 12
    assert prompt_of(tmp_path).n_most == SIZES["max_position_embeddings"]


def test_exact_match_is_that_of_every_character():
    evidence = OutputEvidence([], transcripts=[("Joy", " joy"), ("fear", "fear"), ("a", "b")], is_heard=False)
    numbers = metrics.own["written_text"]().compute(evidence)
    assert numbers["label_accuracy"] == pytest.approx(2 / 3)
    assert numbers["exact_match"] == pytest.approx(1 / 3)
    assert metrics.own["word_errors"]().compute(evidence) == {}


def evaluated(folder, writer, lines, *names):
    metric = {
        "name": "acc",
        "type": "accuracy",
        "data_config": "pairs",
        "sub_types": [{"name": name} for name in names],
    }
    more = {"data_configs": [rows_of(folder, lines)], "evaluators": {"e": {"metrics": [metric]}}, "evaluator": "e"}
    return make_plan(load(write_config(folder, writer, {"c": {"type": "OnnxConversion"}}, **more)))


@pytest.mark.slow
def test_share_of_texts_that_a_checkpoint_and_its_three_graphs_write(writer, written, tmp_path):
    lines = [{"text": text, "target": told} for text, told in zip(TEXTS, written, strict=True)]
    lines[1]["target"] = "something else"
    plan = evaluated(tmp_path, writer, lines, "exact_match", "accuracy_score")
    assert plan.problems == ()
    base, exported = run(plan).scores
    assert base["exact_match"] == exported["exact_match"] == pytest.approx(3 / 4)
    assert base["label_accuracy"] == exported["label_accuracy"] == pytest.approx(3 / 4)
    assert exported["cosine"] > 0.9999
    assert np.isfinite(exported["largest_difference"])


def test_numbers_of_classes_and_sounds_are_no_numbers_of_texts(writer, tmp_path):
    lines = [{"text": "joy", "target": "fear"}]
    for name, why in (("f1_score", "there is: accuracy_score, exact_match"), ("wer", "it hears no speech")):
        (problem,) = evaluated(tmp_path, writer, lines, name).problems
        assert why in problem.message
    classes = tiny_encoder(tmp_path / "bert", "bert")
    (problem,) = evaluated(tmp_path, classes, [{"text": "joy", "target": 1}], "exact_match").problems
    assert "it writes no text" in problem.message
