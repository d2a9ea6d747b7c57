"""A Whisper for onnxruntime-genai: the graphs are the model, in every precision, and what they are not is refused."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime_genai
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from olivine.errors import ModelError, OlivineError
from olivine.exporting import speech_folder, speech_proof
from olivine.models import Model
from olivine.models.inspect import read_facts
from olivine.models.speech import prompt_of
from olivine.passes import Context, Machine, passes
from olivine.runtimes.speech import SpeechSession, wav_of
from olivine.work import Silent
from whispers import SPECIAL, tiny_whisper

MACHINE = Machine("cpu", "CPUExecutionProvider", 8 * 10**9, 10**12, 2)
Build = passes.classes["build"]
# Configs of the hub, cut to what shapes the graphs.
TINY_EN = {
    "architectures": ["WhisperForConditionalGeneration"],
    "model_type": "whisper",
    "activation_function": "gelu",
    "begin_suppress_tokens": [220, 50256],
    "bos_token_id": 50257,
    "d_model": 384,
    "decoder_attention_heads": 6,
    "decoder_ffn_dim": 1536,
    "decoder_layers": 4,
    "decoder_start_token_id": 50257,
    "encoder_attention_heads": 6,
    "encoder_ffn_dim": 1536,
    "encoder_layers": 4,
    "eos_token_id": 50256,
    "forced_decoder_ids": [[1, 50362]],
    "is_encoder_decoder": True,
    "max_source_positions": 1500,
    "max_target_positions": 448,
    "num_mel_bins": 80,
    "pad_token_id": 50256,
    "scale_embedding": False,
    "suppress_tokens": [1, 2, 7],
    "torch_dtype": "float32",
    "vocab_size": 51864,
}
LARGE_V3_TURBO = TINY_EN | {
    "d_model": 1280,
    "decoder_layers": 4,
    "encoder_layers": 32,
    "num_mel_bins": 128,
    "torch_dtype": "float16",
    **dict.fromkeys(("decoder_attention_heads", "encoder_attention_heads"), 20),
    **dict.fromkeys(("decoder_ffn_dim", "encoder_ffn_dim"), 5120),
}


@pytest.fixture(scope="module")
def whisper(tmp_path_factory):
    """A tiny one whose encoder has more layers than its decoder, as a distilled one has."""
    return tiny_whisper(tmp_path_factory.mktemp("whisper"), encoder_layers=3)


@pytest.fixture(scope="module")
def sound():
    """A second and a half that comes and goes."""
    times = np.arange(24000) / 16000
    return 0.3 * np.hanning(24000) * (np.sin(2 * np.pi * 440 * times) + np.sin(2 * np.pi * 97 * times))


def built(model: Path, folder: Path, **params) -> Path:
    folder.mkdir()
    step = Build(Build.Params(**params))
    assert not list(step.check(read_facts(model), MACHINE, {}))
    result = step.run(Model("hf", model), Context(folder, folder.parent / "scratch", MACHINE, Silent()))
    step.ensures(result)
    return result.path


def plainly_transcribed(folder: Path, sound: bytes, prompt: str) -> list[int]:
    """As onnxruntime-genai's own example does it."""
    model = onnxruntime_genai.Model(str(folder))
    processor = model.create_multimodal_processor()
    generator = onnxruntime_genai.Generator(model, onnxruntime_genai.GeneratorParams(model))
    generator.set_inputs(processor([prompt], audios=onnxruntime_genai.Audios.open_bytes(sound)))
    while not generator.is_done():
        generator.generate_next_token()
    return [int(token) for token in generator.get_sequence(0)]


def greedy(model: Path, samples, tokens) -> list[int]:
    """The same by transformers, without tokens that its generation would suppress."""
    module = transformers.WhisperForConditionalGeneration.from_pretrained(model).eval()
    extract = transformers.WhisperFeatureExtractor.from_pretrained(model)
    features = extract(samples, sampling_rate=16000, return_tensors="pt").input_features
    ids = torch.tensor([tokens])
    with torch.inference_mode():
        while ids.shape[1] < module.config.max_target_positions and ids[0, -1] != module.config.eos_token_id:
            logits = module(input_features=features, decoder_input_ids=ids).logits[:, -1]
            ids = torch.cat([ids, logits.argmax(-1, keepdim=True)], 1)
    return ids[0].tolist()


@pytest.mark.slow
@pytest.mark.parametrize("config", [TINY_EN, LARGE_V3_TURBO], ids=["tiny.en", "large-v3-turbo"])
def test_the_export_of_a_whisper_is_the_model_up_to_all_tokens_that_it_writes(config, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(config))
    step = Build(Build.Params(precision="int8"))
    assert not list(step.check(read_facts(tmp_path), MACHINE, {}))
    proof = step.prove(Model("hf", tmp_path), Context(tmp_path, tmp_path / "scratch", MACHINE, Silent()))
    assert max(proof["lengths"]) == 448
    assert proof["unproven"] == []


@pytest.mark.slow
def test_plain_onnxruntime_genai_writes_what_transformers_writes(whisper, sound, tmp_path):
    folder = built(whisper, tmp_path / "fp32", precision="fp32")
    prompt = prompt_of(whisper)
    assert [SPECIAL[token] for token in prompt.tokens] == [
        *("<|startoftranscript|>", "<|en|>", "<|transcribe|>", "<|notimestamps|>")
    ]
    assert prompt_of(folder) == prompt
    wav = wav_of(sound)
    samples = np.frombuffer(wav[44:], "<i2").astype(np.float32) / 2**15
    said = plainly_transcribed(folder, wav, "".join(SPECIAL[token] for token in prompt.tokens))
    assert said == greedy(whisper, samples, prompt.tokens)
    assert len(set(said)) > 8


@pytest.mark.parametrize(
    ("precision", "cosine", "share"), [("fp16", 0.9999, 0.55), ("int8", 0.998, 0.7), ("int4", 0.9, 0.6)]
)
def test_fewer_bits_are_smaller_and_close(precision, cosine, share, whisper, tmp_path):
    folder = built(whisper, tmp_path / precision, precision=precision)
    inputs = {
        "input_features": np.random.default_rng(0).standard_normal((2, 80, 3000)).astype(np.float32),
        "decoder_input_ids": np.random.default_rng(1).integers(8, 200, (2, 9)),
    }
    module = transformers.WhisperForConditionalGeneration.from_pretrained(whisper).eval()
    with torch.inference_mode():
        expected = module(**{name: torch.from_numpy(one) for name, one in inputs.items()}).logits.numpy().ravel()
    given = SpeechSession(folder).run(inputs)["logits"].ravel()
    assert given @ expected / np.linalg.norm(given) / np.linalg.norm(expected) > cosine
    size = sum(file.stat().st_size for file in folder.glob("*.data"))
    assert size < share * (whisper / "model.safetensors").stat().st_size


def test_in_int8_no_matrix_of_encoder_or_decoder_stays_a_float(whisper, tmp_path):
    folder = built(whisper, tmp_path / "int8", precision="int8")
    for name, n_products in (("encoder.onnx", 3 * 6 + 2 * 2), ("decoder.onnx", 2 * 8 + 1)):
        operators = [node.op_type for node in onnx.load(folder / name, load_external_data=False).graph.node]
        assert operators.count("MatMulNBits") == n_products
        assert "MatMul" not in operators
        assert "Attention" not in operators
        assert ("GatherBlockQuantized" in operators) is (name == "decoder.onnx")


@pytest.mark.parametrize(
    ("weight", "told"),
    [
        ("model.encoder.embed_positions.weight", "the encoder's states differ by"),
        ("model.decoder.layers.1.encoder_attn.q_proj.bias", "logits differ by"),
    ],
)
def test_a_proof_finds_what_an_export_leaves_out(weight, told, tmp_path):
    def forgetful(model, context):
        weights = load_file(model.path / "model.safetensors")
        save_file(weights | {weight: torch.zeros_like(weights[weight])}, model.path / "model.safetensors")
        return Build(Build.Params(precision="fp32")).export(model, context)

    context = Context(tmp_path, tmp_path / "scratch", MACHINE, Silent())
    with pytest.raises(OlivineError, match=rf"the export of this architecture is not the model: {told}"):
        speech_proof.prove(TINY_EN, forgetful, context)


@pytest.mark.parametrize(
    ("config", "params", "told"),
    [
        ({"scale_embedding": True}, {}, "scale_embedding asks for embeddings that are scaled"),
        ({"max_source_positions": 750}, {}, "it hears 750 positions, and onnxruntime-genai makes 1500"),
        ({"activation_function": "relu"}, {}, "its activation is 'relu'"),
        ({"decoder_layers": 6}, {}, r"its decoder has more layers (6) than its encoder (4)"),
        ({}, {"precision": "bf16"}, "a Whisper for 'CPUExecutionProvider' is not built in bf16"),
        ({}, {"exclude_embeds": True}, "exclude_embeds is of decoders alone"),
        ({}, {"extra_options": {"prune_lm_head": True}}, "extra_options 'prune_lm_head' is of decoders alone"),
        ({}, {"int4_algo_config": "best"}, "int4_algo_config best reads text, and the model hears sound"),
        ({}, {"int4_block_size": 256}, "int4_block_size 256 does not divide the model's d_model 384"),
        ({"decoder_start_token_id": None}, {}, "no decoder_start_token_id says what the decoder begins with"),
        ({}, {"precision": "int8", "int4_accuracy_level": 1}, "run about 100 times slower"),
    ],
)
def test_what_the_graphs_have_no_place_for_is_refused(config, params, told, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(TINY_EN | config))
    messages = [problem.message for problem in Build(Build.Params(**params)).check(read_facts(tmp_path), MACHINE, {})]
    assert any(told in message for message in messages), messages


def test_features_that_the_runtime_cannot_make_are_refused(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(TINY_EN))
    (tmp_path / "preprocessor_config.json").write_text('{"hop_length": 320}')
    (problem,) = Build(Build.Params()).check(read_facts(tmp_path), MACHINE, {})
    assert "has hop_length 320, and onnxruntime-genai hears with 160" in problem.message


def test_a_folder_whose_decoder_gives_no_numbers_is_told(whisper, tmp_path):
    folder = built(whisper, tmp_path / "fp32", precision="fp32")
    graph = onnx.load(folder / "decoder.onnx")
    weight = next(one for one in graph.graph.initializer if one.name == "lm_head.MatMul.weight")
    weight.raw_data = np.full(weight.dims, np.nan, np.float32).tobytes()
    (folder / "decoder.onnx.data").unlink()
    onnx.save(graph, folder / "decoder.onnx")
    with pytest.raises(ModelError, match="its logits after a second of sound are no numbers"):
        speech_folder.check_transcribes(folder, "CPUExecutionProvider")


def test_other_encoder_decoders_are_refused_by_name(tmp_path):
    config = {"architectures": ["T5ForConditionalGeneration"], "model_type": "t5", "is_encoder_decoder": True}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (problem,) = Build(Build.Params()).check(read_facts(tmp_path), MACHINE, {})
    assert "'T5ForConditionalGeneration' cannot be exported" in problem.message


@pytest.mark.slow
def test_the_example_runs_and_what_it_delivers_transcribes(sound, tmp_path, monkeypatch):
    example = Path(__file__).parents[2] / "examples" / "whisper" / "olive-config.json"
    config = json.loads(example.read_text())
    assert config["input_model"]["model_path"] == "openai/whisper-tiny.en"
    model = tiny_whisper(tmp_path / "model", multilingual=False)
    (tmp_path / "sounds").mkdir()
    for name in ("one", "two"):
        (tmp_path / "sounds" / f"{name}.wav").write_bytes(wav_of(sound))
    lines = [{"audio": f"sounds/{name}.wav", "text": f"{name} and two"} for name in ("one", "two")]
    (tmp_path / "sounds.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    config["input_model"]["model_path"] = str(model)
    (tmp_path / "config.json").write_text(json.dumps(config))
    monkeypatch.chdir(tmp_path)
    command = [sys.executable, "-m", "olivine", "run", "--config", "config.json", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    output = tmp_path / config["output_dir"]
    rows = json.loads(done.stdout)["scores"]
    assert rows[-1]["cosine"] > 0.99
    assert {"wer", "cer"} <= set(rows[-1])
    prompt = "".join(SPECIAL[token] for token in prompt_of(output / "model").tokens)
    said = plainly_transcribed(output / "model", wav_of(sound), prompt)
    run = [sys.executable, output / "run.py", tmp_path / "sounds" / "one.wav"]
    written = subprocess.run(run, capture_output=True, check=True).stdout.decode(errors="replace").strip()
    decoded = transformers.WhisperTokenizer.from_pretrained(output / "model").decode(said, skip_special_tokens=True)
    assert written[:5] == decoded.strip()[:5]
