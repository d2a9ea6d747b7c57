"""Sounds with their words: what a model of speech writes of them, and how many words and characters are wrong."""

import json
from functools import cache

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import encoders
from encoders import WAVE, write_config
from olivine.config import load
from olivine.config.schema import DataConfig
from olivine.data import data_files, named_files
from olivine.errors import DataError
from olivine.evaluate import inputs_of, metrics
from olivine.evaluate._base import OutputEvidence
from olivine.evaluate._outputs import score_outputs
from olivine.evaluate.word_errors import bare_words, distance
from olivine.models import Model
from olivine.models.speech import prompt_of
from olivine.runtimes.speech import wav_of
from olivine.store.hashes import Hashes
from olivine.work import Machine, Silent
from olivine.workflow.engine import run
from olivine.workflow.keys import data_content
from olivine.workflow.plan import make_plan
from whispers import SPECIAL, tiny_whisper

RATE = 16000
WordErrors = metrics.own["word_errors"]


def tone(n_samples=8000, rate=RATE, pitch=440):
    return 0.3 * np.hanning(n_samples) * np.sin(2 * np.pi * pitch * np.arange(n_samples) / rate)


@pytest.fixture(scope="module")
def whisper(tmp_path_factory):
    return tiny_whisper(tmp_path_factory.mktemp("whisper"))


@pytest.fixture(scope="module")
def spelling(tmp_path_factory):
    """A model of CTC that says a letter for every frame."""
    from transformers import Wav2Vec2CTCTokenizer, Wav2Vec2FeatureExtractor

    folder = tmp_path_factory.mktemp("ctc")
    encoders.KINDS["ctc"] = ("Wav2Vec2ForCTC", "Wav2Vec2Config", WAVE)
    try:
        encoders.tiny_encoder(folder, "ctc")
    finally:
        del encoders.KINDS["ctc"]
    letters = ["<pad>", "<s>", "</s>", "<unk>", "|", *(chr(ord("A") + number) for number in range(35))]
    (folder / "vocab.json").write_text(json.dumps({letter: number for number, letter in enumerate(letters)}))
    Wav2Vec2CTCTokenizer(str(folder / "vocab.json")).save_pretrained(folder)
    Wav2Vec2FeatureExtractor().save_pretrained(folder)
    return folder


def sounds(folder, lines, **settings):
    folder.mkdir(exist_ok=True)
    (folder / "rows.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    data = {"name": "sounds", "load_dataset_config": {"data_name": "json", "data_files": str(folder / "rows.jsonl")}}
    settings = {"type": "speech_transcription_pre_process", **settings}
    return DataConfig.model_validate(data | {"folder": str(folder.parent), "pre_process_data_config": settings})


@given(st.lists(st.integers(0, 3), max_size=7), st.lists(st.integers(0, 3), max_size=7))
def test_distance_is_the_fewest_edits(one, other):
    @cache
    def fewest(n, m):
        if not n or not m:
            return n + m
        replaced = fewest(n - 1, m - 1) + (one[n - 1] != other[m - 1])
        return min(fewest(n - 1, m) + 1, fewest(n, m - 1) + 1, replaced)

    assert distance(one, other) == fewest(len(one), len(other))


def test_errors_are_those_of_all_words_together_without_case_and_punctuation():
    pairs = [("The cat sat.", "the CAT sat"), ("ONE TWO THREE FOUR", "one three four five"), ("it\u2019s", "It's!")]
    numbers = WordErrors().compute(OutputEvidence([], transcripts=pairs, seconds_heard=6, seconds_taken=2))
    assert numbers["wer"] == pytest.approx(2 / 8)
    assert numbers["cer"] == pytest.approx(distance("one two three four", "one three four five") / (11 + 18 + 4))
    assert numbers["rtfx"] == 3
    assert numbers["label_accuracy"] == pytest.approx(6 / 8)
    exact = WordErrors(WordErrors.Params(normalize=False)).compute(OutputEvidence([], transcripts=pairs[:1]))
    assert exact["wer"] == 1  # The, cat and sat.
    assert "rtfx" not in exact
    assert WordErrors().compute(OutputEvidence([])) == {}
    assert bare_words("Naïve 'quoted' rock'n'roll — 東京!") == ["naïve", "quoted", "rock'n'roll", "東京"]


def test_a_silent_text_is_wrong_by_every_word_that_is_written():
    numbers = WordErrors().compute(OutputEvidence([], transcripts=[("", "two words")]))
    assert numbers["wer"] == 2
    assert numbers["label_accuracy"] == 0


def test_the_decoder_of_rows_without_words_reads_the_prompt(whisper, tmp_path):
    config = sounds(tmp_path / "a", [{"audio": tone().tolist()}])
    model = Model("hf", whisper, task="automatic-speech-recognition")
    (row,) = inputs_of(model, config, 4)
    assert row["input_features"].shape == (1, 80, 3000)
    assert [SPECIAL[token] for token in row["decoder_input_ids"][0]] == [
        *("<|startoftranscript|>", "<|en|>", "<|transcribe|>", "<|notimestamps|>")
    ]


def test_prompt_of_other_languages_and_of_old_checkpoints(tmp_path):
    said = json.loads((tiny_whisper(tmp_path / "w") / "generation_config.json").read_text())
    (tmp_path / "w" / "generation_config.json").write_text(json.dumps(said | {"language": "de", "task": "translate"}))
    assert [SPECIAL[token] for token in prompt_of(tmp_path / "w").tokens][1:3] == ["<|de|>", "<|translate|>"]
    (tmp_path / "w" / "generation_config.json").write_text(
        json.dumps({"decoder_start_token_id": 1, "forced_decoder_ids": [[1, None], [2, 4], [3, 6]], "eos_token_id": 0})
    )
    assert [SPECIAL[token] for token in prompt_of(tmp_path / "w").tokens] == [
        *("<|startoftranscript|>", "<|transcribe|>", "<|notimestamps|>")
    ]


def test_sounds_of_another_rate_are_resampled_where_the_config_says_to_what(spelling, tmp_path):
    model = Model("hf", spelling, task="automatic-speech-recognition")
    row = {"audio": {"array": tone(12000, 24000).tolist(), "sampling_rate": 24000}}
    with pytest.raises(
        DataError, match=r"24000 samples a second, and the model hears 16000: .* write sample_rate: 16000"
    ):
        inputs_of(model, sounds(tmp_path / "a", [row]), 1)
    (given_row,) = inputs_of(model, sounds(tmp_path / "b", [row], sample_rate=RATE), 1)
    (own,) = inputs_of(model, sounds(tmp_path / "c", [{"audio": tone().tolist()}]), 1)
    assert given_row["input_values"].shape == own["input_values"].shape
    assert np.abs(given_row["input_values"] - own["input_values"]).max() < 1e-2
    with pytest.raises(DataError, match="sample_rate is 8000, and the model hears 16000"):
        inputs_of(model, sounds(tmp_path / "d", [row], sample_rate=8000), 1)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"limit": 3}, [0, 1, 2]),
        ({"max_samples": 2}, [0, 1]),
        ({"limit": 0, "max_samples": 2}, list(range(10))),
        ({"limit": 0.2, "random_seed": 42}, [0, 1]),
    ],
)
def test_limit_is_the_first_rows_or_a_share_that_is_drawn(settings, expected, spelling, tmp_path):
    lines = [{"audio": tone(1000 + 10 * number).tolist()} for number in range(10)]
    model = Model("hf", spelling, task="automatic-speech-recognition")
    given_rows = inputs_of(model, sounds(tmp_path / "a", lines, **settings), 100)
    numbers = [(row["input_values"].shape[1] - 1000) // 10 for row in given_rows]
    if 0 < settings.get("limit", 1) < 1:
        assert len(numbers) == len(expected)
        again = inputs_of(model, sounds(tmp_path / "b", lines, **settings), 100)
        assert [(row["input_values"].shape[1] - 1000) // 10 for row in again] == numbers
    else:
        assert numbers == expected


def test_sounds_lie_beside_the_config_or_beside_their_rows_and_decide_the_key(spelling, tmp_path):
    model = Model("hf", spelling, task="automatic-speech-recognition")
    config = sounds(tmp_path / "data", [{"audio": "one.wav"}, {"audio": {"path": "two.wav"}}])
    (tmp_path / "data" / "one.wav").write_bytes(wav_of(tone(4000)))
    (tmp_path / "two.wav").write_bytes(wav_of(tone(5000)))
    assert [row["input_values"].shape[1] for row in inputs_of(model, config, 8)] == [4000, 5000]
    assert {path.name for path in named_files(config)} == {"one.wav", "two.wav"}
    assert [path.name for path in data_files(config)] == ["rows.jsonl"]
    before = data_content(config, Hashes(tmp_path))
    (tmp_path / "two.wav").write_bytes(wav_of(tone(6000)))
    assert data_content(config, Hashes(tmp_path)) != before


def test_a_sound_that_is_no_wav_file_is_told_with_what_reads_it(spelling, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "soundfile", None)  # as where it is not installed
    config = sounds(tmp_path / "data", [{"audio": "one.flac"}])
    (tmp_path / "data" / "one.flac").write_bytes(b"fLaC0000")
    with pytest.raises(
        DataError, match=r"read by soundfile, which is not installed. Run: pip install 'olivine\[sounds\]'"
    ):
        inputs_of(Model("hf", spelling, task="automatic-speech-recognition"), config, 1)


def speech_config(folder, model, passes, n_rows=3, **settings):
    """A config as Olive's users write it, with sounds beside it."""
    for number in range(n_rows):
        (folder / f"{number}.wav").write_bytes(wav_of(tone(8000, pitch=200 + 150 * number)))
    lines = [{"audio": f"{number}.wav", "text": "SOME WORDS"} for number in range(n_rows)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    params = {"audio_col": "audio", "text_col": "text", "sample_rate": RATE, "limit": 2, "id_col": "", "seed": 1}
    data = {
        "name": "ls",
        "type": "HuggingfaceContainer",
        "load_dataset_config": {
            "type": "huggingface_dataset",
            "params": {"data_name": "json", "data_files": "rows.jsonl"},
        },
        "pre_process_data_config": {"type": "speech_transcription_pre_process", "params": {**params, **settings}},
        "dataloader_config": {"batch_size": 1},
    }
    metric = {
        "name": "speech_accuracy",
        "type": "accuracy",
        "data_config": "ls",
        "sub_types": [{"name": "wer", "priority": 1, "higher_is_better": False}, {"name": "rtfx", "priority": 2}],
    }
    more = {"data_configs": [data], "evaluators": {"e": {"metrics": [metric]}}, "evaluator": "e"}
    return write_config(folder, model, passes, **more)


@pytest.mark.parametrize("told", [{"text_col": "transcribed"}])
def test_a_column_of_words_that_is_not_there_is_named_by_plan(told, spelling, tmp_path):
    plan = make_plan(load(speech_config(tmp_path, spelling, {"c": {"type": "OnnxConversion"}}, **told)))
    (problem,) = plan.problems
    assert "the rows have no column 'transcribed'" in problem.message


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ctc", "whisper", "parts of a whisper"])
def test_what_is_heard_stays_the_same_from_the_checkpoint_to_the_graph(kind, spelling, whisper, tmp_path):
    convert, build = {"type": "OnnxConversion"}, {"type": "ModelBuilder", "precision": "fp32"}
    steps = {"s": build if kind == "whisper" else convert}
    plan = make_plan(load(speech_config(tmp_path, spelling if kind == "ctc" else whisper, steps)))
    assert plan.problems == ()
    result = run(plan)
    base, last = (next(row for row in result.scores if row["model"] == name) for name in ("base", "s"))
    assert base["n_rows"] == 2
    assert base["wer"] == last["wer"] > 0
    assert base["cer"] == last["cer"] > 0
    assert last["cosine"] > 0.999
    assert {row["name"] for row in result.measured} >= {"speech_accuracy: wer", "speech_accuracy: rtfx"}


class Listening(Silent):
    """A reporter that keeps what it is warned of."""

    def __init__(self):
        self.warned = []

    def warn(self, message):
        self.warned.append(message)


def test_sounds_that_are_heard_in_part_alone_are_told_once(spelling, tmp_path):
    rows = [{"audio": {"array": tone(n).tolist(), "sampling_rate": RATE}, "text": "HELLO"} for n in (4000, 9000, 4100)]
    config = sounds(tmp_path / "a", rows, max_duration=0.3)
    params = {"data": config.model_dump(mode="json"), "max_rows": 3, "seed": 0, "target": "text"}
    machine, report = Machine("cpu", "CPUExecutionProvider", 10**9, 10**9, 1), Listening()
    model = Model("hf", spelling, task="automatic-speech-recognition")
    (tmp_path / "out").mkdir()
    score_outputs(model, params, tmp_path / "out", machine, report, kept_bytes=10**6)
    assert len(report.warned) == 1
    assert report.warned[0].startswith("1 of 3 sounds is longer than what is heard")
