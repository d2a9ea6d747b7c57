"""A graph is measured by its outputs: on made-up rows that it takes, or on rows of data."""

import json

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from graphs import N_TOKENS, logits_of, save, text_classifier, value, weight
from olivine.config.schema import DataConfig
from olivine.errors import DataError, ModelError
from olivine.evaluate import OutputEvidence, check_metrics, measured, score
from olivine.evaluate._features import extractor
from olivine.evaluate._inputs import of_row
from olivine.models.onnx_files import onnx_model
from olivine.models.onnx_header import OnnxHeader
from olivine.models.sample_inputs import fitted, made_up
from olivine.models.signature import Signature, TensorSpec
from olivine.work import Machine, Silent

MACHINE = Machine("cpu", "CPUExecutionProvider", 8 * 10**9, 10**12, 2)
DUMMY = {"data": None, "part": "all", "eval_size": None, "seed": 0, "target": "", "max_rows": 4, "previous": None}


class Kept(Silent):
    def __init__(self):
        self.warnings = []

    def warn(self, message):
        self.warnings.append(message)


def scored(path, folder, report=None, **params):
    folder.mkdir()
    return score(onnx_model(path), {**DUMMY, **params}, folder, MACHINE, report or Silent())


def rows_of(path, rows, **settings):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    load = {"data_name": "json", "data_files": str(path)}
    return {"name": "rows", "load_dataset_config": load, "pre_process_data_config": settings}


def changed(source, path, name, change):
    """The same graph with one weight changed."""
    import onnx

    model = onnx.load(source)
    stored = next(one for one in model.graph.initializer if one.name == name)
    stored.CopyFrom(numpy_helper.from_array(change(numpy_helper.to_array(stored)), name))
    onnx.save(model, path)
    return path


def test_picture_without_the_processor_of_its_model_says_what_is_missing(tmp_path):
    pixels = Signature((TensorSpec("pixel_values", "float32", ("batch", 3, 8, 8)),), ())
    config = DataConfig.model_validate({"name": "rows"})
    with pytest.raises(ModelError, match=r"an image in 'image', but no preprocessor_config\.json beside the model"):
        extractor(tmp_path, config, pixels, ["image", "label"])
    assert extractor(tmp_path, config, pixels, ["pixel_values", "image"]) is None
    assert extractor(tmp_path, config, pixels, ["label"]) is None


def test_made_up_rows_fit_the_signature_and_are_the_same_for_a_seed():
    specs = (
        TensorSpec("input_ids", "int64", ("batch", "length"), 40),
        TensorSpec("attention_mask", "int64", ("batch", "past_length + length")),
        TensorSpec("position_ids", "int32", ("batch", "length")),
        TensorSpec("past", "float16", ("batch", 2, "past_length", 4)),
        TensorSpec("pixels", "float32", (None, 3, "height", None)),
        TensorSpec("flag", "bool", ()),
    )
    signature = Signature(specs, ())
    first, second = made_up(signature, 2, seed=3)
    shapes = {name: array.shape for name, array in first.items()}
    assert shapes == {
        "input_ids": (1, 8),
        "attention_mask": (1, 8),
        "position_ids": (1, 8),
        "past": (1, 2, 0, 4),
        "pixels": (1, 3, 32, 32),
        "flag": (),
    }
    assert {name: str(array.dtype) for name, array in first.items()} == {spec.name: spec.dtype for spec in specs}
    assert first["input_ids"].max() < 40
    assert first["attention_mask"].all()
    assert first["position_ids"].tolist() == [[0, 1, 2, 3, 4, 5, 6, 7]]
    assert not np.array_equal(first["input_ids"], second["input_ids"])
    for name, array in made_up(signature, 1, seed=3)[0].items():
        assert np.array_equal(array, first[name])


def test_sizes_that_a_graph_leaves_open_are_those_of_the_config_beside_it():
    graph = Signature((TensorSpec("pixel_values", "float32", ("batch", "c", "h", "w")),), ())
    told = Signature((TensorSpec("pixel_values", "float32", ("batch", 3, 224, 224)),), ())
    assert made_up(fitted(graph, told), 1, 0)[0]["pixel_values"].shape == (1, 3, 224, 224)


def test_inputs_that_cannot_be_made_up_are_named():
    for dtype in ("string", "sequence"):
        with pytest.raises(ModelError, match=f"the input 'words' \\({dtype}\\) cannot be made up"):
            made_up(Signature((TensorSpec("words", dtype, ("n",)),), ()), 1, 0)


def test_model_is_compared_with_the_one_before_it(tmp_path):
    path = text_classifier(tmp_path / "a" / "model.onnx")
    base = scored(path, tmp_path / "base")
    size = path.stat().st_size
    assert base == {"scores": {"n_rows": 4, "made_up": True, "size_bytes": size}, "samples": [], "answers": []}
    other = changed(path, tmp_path / "b.onnx", "classes", lambda classes: classes * np.float32(1.5))
    same = scored(path, tmp_path / "same", previous=str(tmp_path / "base"))["scores"]
    assert (same["cosine"], same["largest_difference"], same["top1_agreement"]) == (pytest.approx(1), 0, 1)
    scaled = scored(other, tmp_path / "scaled", previous=str(tmp_path / "base"))["scores"]
    inputs = made_up(OnnxHeader.read(path).signature, 4, 0)
    expected = max(np.abs(logits_of(path, row["input_ids"][0])).max() / 2 for row in inputs)
    assert scaled["largest_difference"] == pytest.approx(expected, rel=1e-4)
    assert (scaled["cosine"], scaled["top1_agreement"]) == (pytest.approx(1), 1)
    turned = changed(path, tmp_path / "c.onnx", "classes", lambda classes: -classes)
    opposite = scored(turned, tmp_path / "opposite", previous=str(tmp_path / "base"))["scores"]
    assert (opposite["cosine"], opposite["top1_agreement"]) == (pytest.approx(-1), 0)


def test_output_that_is_not_there_any_more_is_told(tmp_path):
    first = text_classifier(tmp_path / "a" / "model.onnx")
    product = [helper.make_node("MatMul", ["x", "w"], ["y"])]
    second = save(tmp_path / "b.onnx", product, [value("x", ["n", 4])], [value("y", ["n", 2])], [weight("w", 4, 2)])
    scored(first, tmp_path / "base")
    report = Kept()
    scores = scored(second, tmp_path / "other", report, previous=str(tmp_path / "base"))["scores"]
    assert "cosine" not in scores
    assert report.warnings == ["no output has the name and shape of one of the model before: the two are not compared"]


def test_nan_is_degenerate_and_no_number(tmp_path):
    path = text_classifier(tmp_path / "a" / "model.onnx")
    scored(path, tmp_path / "base")
    broken = changed(path, tmp_path / "b.onnx", "classes", lambda classes: classes * np.float32(np.nan))
    scores = scored(broken, tmp_path / "broken", previous=str(tmp_path / "base"))["scores"]
    assert scores["degenerate"] == "NaN in the output 'logits' of 4 of 4 rows"
    assert scores["cosine"] is None
    assert "cosine" in scores["no_number"]


def test_labelled_rows_give_an_accuracy_and_answers(tmp_path):
    path = text_classifier(tmp_path / "a" / "model.onnx")
    (path.parent / "config.json").write_text(
        json.dumps({"architectures": ["BertForSequenceClassification"], "id2label": {"0": "a", "1": "b", "2": "c"}})
    )
    ids = np.random.default_rng(0).integers(0, N_TOKENS, (6, 5))
    classes = logits_of(path, ids).argmax(-1)
    labels = [int(one) if index % 2 else "abc"[one] for index, one in enumerate(classes)]
    labels[0] = "abc"[(classes[0] + 1) % 3]
    rows = [{"input_ids": row.tolist(), "label": label} for row, label in zip(ids, labels, strict=True)]
    data = rows_of(tmp_path / "rows.jsonl", rows)
    result = scored(path, tmp_path / "base", data=data, target="label", max_rows=100)
    assert result["scores"]["label_accuracy"] == pytest.approx(5 / 6)
    assert "made_up" not in result["scores"]
    assert result["samples"][1] == dict.fromkeys(("expected", "generated"), f"class {classes[1]}") | {"prompt": "row 2"}
    assert [answer["right"] for answer in result["answers"]] == [False, *[True] * 5]
    rows[3]["label"] = "d"
    with pytest.raises(DataError, match=r"rows\.jsonl:4: 'label' is 'd', which is no class; the model's are a, b, c"):
        scored(path, tmp_path / "wrong", data=rows_of(tmp_path / "rows.jsonl", rows), target="label", max_rows=100)


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"attention_mask": [1]}, "row has no column 'input_ids', which the model takes"),
        ({"input_ids": ["a"]}, "the column 'input_ids' holds no numbers of type int64"),
        ({"input_ids": [[[1]]]}, r"has the shape \[1, 1, 1\], but the model takes input_ids int64 \[batch, sequence\]"),
        ({"input_ids": [10**30]}, "the column 'input_ids' holds no numbers of type int64"),
    ],
)
def test_row_that_does_not_fit_is_named_with_its_line(row, words, tmp_path):
    signature = OnnxHeader.read(text_classifier(tmp_path / "model.onnx")).signature
    with pytest.raises(DataError, match=f"^rows.jsonl:7: .*{words}"):
        of_row(signature, row, "rows.jsonl:7", None)


def test_nan_in_the_data_is_refused():
    signature = Signature((TensorSpec("x", "float32", ("n", 2)),), ())
    with pytest.raises(DataError, match="the column 'x' holds NaN or infinity"):
        of_row(signature, {"x": [1.0, float("nan")]}, "rows.jsonl:1", None)


def test_text_goes_through_the_tokenizer_beside_the_graph(tmp_path):
    from tiny import tiny_tokenizer

    path = text_classifier(tmp_path / "a" / "model.onnx")
    tiny_tokenizer(path.parent)
    path = changed(path, path, "embedding", lambda rows: np.resize(rows, (400, rows.shape[1])))
    data = rows_of(
        tmp_path / "rows.jsonl", [{"text": "a sunny day", "label": 1}, {"text": "", "label": 0}], max_seq_len=6
    )
    scores = scored(path, tmp_path / "base", data=data, target="label")["scores"]
    assert scores["n_rows"] == 2


def test_graph_that_does_not_run_on_made_up_rows_says_so_in_a_sentence(tmp_path):
    nodes = [helper.make_node("Reshape", ["x", "shape"], ["y"])]
    stored = [numpy_helper.from_array(np.array([7]), "shape")]
    path = save(tmp_path / "m.onnx", nodes, [value("x", ["n"])], [value("y", [7])], stored)
    with pytest.raises(ModelError, match=r"m\.onnx does not run on x \[1\]: ") as caught:
        scored(path, tmp_path / "base")
    assert "\n" not in str(caught.value)
    path.write_bytes(path.read_bytes().replace(b"Reshape", b"Reshepe"))
    with pytest.raises(ModelError, match=r"onnxruntime does not load .*m\.onnx: "):
        scored(path, tmp_path / "again")


def test_only_as_many_outputs_are_kept_as_fit_and_those_are_compared(tmp_path):
    path = text_classifier(tmp_path / "a" / "model.onnx")
    folder = tmp_path / "base"
    folder.mkdir()
    score(onnx_model(path), DUMMY, folder, MACHINE, Silent(), kept_bytes=2 * 3 * 4)
    assert len(json.loads((folder / "outputs.json").read_text())) == 2
    assert scored(path, tmp_path / "next", previous=str(folder))["scores"]["cosine"] == pytest.approx(1)


def test_least_of_several_outputs_is_told_and_integers_count():
    before = [{"a": np.array([[1.0, 0.0]]), "b": np.array([[1.0, 0.0]]), "n": np.array([3])}]
    after = [{"a": np.array([[1.0, 0.0]]), "b": np.array([[0.0, 1.0]]), "n": np.array([5])}]
    assert measured({}, OutputEvidence(after, before)) == {"cosine": 0.0, "largest_difference": 2.0}
    zero = [{"a": np.zeros((1, 2))}]
    assert measured({}, OutputEvidence(zero, zero))["cosine"] == 1


def test_metric_that_reads_other_evidence_is_no_metric_of_a_graph():
    (problem,) = check_metrics({"perplexity": {}}, OutputEvidence)
    assert problem.message == "metric 'perplexity' is computed from text that a model writes."
    (problem,) = check_metrics({"output_agreement": {}})
    assert problem.message == "metric 'output_agreement' is computed from the outputs of a graph."
    assert not list(check_metrics({"class_accuracy": {}}, OutputEvidence))


def test_inputs_of_halves_are_halves(tmp_path):
    nodes = [helper.make_node("Relu", ["x"], ["y"])]
    half = TensorProto.FLOAT16
    path = save(tmp_path / "m.onnx", nodes, [value("x", ["n", 4], half)], [value("y", ["n", 4], half)], [])
    data = rows_of(tmp_path / "rows.jsonl", [{"x": [1, 2, 3, 4]}])
    assert scored(path, tmp_path / "base", data=data)["scores"] == {"n_rows": 1, "size_bytes": path.stat().st_size}


@pytest.mark.parametrize(
    ("before", "after", "near"),
    [
        ([[1, -np.inf], [np.nan]], [[1, -np.inf], [np.nan]], True),
        ([[1, 2], [3]], [[1, 2], [np.nan]], False),  # whichever output it is
        ([[1, 2], [3]], [[np.inf, 2], [3]], False),
        ([[-np.inf, 2], [3]], [[np.inf, 2], [3]], False),
    ],
)
def test_numbers_that_are_none_are_near_only_where_both_are(before, after, near):
    rows = [[{f"out{place}": np.array(one, np.float32) for place, one in enumerate(row)}] for row in (before, after)]
    numbers = measured({}, OutputEvidence(previous=rows[0], outputs=rows[1]))
    assert (numbers["cosine"] > 0.9999) == near
    assert (numbers["largest_difference"] == 0) == near


@pytest.mark.parametrize(
    ("dtype", "column"),
    [("int64", [1.5, 2]), ("int64", [float("nan"), 1]), ("int32", np.array([2**40, 1])), ("uint8", np.array([-1, 1]))],
)
def test_numbers_that_the_type_of_an_input_does_not_hold_are_refused(dtype, column):
    signature = Signature((TensorSpec("ids", dtype, (None, 2)),), ())
    with pytest.raises(DataError, match=f"row 1: the column 'ids' holds no numbers of type {dtype}"):
        of_row(signature, {"ids": column}, "row 1", None)
    assert of_row(signature, {"ids": [1.0, 2]}, "row 1", None)["ids"].dtype == dtype
