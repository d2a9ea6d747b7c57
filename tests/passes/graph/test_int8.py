"""Integers: what breaks a graph is mended, cheapest first, the price is told, and what cannot be mended fails."""

import json

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from encoders import tiny_encoder, write_config
from graph_tools import changed, largest_difference, operators, rows_for
from graphs import save, text_classifier, value, weight
from olivine.config import load
from olivine.config.schema import DataConfig
from olivine.errors import ModelError
from olivine.exporting.graph_files import open_graph
from olivine.exporting.mask_constants import replace_masks
from olivine.workflow.engine import run
from olivine.workflow.plan import make_plan

pytestmark = pytest.mark.usefixtures("warm")


def test_weights_of_a_dynamic_graph_are_integers_and_its_outputs_are_near(exported, tmp_path):
    quantized, heard = changed("OnnxDynamicQuantization", exported("bert"), tmp_path)
    types = {one.data_type for one in onnx.load(quantized).graph.initializer if len(one.dims) == 2}
    assert TensorProto.INT8 in types
    assert operators(quantized)["MatMulInteger"] >= 12
    (rung,) = heard.facts["rungs"]
    assert rung["recipe"] == "as asked"
    assert rung["cosine"] > 0.95


def test_scale_of_a_weight_is_its_largest_number_over_127(tmp_path):
    graph = text_classifier(tmp_path / "given" / "model.onnx")
    params = {"op_types_to_quantize": ["MatMul"], "quant_preprocess": False}
    quantized, _ = changed("OnnxDynamicQuantization", graph, tmp_path, **params)
    stored = {one.name: numpy_helper.to_array(one) for one in onnx.load(quantized).graph.initializer}
    before = {one.name: numpy_helper.to_array(one) for one in onnx.load(graph).graph.initializer}
    scale = float(stored["layer_scale"])
    assert scale == pytest.approx(float(np.abs(before["layer"]).max()) / 127, rel=0.01)
    assert np.abs(stored["layer_quantized"] * scale - before["layer"]).max() <= scale / 2 * 1.01


@pytest.mark.parametrize("method", ["MinMax", "Entropy", "Percentile"])
def test_static_graph_is_calibrated_and_near(tmp_path, method):
    graph = text_classifier(tmp_path / "given" / "model.onnx")
    quantized, heard = changed("OnnxStaticQuantization", graph, tmp_path, calibrate_method=method)
    assert operators(quantized)["QuantizeLinear"] >= 1
    assert heard.facts["rungs"][-1]["cosine"] > 0.95


def test_operators_in_place_of_pairs_where_that_is_asked_for(tmp_path):
    graph = text_classifier(tmp_path / "given" / "model.onnx")
    params = {"quant_format": "QOperator", "activation_type": "uint8", "op_types_to_quantize": "MatMul"}
    quantized, _ = changed("OnnxStaticQuantization", graph, tmp_path, **params)
    assert operators(quantized)["QLinearMatMul"] == 2


def masked(path):
    """softmax(x W + mask) V, where the mask is 0 or -3.4e38: what exporters make of attention."""
    nodes = [
        helper.make_node("MatMul", ["x", "keys"], ["scores"], name="scores"),
        helper.make_node("Where", ["kept", "zero", "least"], ["mask"], name="mask"),
        helper.make_node("Add", ["scores", "mask"], ["all"], name="add"),
        helper.make_node("Softmax", ["all"], ["shares"], axis=-1, name="softmax"),
        helper.make_node("MatMul", ["shares", "values"], ["y"], name="values"),
    ]
    least = numpy_helper.from_array(np.float32(np.finfo(np.float32).min), "least")
    stored = [weight("keys", 32, 16), weight("values", 16, 32), least, numpy_helper.from_array(np.float32(0), "zero")]
    inputs = [value("x", ["batch", 32]), value("kept", ["batch", 16], TensorProto.BOOL)]
    return save(path, nodes, inputs, [value("y", ["batch", 32])], stored)


def test_mask_constant_that_breaks_a_graph_is_mended_and_told(tmp_path):
    random = np.random.default_rng(0)
    rows = [{"x": random.normal(size=32).tolist(), "kept": (random.random(16) < 0.7).tolist()} for _ in range(12)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = DataConfig.model_validate(
        {"name": "mine", "load_dataset_config": {"data_files": str(tmp_path / "rows.jsonl")}}
    )
    graph = masked(tmp_path / "given" / "model.onnx")
    params = {"data_config": "mine", "op_types_to_quantize": ["MatMul", "Add", "Softmax"]}
    _, heard = changed("OnnxStaticQuantization", graph, tmp_path, {"mine": data}, **params)
    assert heard.facts["n_masks_mended"] == 1
    assert "1 mask constants below -1e30 were replaced" in heard.notes[0]
    rungs = heard.facts["rungs"]
    assert rungs[0]["cosine"] < 0.95 <= rungs[-1]["cosine"]
    assert rungs[1]["recipe"] == "only nodes with weights"
    assert "so it was mended: as asked: cosine" in heard.warnings[0]


def test_mended_mask_gives_the_same_as_before(tmp_path):
    graph = masked(tmp_path / "given" / "model.onnx")
    model = open_graph(graph)
    assert replace_masks(model, -1e30, -1e4) == 1
    assert replace_masks(model, -1e30, -1e4) == 0
    import onnx_ir

    onnx_ir.save(model, tmp_path / "mended.onnx")
    rows = [{**row, "kept": np.arange(32).reshape(2, 16) % 3 > 0} for row in rows_for(graph)]
    assert largest_difference(graph, tmp_path / "mended.onnx", rows) < 1e-6


def test_graph_that_cannot_be_mended_fails_with_the_best_that_was_reached(tmp_path):
    graph = text_classifier(tmp_path / "given" / "model.onnx")
    params = {"min_cosine": 1.0, "mend": False}
    with pytest.raises(ModelError, match=r"a cosine of 0\.99\d+ to those before at best \(as asked\), and min_cosine"):
        changed("OnnxQuantization", graph, tmp_path, quant_mode="dynamic", **params)


def test_nodes_and_operators_that_are_left_out_stay_float(tmp_path):
    graph = text_classifier(tmp_path / "given" / "model.onnx")
    params = {"nodes_to_exclude": ["classify"], "op_types_to_exclude": ["Gather"], "quant_preprocess": False}
    quantized, _ = changed("OnnxDynamicQuantization", graph, tmp_path, **params)
    assert operators(quantized)["MatMul"] == operators(quantized)["MatMulInteger"] == 1
    assert operators(quantized)["Gather"] == 1


def test_graph_without_weights_is_warned_of(tmp_path):
    nodes = [helper.make_node("Relu", ["x"], ["y"])]
    graph = save(tmp_path / "given" / "model.onnx", nodes, [value("x", [1, 8])], [value("y", [1, 8])], [])
    _, heard = changed("OnnxDynamicQuantization", graph, tmp_path)
    assert heard.warnings == ["no node of the graph could be quantized"]


@pytest.mark.slow
def test_config_of_2023_runs_on_rows_of_its_own(tmp_path):
    model = tiny_encoder(tmp_path / "model")
    rows = [{"text": f"what a lovely day {n}", "label": n % 3} for n in range(12)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    chain = {
        "conversion": {"type": "OnnxConversion", "config": {"target_opset": 13}},
        "transformers_optimization": {"type": "OrtTransformersOptimization"},
        "quantization": {"type": "OnnxQuantization", "config": {"quant_mode": "static", "data_config": "mine"}},
    }
    load_data = {"data_name": "json", "data_files": "rows.jsonl"}
    data = [{"name": "mine", "load_dataset_config": load_data, "pre_process_data_config": {"text_cols": "text"}}]
    plan = make_plan(load(write_config(tmp_path, model, chain, data_configs=data)))
    assert not plan.problems
    result = run(plan)
    assert result.scores[-1]["cosine"] > 0.9
    facts = {step["name"]: step["facts"] for step in result.steps}
    assert facts["quantization"]["rungs"][-1]["cosine"] >= 0.95


def test_nothing_is_left_in_the_current_folder(exported, tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    fused, _ = changed("OrtTransformersOptimization", exported("bert"), tmp_path / "a")
    for number, name in enumerate(("OnnxDynamicQuantization", "OnnxStaticQuantization", "OnnxFloatToFloat16")):
        changed(name, fused, tmp_path / f"b{number}")
    assert not list((tmp_path / "here").iterdir())


def test_mend_that_does_harm_is_taken_back(tmp_path):
    from olivine.exporting.eight_bit_graph import Recipe, climb, prepared

    graph = text_classifier(tmp_path / "given" / "model.onnx")
    path, _ = prepared(open_graph(graph), tmp_path, preprocess=False)
    scores = iter((0.5, 0.4, 0.6))
    mends = ("a scale per channel", "weights in 7 bits")
    rungs = climb(path, tmp_path / "rungs", Recipe("dynamic"), [], 0.9, lambda _: next(scores), mends)
    assert [(rung.recipe.per_channel, rung.recipe.reduce_range) for rung in rungs] == [
        (False, False),
        (True, False),
        (False, True),
    ]


def test_single_tensors_have_types_of_their_own(tmp_path):
    graph = text_classifier(tmp_path / "given" / "model.onnx")
    tensor = onnx.load(graph).graph.node[-1].input[0]
    options = {"TensorQuantOverrides": {tensor: [{"quant_type": "uint16"}]}}
    quantized, _ = changed("OnnxStaticQuantization", graph, tmp_path, extra_options=options, quant_preprocess=False)
    types = {one.name: one.data_type for one in onnx.load(quantized).graph.initializer}
    assert types[f"{tensor}_zero_point"] == TensorProto.UINT16
    assert TensorProto.INT8 in types.values()
