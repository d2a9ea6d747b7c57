"""Rows of sounds, images and words with labels: inputs as the model's own extractor makes them, labels by their names."""

import json
import wave

import numpy as np
import pytest

from encoders import TEXT, tiny_encoder, write_config
from olivine.config import load
from olivine.config.schema import DataConfig
from olivine.data import hub
from olivine.errors import DataError
from olivine.evaluate import inputs_of
from olivine.models import Model
from olivine.workflow.engine import run
from olivine.workflow.plan import make_plan
from tiny import tiny_tokenizer

RATE = 16000


@pytest.fixture(scope="module")
def listener(tmp_path_factory):
    """A tiny model of sounds with three labels, and the extractor of its features."""
    from transformers import Wav2Vec2FeatureExtractor

    folder = tiny_encoder(tmp_path_factory.mktemp("listener"), "wav2vec2")
    config = json.loads((folder / "config.json").read_text())
    names = {"0": "yes", "1": "no"}
    (folder / "config.json").write_text(
        json.dumps(config | {"id2label": names, "label2id": {v: int(k) for k, v in names.items()}})
    )
    Wav2Vec2FeatureExtractor().save_pretrained(folder)
    return Model("hf", folder, task="audio-classification")


def tone(n_samples, seed=0):
    return np.random.default_rng(seed).uniform(-0.5, 0.5, n_samples).astype(np.float32)


def write_wav(path, samples, rate=RATE):
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes((samples * 32767).astype("<i2").tobytes())


def rows_config(path, rows, **settings):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = {"name": "sounds", "load_dataset_config": {"data_name": "json", "data_files": str(path)}}
    return DataConfig.model_validate(data | {"folder": str(path.parent), "pre_process_data_config": settings})


def test_sounds_in_all_their_forms_are_the_same_input(tmp_path, listener):
    samples = tone(4000)
    write_wav(tmp_path / "a.wav", samples)
    rows = [
        {"audio": samples.tolist()},
        {"audio": {"array": samples.tolist(), "sampling_rate": RATE}},
        {"audio": "a.wav"},
        {"audio": {"path": "a.wav"}},
    ]
    given = inputs_of(listener, rows_config(tmp_path / "rows.jsonl", rows), 8)
    assert [row["input_values"].shape for row in given] == [(1, 4000)] * 4
    for row in given:  # normalised by the extractor: zero mean, unit variance
        assert abs(float(row["input_values"].mean())) < 1e-3
        assert np.abs(row["input_values"] - given[0]["input_values"]).max() < 1e-2


def test_only_the_beginning_of_a_long_sound_is_read(tmp_path, listener):
    config = rows_config(
        tmp_path / "rows.jsonl", [{"sound": tone(6000).tolist()}], text_cols=["sound"], max_duration=0.3
    )
    (row,) = inputs_of(listener, config, 1)
    assert row["input_values"].shape == (1, 4800)


def test_sound_of_another_rate_and_what_is_no_sound_are_told(tmp_path, listener):
    row = {"audio": {"array": [0.0, 0.1], "sampling_rate": 8000}}
    with pytest.raises(DataError, match="8000 samples a second, and the model hears 16000"):
        inputs_of(listener, rows_config(tmp_path / "a.jsonl", [row]), 1)
    with pytest.raises(DataError, match="holds no sound"):
        inputs_of(listener, rows_config(tmp_path / "b.jsonl", [{"audio": [[1.0]]}]), 1)
    with pytest.raises(DataError, match=r"'gone.wav' of the column 'audio' cannot be read"):
        inputs_of(listener, rows_config(tmp_path / "c.jsonl", [{"audio": "gone.wav"}]), 1)


@pytest.mark.parametrize(
    ("content", "said"), [(b"", "holds an empty file"), (None, "holds a sound file without a sample")]
)
def test_sound_without_a_sample_is_told_with_its_row(tmp_path, listener, content, said):
    write_wav(tmp_path / "good.wav", tone(4000))
    write_wav(tmp_path / "none.wav", tone(0))
    if content is not None:
        (tmp_path / "none.wav").write_bytes(content)
    config = rows_config(tmp_path / "rows.jsonl", [{"audio": "good.wav"}, {"audio": "none.wav"}])
    with pytest.raises(DataError, match=rf"rows\.jsonl:2: the column 'audio' {said}"):
        inputs_of(listener, config, 2)


@pytest.mark.slow
def test_names_of_a_data_sets_labels_are_known_and_sounds_are_not_decoded():
    import datasets
    import pyarrow as pa

    labels = datasets.ClassLabel(names=["no", "_silence_", "yes"])
    stored = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    sounds = pa.array([{"bytes": b"RIFF", "path": None}], stored)
    rows = datasets.Dataset(pa.table({"audio": sounds, "label": pa.array([2])}))
    rows = rows.cast_column("audio", datasets.Audio()).cast_column("label", labels)
    assert hub.label_names(rows, "label") == ["no", "_silence_", "yes"]
    assert hub.label_names(rows, "audio") is None
    assert hub.undecoded(rows)[0] == {"audio": {"bytes": b"RIFF", "path": None}, "label": 2}


@pytest.mark.slow
def test_audio_classifier_as_configs_write_it_runs_with_labels_filtered(tmp_path, listener):
    rows = [{"audio": tone(4000 + 10 * n, n).tolist(), "label": ["yes", "no", "_silence_"][n % 3]} for n in range(9)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = {
        "name": "sounds",
        "type": "HuggingfaceContainer",
        "load_dataset_config": {"data_name": "json", "data_files": "rows.jsonl"},
        "pre_process_data_config": {
            "type": "audio_classification_pre_process",
            "params": {
                "input_cols": ["audio"],
                "label_col": "label",
                "max_samples": 100,
                "labels_to_filter": ["_silence_"],
            },
        },
        "post_process_data_config": {"type": "audio_classification_post_process"},
        "dataloader_config": {"params": {"batch_size": 1}},
    }
    accuracy = {
        "name": "accuracy",
        "type": "accuracy",
        "backend": "huggingface_metrics",
        "data_config": "sounds",
        "sub_types": [{"name": "accuracy", "priority": 1, "goal": {"type": "max-degradation", "value": 0.5}}],
    }
    steps = {
        "conversion": {"type": "OnnxConversion", "config": {"target_opset": 17}},
        "optimize": {"type": "OrtTransformersOptimization", "config": {"model_type": "bert", "num_heads": 4}},
        "quantization": {"type": "OnnxDynamicQuantization", "config": {"op_types_to_quantize": ["MatMul"]}},
    }
    more = {"data_configs": [data], "evaluators": {"e": {"metrics": [accuracy]}}, "evaluator": "e"}
    plan = make_plan(load(write_config(tmp_path, listener.path, steps, **more)))
    assert plan.problems == ()
    scores = run(plan).scores
    assert [row["n_rows"] for row in scores] == [6, 6, 6, 6]
    assert all("label_accuracy" in row for row in scores)


@pytest.mark.slow
def test_words_with_labels_are_scored_by_their_first_tokens(tmp_path):
    import torch
    import transformers

    folder = tmp_path / "model"
    torch.manual_seed(0)
    config = transformers.BertConfig(**TEXT, num_labels=3, id2label={0: "O", 1: "B-X", 2: "I-X"})
    model = transformers.BertForTokenClassification(config).eval()
    model.save_pretrained(folder)
    tokenizer = tiny_tokenizer(folder)
    sentences = [["The", "quick", "brown"], ["fox", "jumps"], ["over", "the", "lazy", "dog."]]
    rows = []
    for words in sentences:  # labels that the model itself gives, but for one word
        encoded = tokenizer(words, is_split_into_words=True, return_tensors="pt")
        best = model(**encoded).logits[0].argmax(-1).tolist()
        places = encoded.word_ids()
        rows.append({"tokens": words, "tags": [best[places.index(n)] for n in range(len(words))]})
    rows[0]["tags"][0] = (rows[0]["tags"][0] + 1) % 3
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = {"type": "ner_huggingface_preprocess", "input_cols": ["tokens"], "label_col": "tags", "max_samples": 20}
    data = {
        "name": "ner",
        "type": "HuggingfaceContainer",
        "load_dataset_config": {"data_name": "json", "data_files": "rows.jsonl"},
        "pre_process_data_config": settings,
        "post_process_data_config": {"type": "ner_post_process"},
    }
    sub_types = [
        {"name": name, "priority": n, "metric_config": {"task": "multiclass", "num_classes": 3}}
        for n, name in enumerate(["accuracy_score", "f1_score"], 1)
    ]
    evaluator = {"metrics": [{"name": "a", "type": "accuracy", "data_config": "ner", "sub_types": sub_types}]}
    more = {"data_configs": [data], "evaluators": {"e": evaluator}, "evaluator": "e"}
    plan = make_plan(load(write_config(tmp_path, folder, {"c": {"type": "OnnxConversion"}}, **more)))
    assert plan.problems == ()
    for row in run(plan).scores:
        assert row["label_accuracy"] == pytest.approx(8 / 9)
        assert 0 < row["f1"] < 1


def test_an_image_goes_through_the_models_own_processor(tmp_path):
    pillow = pytest.importorskip("PIL.Image")
    from transformers import ViTImageProcessor

    folder = tiny_encoder(tmp_path / "model", "vit")
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    pixels = np.random.default_rng(0).integers(0, 255, (40, 50, 3), np.uint8)
    pillow.fromarray(pixels).save(tmp_path / "a.png")
    rows = [{"image": pixels.tolist()}, {"image": "a.png"}]
    given = inputs_of(Model("hf", folder, task="image-classification"), rows_config(tmp_path / "r.jsonl", rows), 2)
    assert [row["pixel_values"].shape for row in given] == [(1, 3, 32, 32)] * 2
    assert np.abs(given[0]["pixel_values"] - given[1]["pixel_values"]).max() < 1e-6
