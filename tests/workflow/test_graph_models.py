"""Models that are no decoders in a workflow: planned by what they are, quantized, scored by their outputs, delivered."""

import json
import shutil
import subprocess
import sys

import numpy as np
import onnx
import onnxruntime
import pytest

from graphs import N_TOKENS, logits_of, text_classifier
from olivine.config import load
from olivine.models.onnx_files import onnx_model
from olivine.workflow.engine import run
from olivine.workflow.plan import make_plan

pytestmark = pytest.mark.usefixtures("warm")

QUANTIZED = {"small": {"type": "OnnxBlockWiseRtnQuantization", "block_size": 32}}


@pytest.fixture
def graph(tmp_path):
    """A text classifier of three classes in a folder of its own."""
    return text_classifier(tmp_path / "given" / "classifier.onnx")


def planned(folder, model_path, passes=QUANTIZED, **more):
    """The plan of a config with that model; more: keys of input_model and, in capitals, of the config."""
    given = {"type": "ONNXModel", "model_path": str(model_path)} | {k: v for k, v in more.items() if k.islower()}
    config = {
        "input_model": {key: value for key, value in given.items() if value is not None},
        "passes": passes,
        "cache_dir": str(folder / "cache"),
        "output_dir": str(folder / "out"),
    } | {key.lower(): value for key, value in more.items() if key.isupper()}
    path = folder / "config.json"
    path.write_text(json.dumps(config, indent=1))
    return make_plan(load(path))


def problem_of(*args, **more):
    (problem,) = planned(*args, **more).problems
    return f"{problem.kind}: {problem.message}"


def test_graph_is_quantized_compared_on_made_up_rows_and_delivered(graph, tmp_path):
    (graph.parent / "config.json").write_text('{"architectures": ["BertForSequenceClassification"]}')
    (graph.parent / "holiday.jpg").write_bytes(b"mine")  # belongs to no model
    plan = planned(tmp_path, graph)
    assert not plan.problems
    assert "the graph is input_ids int64 [batch, sequence], attention_mask int64 [batch, sequence] -> " in str(
        plan.translated
    )
    result = run(plan)
    base, small = result.scores
    assert (base["made_up"], base["n_rows"]) == (True, 16)
    assert base["size_bytes"] == graph.stat().st_size + (graph.parent / "config.json").stat().st_size
    assert 0.9 < small["cosine"] < 1
    assert small["largest_difference"] > 0
    assert 0.5 <= small["top1_agreement"] <= 1
    delivered = tmp_path / "out" / "model"
    names = {file.name for file in delivered.iterdir()}
    assert names == {"classifier.onnx", "classifier.onnx.data", "config.json"}
    session = onnxruntime.InferenceSession(delivered / "classifier.onnx", providers=["CPUExecutionProvider"])
    ids = np.random.default_rng(5).integers(0, N_TOKENS, (1, 6))
    (logits,) = session.run(None, {"input_ids": ids, "attention_mask": np.ones_like(ids)})
    assert np.abs(logits - logits_of(graph, ids)).max() < 0.3
    again = make_plan(load(tmp_path / "out" / "workflow.json"))
    assert not again.problems
    assert again.cached == {"small", "score:base", "score:small"}


def test_labelled_rows_hold_a_graph_to_its_accuracy(graph, tmp_path):
    ids = np.random.default_rng(0).integers(0, N_TOKENS, (20, 5))
    rows = [
        {"input_ids": row.tolist(), "label": int(one)}
        for row, one in zip(ids, logits_of(graph, ids).argmax(-1), strict=True)
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = [{"name": "mine", "load_dataset_config": {"data_name": "json", "data_files": "rows.jsonl"}}]
    quality = {"data_config": "mine", "max_drop": "60pp"}
    plan = planned(tmp_path, graph.parent, DATA_CONFIGS=data, QUALITY=quality)
    assert not plan.problems
    assert (
        "every model is scored on the rows of 'mine', and its largest score should be that of 'label'"
        in plan.translated
    )
    base, small = run(plan).scores
    assert base["label_accuracy"] == 1
    assert small["drop"] == pytest.approx(1 - small["label_accuracy"])


def test_rows_that_do_not_fit_are_told_while_planning(graph, tmp_path):
    (tmp_path / "rows.jsonl").write_text('{"ids": [1, 2], "label": 0}\n')
    data = [{"name": "mine", "load_dataset_config": {"data_name": "json", "data_files": "rows.jsonl"}}]
    told = problem_of(tmp_path, graph, DATA_CONFIGS=data, QUALITY={"data_config": "mine"})
    assert told == "missing-data: the rows have no column 'input_ids', which the model takes; they have ids, label."
    (tmp_path / "rows.jsonl").write_text('{"input_ids": [1, 2], "label": 0}\n')
    told = problem_of(tmp_path, graph, DATA_CONFIGS=data, QUALITY={"data_config": "mine", "target": "labl"})
    assert told == "invalid-value: the rows have no column 'labl'."
    told = problem_of(tmp_path, graph, QUALITY={"max_drop": 0.1})
    assert told == "missing-data: max_drop is set, but there are no labels to hold to."
    told = problem_of(tmp_path, graph, QUALITY={"metrics": {"perplexity": {}}})
    assert told == "invalid-value: metric 'perplexity' is computed from text that a model writes."
    data[0]["load_dataset_config"]["data_files"] = "gone.jsonl"
    assert problem_of(tmp_path, graph, DATA_CONFIGS=data, QUALITY={"data_config": "mine"}).startswith("missing-file: ")


def test_damaged_graphs_are_one_problem_each(graph, tmp_path):
    whole = graph.read_bytes()
    graph.write_bytes(whole[:-100])
    assert "is truncated or no ONNX file" in problem_of(tmp_path, graph)
    graph.write_bytes(b"")
    assert problem_of(tmp_path, graph) == f"missing-model: {graph} is empty."
    newest = onnx.load_model_from_string(whole)
    newest.opset_import[0].version = 99
    graph.write_bytes(newest.SerializeToString())
    assert "unsupported: " in problem_of(tmp_path, graph)
    text_classifier(graph, save_as_external_data=True, location="weights.bin", size_threshold=0)
    (graph.parent / "weights.bin").unlink()
    assert (
        problem_of(tmp_path, graph)
        == f"missing-model: {graph.parent} lacks the weights 'weights.bin' of 'classifier.onnx'."
    )
    assert not (tmp_path / "out").exists()


def test_type_and_names_of_a_graph_are_checked(graph, tmp_path):
    assert "holds no file 'other.onnx'" in problem_of(tmp_path, graph.parent, onnx_file_name="other.onnx")
    assert "an ONNX model has no adapter_path" in problem_of(tmp_path, graph, adapter_path="lora")
    for path in (graph, graph.parent):
        assert "is an ONNX model, and the type is HfModel" in problem_of(tmp_path, path, type="HfModel")
        assert not planned(tmp_path, path, type=None).problems  # the name of the file says it
    assert not planned(tmp_path, graph, type="onnxmodel").problems
    told = problem_of(tmp_path, graph, task="text-clasification")
    assert told == "unsupported: the task 'text-clasification' is not served."
    assert "does not exist" in problem_of(tmp_path, graph.with_name("gone.onnx"))


def test_passes_for_decoders_say_what_the_model_is_instead(graph, tmp_path, tiny_llama):
    told = problem_of(tmp_path, graph, {"merge": {"type": "merge"}, "build": {"type": "ModelBuilder"}})
    assert "the pass 'merge' (merge) works on a decoder, and the model is an ONNX graph (tiny)." in told
    parity = {"check": {"type": "parity_check"}}
    told = problem_of(tmp_path, graph, parity)
    assert (
        told
        == "unsupported: the pass 'check' (parity_check) works on a decoder, and the model is an ONNX graph (tiny)."
    )
    encoder = tmp_path / "encoder"
    shutil.copytree(tiny_llama, encoder)
    config = json.loads((encoder / "config.json").read_text())
    config |= {
        "architectures": ["BertForSequenceClassification"],
        "model_type": "bert",
        "id2label": {"0": "a", "1": "b"},
    }
    (encoder / "config.json").write_text(json.dumps(config))
    chain = {"gptq": {"type": "gptq", "bits": 4}, "build": {"type": "ModelBuilder", "precision": "int4"}}
    told = problem_of(tmp_path, encoder, chain, type="HfModel")
    assert told == (
        "unsupported: the pass 'gptq' (gptq) works on a decoder, and the model is a text encoder for text-classification "
        "with 2 labels (BertForSequenceClassification)."
    )


def test_weights_outside_of_the_file_are_part_of_the_key(graph, tmp_path):
    text_classifier(graph, save_as_external_data=True, location="weights.bin", size_threshold=0)
    (graph.parent / "notes.md").write_text("mine")
    from olivine.models.deciding import deciding_files

    assert [name for name, _ in deciding_files(onnx_model(graph))] == ["classifier.onnx", "weights.bin"]


def command(folder, *arguments):
    program = [sys.executable, "-m", "olivine", *arguments, "--config", "config.json"]
    return subprocess.run(program, cwd=folder, capture_output=True, text=True, check=True).stdout


def test_command_says_how_a_delivered_graph_is_loaded_and_measures_it(graph, tmp_path):
    planned(tmp_path, graph)
    printed = command(tmp_path, "run")
    assert "Every model on the same 16 made-up rows" in printed
    assert f"in Python: onnxruntime.InferenceSession('{tmp_path / 'out' / 'model' / 'classifier.onnx'}')" in printed
    assert "olivine chat" not in printed
    scores = json.loads(command(tmp_path, "evaluate", "out/model", "--json"))["scores"]
    assert scores.keys() == {"n_rows", "made_up", "size_bytes"}
