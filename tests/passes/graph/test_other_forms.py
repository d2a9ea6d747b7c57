"""Graphs in other opsets and in 4-bit floats, fused by onnxscript's rules, prepared for QNN: outputs before and after."""

import numpy as np
import onnx
import pytest
from onnx import helper

from encoders import tiny_encoder
from graph_tools import changed, largest_difference, operators, outputs, rows_for
from graphs import save, text_classifier, value, weight
from olivine.errors import ModelError
from olivine.models import Model


def similarity(given, other, rows):
    """The cosine of all outputs of two graphs together."""
    one, two = (
        np.concatenate([array.ravel() for row in outputs(path, rows) for array in row.values()])
        for path in (given, other)
    )
    return float(one @ two / np.linalg.norm(one) / np.linalg.norm(two))


@pytest.mark.parametrize("target", [17, 18, 23])
def test_graph_in_another_opset_gives_the_same(tmp_path, target):
    graph = text_classifier(tmp_path / "given" / "model.onnx")
    other, heard = changed("OnnxOpVersionConversion", graph, tmp_path, target_opset=target)
    assert onnx.load(other).opset_import[0].version == target
    assert largest_difference(graph, other, rows_for(graph)) < 1e-6
    assert heard.warnings == []


def test_graph_in_that_opset_is_left_alone_and_told(tmp_path):
    graph = text_classifier(tmp_path / "given" / "model.onnx")
    _, heard = changed("OnnxOpVersionConversion", graph, tmp_path, target_opset=20)
    assert heard.warnings == ["the graph was in that version already"]


def test_graph_whose_operators_are_younger_than_the_opset_is_refused(tmp_path):
    nodes = [helper.make_node("Gelu", ["x"], ["y"])]
    graph = save(tmp_path / "given" / "model.onnx", nodes, [value("x", [1, 4])], [value("y", [1, 4])], [])
    with pytest.raises(ModelError, match="no form in opset 13"):
        changed("OnnxOpVersionConversion", graph, tmp_path, target_opset=13)


@pytest.mark.parametrize("name", ["nf4", "fp4"])
def test_weights_as_4_bit_floats_keep_the_outputs_near(tmp_path, name):
    graph = text_classifier(tmp_path / "given" / "model.onnx")
    small, heard = changed("OnnxBnb4Quantization", graph, tmp_path, quant_type=name, nodes_to_exclude=["classify"])
    assert operators(small)["MatMulBnb4"] == 1
    assert heard.facts["changes"] == {"MatMulBnb4": 1}
    assert 0.9 < similarity(graph, small, rows_for(graph)) < 1


def test_only_layers_that_are_named_become_4_bit_floats(tmp_path):
    graph = text_classifier(tmp_path / "given" / "model.onnx", last="/head/classify/MatMul")
    small, _ = changed("OnnxBnb4Quantization", graph, tmp_path, quantized_modules=["classify"])
    assert operators(small)["MatMulBnb4"] == 1
    none, heard = changed("OnnxBnb4Quantization", graph, tmp_path / "b", quantized_modules=["q_proj"])
    assert "MatMulBnb4" not in operators(none)
    assert "no product" in heard.warnings[0]


@pytest.mark.slow
def test_weights_by_hqq_keep_the_outputs_near(tmp_path):
    graph = text_classifier(tmp_path / "given" / "model.onnx")
    small, heard = changed("OnnxHqqQuantization", graph, tmp_path, block_size=16)
    assert heard.facts["changes"] == {"MatMulNBits": 2}
    assert 0.98 < similarity(graph, small, rows_for(graph)) < 1
    with pytest.raises(ModelError, match="no node 'clasify'"):
        changed("OnnxHqqQuantization", graph, tmp_path / "b", nodes_to_exclude=["clasify"])


@pytest.mark.slow
def test_graph_of_the_newer_exporter_is_fused_by_onnxscripts_rules(tmp_path):
    model = Model("hf", tiny_encoder(tmp_path / "model", "bert"), task="text-classification")
    graph, _ = changed("OnnxConversion", model, tmp_path / "a", target_opset=18, use_dynamo_exporter=True)
    fused, heard = changed("OnnxScriptFusion", graph, tmp_path / "b")
    assert heard.facts["changes"]
    assert sum(operators(fused).values()) < sum(operators(graph).values())
    assert largest_difference(graph, fused, rows_for(graph)) < 1e-4


@pytest.mark.slow
def test_graph_is_prepared_for_qnn_with_the_same_outputs(tmp_path):
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"]),
        helper.make_node("Div", ["h", "root"], ["a"]),
        helper.make_node("Erf", ["a"], ["b"]),
        helper.make_node("Add", ["b", "one"], ["c"]),
        helper.make_node("Mul", ["h", "c"], ["d"]),
        helper.make_node("Mul", ["d", "half"], ["y"]),
    ]
    constants = {"root": 1.4142135, "one": 1.0, "half": 0.5}
    stored = [
        weight("w", 8, 8),
        *(onnx.numpy_helper.from_array(np.float32(number), name) for name, number in constants.items()),
    ]
    inputs, results = [value("x", ["batch", 8])], [value("y", ["batch", 8])]
    graph = save(tmp_path / "given" / "model.onnx", nodes, inputs, results, stored)
    ready, heard = changed("QNNPreprocess", graph, tmp_path)
    assert operators(ready)["Gelu"] == 1
    assert heard.facts["changes"] == {"Gelu": 1}
    assert largest_difference(graph, ready, rows_for(graph)) < 1e-5
    _, heard = changed("QNNPreprocess", ready, tmp_path / "b")
    assert heard.warnings == ["nothing in the graph had to be prepared"]
