"""Tensors of 16 bits in a graph of 8: what an earlier pass names, and the constants beside it."""

import json

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from pydantic import ValidationError

from encoders import write_config
from graph_tools import largest_difference, outputs, result_of
from graphs import save, value, weight
from olivine.config import load
from olivine.models.onnx_files import graph_of, onnx_model
from olivine.passes import passes
from olivine.testing.passes import PassDeclaration
from olivine.workflow.plan import make_plan


class TestMixedPrecisionOverrides(PassDeclaration):
    plugin, params = passes["mixed_precision_overrides"], {"overrides_config": {"a": "QUInt16"}}


def sums(path):
    """y = tanh(x W + shared) V + shared + own, where only the last two sums are of interest."""
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["p"], name="first"),
        helper.make_node("Add", ["p", "shared"], ["a"], name="narrow"),
        helper.make_node("Tanh", ["a"], ["t"], name="tanh"),
        helper.make_node("MatMul", ["t", "v"], ["q"], name="second"),
        helper.make_node("Add", ["q", "shared"], ["b"], name="wide"),
        helper.make_node("Add", ["b", "own"], ["y"], name="last"),
    ]
    stored = [weight("w", 16, 16), weight("v", 16, 16), weight("shared", 16), weight("own", 16)]
    return save(path, nodes, [value("x", ["n", 16])], [value("y", ["n", 16])], stored)


def test_named_tensor_and_the_constants_beside_it_are_of_16_bits_and_all_others_of_8(tmp_path):
    graph = sums(tmp_path / "given" / "model.onnx")
    rows = [{"x": np.random.default_rng(0).normal(size=(4, 16)).astype(np.float32)}]
    given = {"b": "QUInt16", "y": "uint16"}
    model, heard = result_of("MixedPrecisionOverrides", onnx_model(graph), tmp_path / "m", overrides_config=given)
    assert largest_difference(graph, graph_of(model), rows) == 0
    changes = {"tensors by name": 2, "constants beside them": 2, "copies of constants": 1}
    assert heard.facts["changes"] == changes
    params = {"activation_type": "QUInt8", "weight_type": "QUInt8", "mend": False, "min_cosine": 0}
    quantized, _ = result_of("OnnxStaticQuantization", model, tmp_path / "q", **params)
    types = {one.name: one.data_type for one in onnx.load(graph_of(quantized)).graph.initializer}
    wide = {name.removesuffix("_zero_point") for name, kind in types.items() if kind == TensorProto.UINT16}
    assert {"b", "y", "own", "shared_MixedPrecision_copy"} <= {name.removesuffix("_quantized") for name in wide}
    assert types["shared_zero_point"] == types["a_zero_point"] == TensorProto.UINT8
    plain, _ = result_of("OnnxStaticQuantization", onnx_model(graph), tmp_path / "p", **params)
    (exact,), (one,), (other,) = (outputs(path, rows) for path in (graph, graph_of(quantized), graph_of(plain)))
    assert np.abs(one["y"] - exact["y"]).mean() < np.abs(other["y"] - exact["y"]).mean()


def test_constant_that_only_wide_nodes_read_is_not_copied(tmp_path):
    graph = sums(tmp_path / "given" / "model.onnx")
    (tmp_path / "types.json").write_text(json.dumps({"a": "QUInt16", "b": "QUInt16"}))
    params = {"overrides_config": str(tmp_path / "types.json"), "element_wise_binary_ops": ["Add"]}
    model, heard = result_of("MixedPrecisionOverrides", onnx_model(graph), tmp_path / "m", **params)
    assert heard.facts["changes"] == {"tensors by name": 2, "constants beside them": 2}
    assert set(model.attributes["tensor_quant_overrides"]) == {"a", "b", "shared", "own"}
    assert [one.name for one in onnx.load(graph_of(model)).graph.initializer].count("shared") == 1
    assert numpy_helper.to_array(onnx.load(graph).graph.initializer[2]).shape == (16,)


def test_types_and_names_that_there_are_not_are_told(tmp_path):
    with pytest.raises(ValidationError, match="'a' has the type \"float\"; there are QInt8"):
        result_of(
            "MixedPrecisionOverrides", onnx_model(sums(tmp_path / "m.onnx")), tmp_path, overrides_config={"a": "float"}
        )
    model = onnx_model(sums(tmp_path / "given" / "model.onnx"))
    _, heard = result_of("MixedPrecisionOverrides", model, tmp_path / "n", overrides_config={"nowhere": "QUInt16"})
    assert "the graph has no tensor 'nowhere'" in heard.warnings[0]
    (tmp_path / "types.json").write_text('{"a": 16}')
    for name, message in (("none.json", "there is no file"), ("types.json", "'a' has the type 16; there are")):
        steps = {"m": {"type": "MixedPrecisionOverrides", "overrides_config": str(tmp_path / name)}}
        given = {"input_model": {"type": "ONNXModel", "model_path": str(tmp_path / "given" / "model.onnx")}}
        (problem,) = make_plan(load(write_config(tmp_path, tmp_path, steps, **given))).problems
        assert message in problem.message
