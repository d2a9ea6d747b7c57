"""Encoder-decoders as the parts that Optimum exports: what they write is what transformers writes."""

import numpy as np
import pytest
import torch
import transformers

from encoders import KINDS
from olivine.models import Model
from olivine.models.inspect import read_facts
from olivine.models.interface import signature_of, signatures_of
from olivine.models.onnx_files import graph_of
from olivine.models.onnx_header import OnnxHeader
from olivine.models.sample_inputs import made_up
from olivine.models.seq2seq import seq2seq
from olivine.passes import parts, passes
from olivine.runtimes.module import fed_to, open_session
from olivine.testing.passes import MACHINE
from olivine.work import Context, Silent
from tiny import tiny_tokenizer

SIZES = {
    "vocab_size": 89,
    "d_model": 32,
    "encoder_layers": 1,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64,
    "max_position_embeddings": 64,
    "init_std": 0.3,
    "pad_token_id": 1,
    "eos_token_id": 2,
    "forced_eos_token_id": None,
    "decoder_start_token_id": 2,
}
APART = {"tie_word_embeddings": False}  # a random model with a tied head writes one token again and again
# name -> (model class, config class, sizes)
MODELS = {
    "t5": ("T5ForConditionalGeneration", "T5Config", KINDS["t5"][2] | APART),
    "bart": ("BartForConditionalGeneration", "BartConfig", SIZES | APART),
    "marian": ("MarianMTModel", "MarianConfig", SIZES | APART),
    "whisper": ("WhisperForConditionalGeneration", "WhisperConfig", KINDS["whisper"][2] | APART | {"init_std": 0.3}),
}
NAMES = ["encoder_model", "decoder_model", "decoder_with_past_model"]


def checkpoint(folder, name):
    torch.manual_seed(0)
    kind, config, sizes = MODELS[name]
    getattr(transformers, kind)(getattr(transformers, config)(**sizes)).eval().save_pretrained(folder)
    tiny_tokenizer(folder)
    return Model("hf", folder, task=read_facts(folder).task)


def run(name, model, folder, **params):
    plugin = passes.find(name)
    (folder / name).mkdir(parents=True)
    (folder / "scratch" / name).mkdir(parents=True)
    context = Context(folder / name, folder / "scratch" / name, MACHINE, Silent(), models={"input": model})
    return parts.run(plugin(plugin.Params(**params)), model, context)


@pytest.fixture(scope="module")
def t5_parts(tmp_path_factory):
    """The parts of a T5; read only."""
    folder = tmp_path_factory.mktemp("t5")
    return run("OnnxConversion", checkpoint(folder / "model", "t5"), folder)


@pytest.mark.parametrize("name", [*MODELS])
def test_parts_write_the_tokens_that_transformers_writes(name, tmp_path):
    model = checkpoint(tmp_path / "model", name)
    result = run("OnnxConversion", model, tmp_path, target_opset=17)
    assert list(result.parts) == NAMES
    module = getattr(transformers, read_facts(model.path).architecture).from_pretrained(model.path).eval()
    signature = signature_of(result)
    (whole,) = made_up(signature, 1, 3, {"sequence": 9, "decoder_sequence": 6})
    row = {key: value for key, value in whole.items() if key != "decoder_input_ids"}
    start = getattr(module.config, "decoder_start_token_id", None) or 0
    session, ends = open_session(result, "CPUExecutionProvider", "cpu"), [module.config.eos_token_id]
    written = session.generate(row, [start], 12, ends)
    expected = [start]
    with torch.no_grad():  # without a cache, and without the rules that generate() has for single models
        for _ in range(12):
            given = {key: torch.from_numpy(np.array(value)) for key, value in row.items()}
            logits = module(**given, decoder_input_ids=torch.tensor([expected]), use_cache=False).logits
            expected.append(int(logits[0, -1].argmax()))
    after = expected[1:]
    assert written == (after[: after.index(ends[0])] if ends[0] in after else after)
    assert len(set(expected)) > 1
    with torch.no_grad():
        given = {key: torch.from_numpy(np.array(value)) for key, value in whole.items()}
        logits = module(**given, use_cache=False).logits.numpy()
    assert np.allclose(session.run(whole)["logits"], logits, atol=1e-3)


def test_parts_take_and_give_what_optimum_names(t5_parts):
    told = {name: OnnxHeader.read(graph_of(part)).signature for name, part in t5_parts.parts.items()}
    encoder, decoder, with_past = (told[name] for name in NAMES)
    assert [spec.name for spec in encoder.inputs] == ["input_ids", "attention_mask"]
    assert [spec.name for spec in encoder.outputs] == ["last_hidden_state"]
    assert [spec.name for spec in decoder.inputs] == ["input_ids", "encoder_attention_mask", "encoder_hidden_states"]
    kinds = [f"0.{which}.{what}" for which in ("decoder", "encoder") for what in ("key", "value")]
    assert sorted(spec.name for spec in decoder.outputs) == ["logits", *(f"present.{kind}" for kind in kinds)]
    pasts = [f"past_key_values.{kind}" for kind in kinds]
    assert [spec.name for spec in with_past.inputs] == ["input_ids", "encoder_attention_mask", *pasts]
    assert [spec.name for spec in with_past.outputs] == ["logits", "present.0.decoder.key", "present.0.decoder.value"]
    assert with_past.inputs[2].shape == ("batch", 4, "past_sequence", 8)
    assert (t5_parts.path / "tokenizer.json").is_file()


def test_decoder_that_is_quantized_is_calibrated_on_what_the_encoder_gives(t5_parts, tmp_path):
    result = t5_parts
    rows = made_up(signature_of(result), 2, 0, {"sequence": 5, "decoder_sequence": 3})
    fed = fed_to(result, "decoder_with_past_model", rows, 10)
    assert len(fed) == 4  # the first token of each row is the other decoder's
    encoder = open_session(result.parts["encoder_model"], "CPUExecutionProvider", "cpu")
    hidden = encoder.run({name: rows[0][name] for name in ("input_ids", "attention_mask")})["last_hidden_state"]
    (first, _) = fed_to(result, "decoder_model", rows, 10)
    assert np.array_equal(first["encoder_hidden_states"], hidden)
    small = run("OnnxDynamicQuantization", result, tmp_path)
    whole, other = (open_session(one, "CPUExecutionProvider", "cpu").run(rows[0])["logits"] for one in (result, small))
    assert 0 < np.abs(whole - other).max() < 0.1 * np.abs(whole).max()
    assert seq2seq(signatures_of(small)).with_past == "decoder_with_past_model"


def test_parts_without_a_past_read_all_tokens_anew(t5_parts):
    result = t5_parts
    (row,) = made_up(signature_of(result), 1, 0, {"sequence": 5, "decoder_sequence": 4})
    both = Model("composite", result.path, parts={name: result.parts[name] for name in NAMES[:2]})
    with_past, without = (open_session(one, "CPUExecutionProvider", "cpu") for one in (result, both))
    assert np.allclose(with_past.run(row)["logits"], without.run(row)["logits"], atol=1e-5)
    source = {name: row[name] for name in ("input_ids", "attention_mask")}
    assert with_past.generate(source, [0], 6, []) == without.generate(source, [0], 6, [])


def test_an_encoder_decoder_is_one_graph_where_sizes_are_fixed_or_the_config_names_inputs(tmp_path):
    model = checkpoint(tmp_path / "model", "t5")
    assert run("OnnxConversion", model, tmp_path, dynamic=False).format == "onnx"
