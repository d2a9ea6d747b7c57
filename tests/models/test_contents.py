"""What the files of a model hold, and under which licence."""

import json

import pytest
import torch
from safetensors.torch import save_file

from graphs import text_classifier
from olivine.models.contents import contents
from olivine.models.licence import licence_of


def test_tensors_of_all_layers_are_one_and_the_largest_comes_first(tmp_path):
    layers = {f"model.layers.{n}.up.weight": torch.zeros(4, 8, dtype=torch.float16) for n in range(12)}
    save_file({**layers, "embed": torch.zeros(50, 8)}, tmp_path / "model.safetensors")
    embed, up = contents(tmp_path)
    assert (embed.name, embed.bits, embed.n_bytes, embed.n) == ("embed", 32, 1600, 1)
    assert (up.name, up.bits, up.n_bytes, up.n) == ("model.layers.*.up.weight", 16, 768, 12)


def test_packed_words_have_the_bits_that_the_config_says(tmp_path):
    words = {"layers.0.up.qweight": torch.zeros(4, 8, dtype=torch.int32), "layers.0.up.scales": torch.zeros(2, 8)}
    save_file(words, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"quantization_config": {"bits": 4}}))
    assert {one.name: one.bits for one in contents(tmp_path)} == {"layers.*.up.qweight": 4, "layers.*.up.scales": 32}


def test_graph_tells_its_tensors_and_a_damaged_file_is_left_out(tmp_path):
    text_classifier(tmp_path / "model.onnx")
    (tmp_path / "other.safetensors").write_bytes(b"\x08")
    names = [one.name for one in contents(tmp_path)]
    assert names[:2] == ["embedding", "layer"]
    assert contents(tmp_path / "missing") == []


@pytest.mark.parametrize(
    ("card", "licence"),
    [
        ("---\nlanguage: en\nlicense: Apache-2.0\n---\n# Model\n", "apache-2.0"),
        ("---\r\nlicense: 'mit'\r\n---\r\n", "mit"),
        ("# Model\nlicense: mit\n", None),
        ("---\ntags: [a]\n---\nlicense: mit\n", None),
    ],
)
def test_licence_is_that_of_the_front_matter_of_the_card(card, licence, tmp_path):
    (tmp_path / "README.md").write_bytes(card.encode())
    assert licence_of(tmp_path) == licence


def test_model_without_a_card_has_no_licence(tmp_path):
    assert licence_of(tmp_path) is None
    (tmp_path / "model.gguf").write_bytes(b"none")
    assert licence_of(tmp_path / "model.gguf") is None
