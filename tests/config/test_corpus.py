"""Typical configs of Olive from 2023 to today, in our own words: read, translated once, and refused by name or not at all."""

import re
from pathlib import Path

import pytest

from olivine.config import load, migrate, read
from olivine.passes import passes
from olivine.workflow import _known_passes

CORPUS = sorted((Path(__file__).parent / "corpus").glob("*.json"))
# what is refused where the config is read, and by which words
REFUSED = {
    "mteb-2025": "asks for tasks of the package mteb, which are not served",
    "prepost-2025": "'use_ort_extensions' is not served",
    "docker-auto-2024": "'auto_optimizer_config' is not served",
    "vendor-snpe-2023": "input models of type 'TensorFlowModel' are not served",
}


@pytest.mark.parametrize("path", CORPUS, ids=lambda path: path.stem)
def test_config_is_read_or_refused_in_one_message(path):
    loaded = load(path)
    assert loaded.workflow is not None
    assert [problem.kind for problem in loaded.problems] == ["unsupported"] * (path.stem in REFUSED)
    assert all(REFUSED[path.stem] in problem.message for problem in loaded.problems)


@pytest.mark.parametrize("path", CORPUS, ids=lambda path: path.stem)
def test_translated_config_stays_as_it_is(path, tmp_path):
    import json

    once, _ = migrate(read(path))
    (tmp_path / "today.json").write_text(json.dumps(once))
    assert migrate(read(tmp_path / "today.json"))[0] == once


@pytest.mark.parametrize("path", CORPUS, ids=lambda path: path.stem)
def test_no_pass_of_olive_is_unknown(path):
    steps = load(path).workflow.passes.values()
    known = _known_passes.OLIVE_PASSES
    assert [step.type for step in steps if passes.find(step.type) is None and step.type.lower() not in known] == []


def test_what_is_to_be_used_instead_of_a_pass_is_here():
    name = re.compile(
        r"\b(?:Onnx|Ort)\w+|\b(?:Gptq|AutoAWQQuantizer|Rtn|ModelBuilder|ParityCheck|MergeAdapterWeights)\b"
    )
    named = {word for sentence in _known_passes.OLIVE_PASSES.values() for word in name.findall(sentence)}
    assert {word for word in named if passes.find(word) is None} == set()
