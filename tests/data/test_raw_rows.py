"""Rows that are files of raw numbers, and tokens that are made up, under their names in Olive."""

import json

import numpy as np
import pytest

from graph_tools import changed
from graphs import text_classifier
from olivine.config import load
from olivine.config.schema import DataConfig
from olivine.data import data_files, look, pick_any
from olivine.errors import DataError
from olivine.evaluate import inputs_of
from olivine.models.onnx_files import onnx_model
from olivine.workflow.plan import make_plan

SHAPES = {"input_names": ["image", "size"], "input_shapes": [[1, 2, 3], [1]], "input_types": ["float32", "int64"]}


@pytest.fixture
def raw(tmp_path):
    """Three rows of an image and its size, with labels; c comes before b in the order."""
    folder = tmp_path / "data"
    for place in ("pictures", "sizes"):
        (folder / place).mkdir(parents=True)
    for number, name in enumerate("abc"):
        np.full(6, number, "float32").tofile(folder / "pictures" / f"{name}.raw")
        np.array([number], "int64").tofile(folder / "sizes" / f"{name}.raw")
    (folder / "pictures" / "notes.txt").write_text("none of the rows")
    (folder / "order.txt").write_text("a.raw\nc.raw\n\nb.raw\n")
    np.save(folder / "labels.npy", np.array([5, 7, 6]))

    def config(**given):
        given = {"type": "raw_dataset", "data_dir": "data", "input_dirs": ["pictures", "sizes"], **SHAPES} | given
        return DataConfig(name="d", type="RawDataContainer", folder=str(tmp_path), load_dataset_config=given)

    return config


def test_rows_are_the_files_of_all_folders_by_name(raw):
    picked = pick_any(raw(input_suffix=".raw"), lambda n_rows: range(1, n_rows))
    assert [row["size"].tolist() for row in picked] == [[1], [2]]
    assert picked[0]["image"].shape == (1, 2, 3)
    assert (picked[0]["image"] == 1).all()


def test_order_and_labels_are_those_of_their_files(raw, tmp_path):
    config = raw(input_order_file="order.txt", annotations_file="labels.npy")
    assert [(row["size"].tolist(), row["label"]) for row in pick_any(config, range)] == [([0], 5), ([2], 7), ([1], 6)]
    names = {path.name for path in data_files(config)}
    assert names == {"order.txt", "labels.npy", "a.raw", "b.raw", "c.raw"}
    assert len(data_files(config)) == 8
    assert look(config).problems == ()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"data_dir": "nowhere"}, "there is no folder 'nowhere'"),
        ({"input_dirs": ["pictures", "widths"]}, "there is no folder"),
        ({"input_dirs": ["pictures"]}, "go together"),
        ({"input_order_file": "other.txt"}, "other.txt"),
        ({"input_suffix": ".png"}, "that ends in .png"),
        ({}, "there is no file"),  # notes.txt has no size
    ],
)
def test_what_is_missing_is_told_before_anything_runs(raw, given, said):
    (problem,) = look(raw(**given)).problems
    assert problem.kind == "missing-file"
    assert said in problem.message


def test_name_that_leaves_the_folder_is_refused(raw, tmp_path):
    (tmp_path / "data" / "order.txt").write_text("../sizes/a.raw\n")
    (problem,) = look(raw(input_order_file="order.txt")).problems
    assert "is no name of a file" in problem.message


def test_file_of_another_size_is_named(raw, tmp_path):
    np.zeros(5, "float32").tofile(tmp_path / "data" / "pictures" / "b.raw")
    with pytest.raises(DataError, match=r"b.raw' holds 5 numbers of float32"):
        pick_any(raw(input_suffix=".raw"), range)


def test_config_of_2024_calibrates_on_raw_files(tmp_path):
    graph = text_classifier(tmp_path / "given" / "model.onnx")
    (tmp_path / "cal" / "input_ids").mkdir(parents=True)
    for number in range(4):
        np.full((1, 5), number, "int64").tofile(tmp_path / "cal" / "input_ids" / f"{number}.raw")
    params = {"data_dir": "cal", "input_names": ["input_ids"], "input_shapes": [[1, 5]], "input_types": ["int64"]}
    data = {"name": "raw", "type": "RawDataContainer", "load_dataset_config": {"params": params}}
    passes = {"q": {"type": "OnnxStaticQuantization", "config": {"data_config": "raw"}}}
    config = {"input_model": {"type": "ONNXModel", "model_path": str(graph)}, "data_configs": [data], "passes": passes}
    path = tmp_path / "config.json"
    path.write_text(json.dumps(config | {"output_dir": "out"}))
    plan = make_plan(load(path))
    assert [str(problem) for problem in plan.problems] == []
    (known,) = load(path).workflow.data_configs
    rows = inputs_of(onnx_model(graph), known.model_copy(update={"folder": str(tmp_path)}), 8)
    assert [row["input_ids"].tolist() for row in rows[:2]] == [[[0] * 5], [[1] * 5]]
    read = {"raw": known.model_copy(update={"folder": str(tmp_path)})}
    _, heard = changed("OnnxStaticQuantization", graph, tmp_path / "q", data=read, data_config="raw")
    assert heard.facts["rungs"][-1]["cosine"] > 0.95


def test_accuracy_is_measured_against_the_annotations(tmp_path):
    graph = text_classifier(tmp_path / "given" / "model.onnx")
    (tmp_path / "cal" / "input_ids").mkdir(parents=True)
    np.zeros((1, 5), "int64").tofile(tmp_path / "cal" / "input_ids" / "0.raw")
    np.save(tmp_path / "cal" / "labels.npy", np.zeros(1, "int64"))
    load_raw = {"data_dir": "cal", "input_names": ["input_ids"], "input_shapes": [[1, 5]], "input_types": ["int64"]}
    metric = {"name": "acc", "type": "accuracy", "data_config": "raw", "sub_types": [{"name": "accuracy_score"}]}
    config = {
        "input_model": {"type": "ONNXModel", "model_path": str(graph)},
        "evaluators": {"e": {"metrics": [metric]}},
        "evaluator": "e",
        "passes": {"q": {"type": "OnnxDynamicQuantization"}},
        "output_dir": "out",
    }
    path = tmp_path / "config.json"
    for labels, n_problems in (({"annotations_file": "labels.npy"}, 0), ({}, 1)):
        data = {"name": "raw", "type": "RawDataContainer", "load_dataset_config": load_raw | labels}
        path.write_text(json.dumps(config | {"data_configs": [data]}))
        assert len(make_plan(load(path)).problems) == n_problems


@pytest.mark.parametrize(
    ("kind", "lengths"),
    [
        ("TransformersDummyDataContainer", (128, 256)),
        ("TransformersPromptDummyDataContainer", (8, 8)),
        ("TransformersTokenDummyDataContainer", (1, 9)),
    ],
)
def test_made_up_tokens_have_the_lengths_of_their_container(tmp_path, kind, lengths):
    from onnx import TensorProto, helper

    from graphs import save, value

    sizes = {"input_ids": ["batch", "seq_len"], "attention_mask": ["batch", "total_length"]}
    inputs = [value(name, shape, TensorProto.INT64) for name, shape in sizes.items()]
    inputs.append(value("past_key_values.0.key", ["batch", 2, "past_length", 4]))
    nodes = [helper.make_node("Identity", ["input_ids"], ["y"])]
    graph = save(tmp_path / "m.onnx", nodes, inputs, [value("y", sizes["input_ids"], TensorProto.INT64)], [])
    path = tmp_path / "config.json"
    data = {"name": "t", "type": kind, "load_dataset_config": {"model_name": "a/b", "max_samples": 2}}
    model = {"type": "ONNXModel", "model_path": str(graph)}
    path.write_text(json.dumps({"input_model": model, "data_configs": [data], "passes": {}}))
    loaded = load(path)
    (config,) = loaded.workflow.data_configs
    assert not [problem for problem in loaded.problems if "data_configs" in str(problem)]
    rows = inputs_of(onnx_model(graph), config, 100)
    assert len(rows) == 2
    shapes = {name: array.shape for name, array in rows[0].items()}
    past = lengths[1] - lengths[0]
    expected = {"input_ids": (1, lengths[0]), "attention_mask": (1, lengths[1])}
    assert shapes == expected | {"past_key_values.0.key": (1, 2, past, 4)}
