"""What a config wants beside the folder of the result: archives, and the graph as a file of its own."""

import json
import zipfile

import numpy as np
import onnxruntime
import pytest

from graphs import text_classifier
from olivine.config import load
from olivine.workflow.engine import run
from olivine.workflow.plan import make_plan

pytestmark = pytest.mark.usefixtures("warm")


@pytest.fixture
def planned(tmp_path):
    graph = text_classifier(tmp_path / "given" / "model.onnx")

    def plan(**changes):
        config = {
            "input_model": {"type": "ONNXModel", "model_path": str(graph)},
            "passes": {"small": {"type": "OnnxBlockWiseRtnQuantization"}},
            "quality": {"enabled": False},
            "cache_dir": str(tmp_path / "cache"),
            "output_dir": str(tmp_path / "out"),
        } | changes
        path = tmp_path / "config.json"
        path.write_text(json.dumps(config))
        return make_plan(load(path))

    return plan


def test_output_that_ends_in_onnx_is_the_graph_itself(planned, tmp_path):
    run(planned(output_dir=str(tmp_path / "out" / "mine.onnx")))
    session = onnxruntime.InferenceSession(tmp_path / "out" / "mine.onnx", providers=["CPUExecutionProvider"])
    ids = np.ones((1, 4), dtype=np.int64)
    assert session.run(None, {"input_ids": ids, "attention_mask": ids})[0].shape[0] == 1
    assert (tmp_path / "out" / "model").is_dir()


def test_zipfile_holds_the_folder_of_the_model_and_is_the_same_bytes_again(planned, tmp_path):
    packaging = {"type": "zipfile", "name": "Result"}
    run(planned(packaging_config=packaging))
    archive = tmp_path / "out" / "Result.zip"
    with zipfile.ZipFile(archive) as opened:
        assert opened.testzip() is None
        inside = {name.removeprefix("model/") for name in opened.namelist()}
    assert inside == {path.name for path in (tmp_path / "out" / "model").iterdir()}
    before = archive.read_bytes()
    run(planned(packaging_config=packaging))
    assert archive.read_bytes() == before
    run(planned())  # nothing asks for it any more
    assert not archive.exists()


def test_file_of_a_user_that_is_in_the_way_of_an_archive_is_kept(planned, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "Result.zip").write_text("mine")
    run(planned(packaging_config=[{"type": "Zipfile", "name": "Result"}]))
    (kept,) = (tmp_path / "out" / "kept").iterdir()
    assert kept.read_text() == "mine"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"packaging_config": [{"type": "Dockerfile", "name": "d"}]}, "the packaging 'Dockerfile' is not served."),
        ({"packaging_config": [{"type": "Zipfile", "name": "a/b"}]}, "'a/b' is no name of a file."),
        ({"output_file": "result.bin"}, "'result.bin' is no name of an ONNX file."),
    ],
)
def test_what_cannot_be_packed_is_told_while_planning(planned, changes, said):
    (problem,) = planned(**changes).problems
    assert problem.message == said
