"""Simplified graphs, graphs in 16 bits, other types and fixed sizes: outputs before and after."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from encoders import tiny_encoder, write_config
from graph_tools import changed, largest_difference, operators, outputs, rows_for
from graphs import save, text_classifier, value, weight
from olivine.config import load
from olivine.errors import ModelError
from olivine.models.onnx_header import OnnxHeader
from olivine.workflow.engine import run
from olivine.workflow.plan import make_plan

pytestmark = pytest.mark.usefixtures("warm")


def wasteful(path, **external):
    """y = max(x W, x W + 0 * 1), with an Identity, two equal products, a constant sum, and an If that repeats it all."""
    inner = helper.make_graph(
        [helper.make_node("MatMul", ["x", "inner"], ["p"]), helper.make_node("Identity", ["p"], ["z"])],
        "then",
        [],
        [value("z", ["batch", 32])],
        [weight("inner", 32, 32)],
    )
    other = helper.make_graph([helper.make_node("Identity", ["b"], ["w"])], "else", [], [value("w", ["batch", 32])])
    nodes = [
        helper.make_node("Add", ["one", "two"], ["three"]),
        helper.make_node("MatMul", ["x", "layer"], ["a"]),
        helper.make_node("MatMul", ["x", "layer"], ["b"]),
        helper.make_node("Identity", ["a"], ["c"]),
        helper.make_node("Mul", ["c", "three"], ["d"]),
        helper.make_node("If", ["flag"], ["e"], then_branch=inner, else_branch=other),
        helper.make_node("Add", ["d", "e"], ["f"]),
        helper.make_node("Max", ["f", "b"], ["y"]),
    ]
    stored = [
        weight("layer", 32, 32),
        *(numpy_helper.from_array(np.float32(number), name) for name, number in (("one", 1), ("two", 2))),
    ]
    inputs = [value("x", ["batch", 32]), value("flag", [], TensorProto.BOOL)]
    return save(path, nodes, inputs, [value("y", ["batch", 32])], stored, **external)


def rows_of_wasteful():
    x = np.random.default_rng(0).normal(size=(3, 32)).astype(np.float32)
    return [{"x": x, "flag": np.array(flag)} for flag in (True, False)]


@pytest.mark.parametrize("external", [{}, {"save_as_external_data": True, "location": "w.bin", "size_threshold": 0}])
def test_simplified_graph_has_fewer_nodes_and_the_same_outputs(tmp_path, external):
    graph = wasteful(tmp_path / "given" / "model.onnx", **external)
    simple, heard = changed("OnnxPeepholeOptimizer", graph, tmp_path)
    assert operators(simple)["MatMul"] == 1
    assert "Identity" not in operators(simple)
    assert heard.facts["changes"]["MatMul"] >= 1
    assert largest_difference(graph, simple, rows_of_wasteful()) < 1e-5
    again, heard = changed("OnnxPeepholeOptimizer", simple, tmp_path / "b")
    assert operators(again) == operators(simple)
    assert heard.warnings == ["there was nothing to simplify"]


def test_simplified_bert_gives_the_same(exported, tmp_path):
    simple, heard = changed("OnnxPeepholeOptimizer", exported("bert"), tmp_path)
    assert sum(heard.facts["changes"].values()) > 20
    assert largest_difference(exported("bert"), simple) < 1e-4


def test_half_precision_is_half_the_size_and_near(exported, tmp_path):
    graph = exported("bert")
    half, heard = changed("OnnxFloatToFloat16", graph, tmp_path, keep_io_types=True)
    assert half.stat().st_size < 0.8 * graph.stat().st_size
    assert heard.facts["changes"]["weights in 16 bits"] > 20
    assert OnnxHeader.read(half).signature.outputs[0].dtype == "float32"
    assert largest_difference(graph, half) < 0.05
    _, heard = changed("OnnxFloatToFloat16", half, tmp_path / "b", keep_io_types=True)
    assert heard.warnings == ["no number of the graph was of 32 bits"]


def test_numbers_that_sixteen_bits_do_not_hold_are_told(tmp_path):
    large = numpy_helper.from_array(np.full((32, 32), 1e6, np.float32), "layer")
    nodes = [helper.make_node("MatMul", ["x", "layer"], ["y"])]
    graph = save(tmp_path / "a" / "model.onnx", nodes, [value("x", [1, 32])], [value("y", [1, 32])], [large])
    _, heard = changed("OnnxFloatToFloat16", graph, tmp_path)
    assert heard.warnings == ["1 weights hold numbers above 65504, which were clipped: 'layer'"]
    assert heard.facts["clipped"] == ["layer"]


def test_operators_and_nodes_that_are_blocked_stay_in_32_bits(tmp_path):
    graph = text_classifier(tmp_path / "given" / "model.onnx")
    half, _ = changed("OnnxFloatToFloat16", graph, tmp_path, node_block_list=["classify"], keep_io_types=True)
    types = {one.name: one.data_type for one in onnx.load(half).graph.initializer}
    assert (types["classes"], types["layer"]) == (TensorProto.FLOAT, TensorProto.FLOAT16)


def test_types_of_inputs_and_outputs_are_changed_by_pattern(exported, tmp_path):
    graph = exported("bert")
    params = {"name_pattern": "input_ids|_mask", "source_dtype": 7, "target_dtype": "int32"}
    other, heard = changed("OnnxIODataTypeConverter", graph, tmp_path / "a", **params)
    assert heard.facts["changes"] == {"inputs": 2}
    types = {spec.name: spec.dtype for spec in OnnxHeader.read(other).signature.inputs}
    assert types == {"input_ids": "int32", "attention_mask": "int32", "token_type_ids": "int64"}
    row = rows_for(graph, 1)[0]
    small = row | {name: row[name].astype(np.int32) for name in ("input_ids", "attention_mask")}
    assert np.array_equal(outputs(graph, [row])[0]["logits"], outputs(other, [small])[0]["logits"])
    params = {"name_pattern": "logits", "source_dtype": 1, "target_dtype": 11}
    double, heard = changed("OnnxIODataTypeConverter", other, tmp_path / "b", **params)
    assert OnnxHeader.read(double).signature.outputs[0].dtype == "float64"
    assert heard.facts["changes"] == {"outputs": 1}
    _, heard = changed("OnnxIODataTypeConverter", double, tmp_path / "c", **params)
    assert "no input or output" in heard.warnings[0]


def test_fixed_sizes_reach_the_outputs_and_what_they_give_stays(exported, tmp_path):
    graph = exported("bert_body")
    sizes = {"dim_param": ["batch", "sequence"], "dim_value": [1, 7]}
    fixed, heard = changed("DynamicToFixedShape", graph, tmp_path / "a", **sizes)
    signature = OnnxHeader.read(fixed).signature
    assert {spec.shape for spec in signature.inputs} == {(1, 7)}
    assert signature.outputs[0].shape == (1, 7, 32)
    assert heard.facts["changes"] == {"sizes fixed": 6}
    assert largest_difference(graph, fixed, rows_for(fixed)) < 1e-5
    _, heard = changed("DynamicToFixedShape", fixed, tmp_path / "b", **sizes)
    assert "no size of the graph was open" in heard.warnings[0]
    by_input, _ = changed("DynamicToFixedShape", graph, tmp_path / "c", input_name=["input_ids"], input_shape=[[1, 7]])
    assert {spec.shape for spec in OnnxHeader.read(by_input).signature.inputs} == {(1, 7)}


def test_shapes_that_do_not_fit_are_refused(exported, tmp_path):
    with pytest.raises(ModelError, match=r"cannot have the shape \[1, 7, 7\]"):
        changed("DynamicToFixedShape", exported("bert"), tmp_path, input_name=["input_ids"], input_shape=[[1, 7, 7]])
    chain = {
        "c": {"type": "OnnxConversion"},
        "f": {"type": "DynamicToFixedShape", "dim_param": ["bach"], "dim_value": [1]},
    }
    (problem,) = make_plan(load(write_config(tmp_path, tiny_encoder(tmp_path / "model"), chain))).problems
    assert str(problem).endswith("no input has an open size 'bach'. There are: batch, sequence.")
    chain["f"] |= {"dim_param": ["batch"], "dim_value": [1, 2]}
    (problem,) = make_plan(load(write_config(tmp_path, tmp_path / "model", chain))).problems
    assert "dim_param and dim_value belong together, one for one" in problem.message


def test_config_of_a_text_encoder_at_fixed_size_in_half_precision_runs_and_is_scored(tmp_path):
    chain = {
        "convert": {"type": "OnnxConversion", "target_opset": 17},
        "simplify": {"type": "OnnxPeepholeOptimizer"},
        "fix": {"type": "DynamicToFixedShape", "dim_param": ["batch", "sequence"], "dim_value": [1, 12]},
        "half": {"type": "OnnxFloatToFloat16", "keep_io_types": True},
    }
    plan = make_plan(load(write_config(tmp_path, tiny_encoder(tmp_path / "model", "clip_text"), chain)))
    assert not plan.problems
    scores = run(plan).scores
    assert [round(row["cosine"], 2) for row in scores[1:]] == [1, 1, 1, 1]


def test_fixing_nothing_is_a_problem_of_the_plan(tmp_path):
    chain = {"c": {"type": "OnnxConversion"}, "f": {"type": "DynamicToFixedShape"}}
    (problem,) = make_plan(load(write_config(tmp_path, tiny_encoder(tmp_path / "model"), chain))).problems
    assert problem.message == "nothing is named that is to be fixed."


@pytest.mark.parametrize(
    ("params", "halves"), [({"op_include_list": ["Gemm"]}, {"second"}), ({"node_include_list": ["one"]}, {"first"})]
)
def test_what_is_included_alone_is_converted(tmp_path, params, halves):
    nodes = [
        helper.make_node("MatMul", ["x", "first"], ["a"], name="one"),
        helper.make_node("Gemm", ["a", "second"], ["y"], name="two"),
    ]
    stored = [weight("first", 32, 32), weight("second", 32, 32)]
    graph = save(tmp_path / "given" / "m.onnx", nodes, [value("x", [4, 32])], [value("y", [4, 32])], stored)
    result, _ = changed("OnnxFloatToFloat16", graph, tmp_path, keep_io_types=True, **params)
    types = {one.name: one.data_type for one in onnx.load(result).graph.initializer}
    assert {name for name, kind in types.items() if kind == TensorProto.FLOAT16} == halves
    assert largest_difference(graph, result) < 0.05


def test_two_lists_of_the_same_are_refused(tmp_path):
    graph = wasteful(tmp_path / "given" / "model.onnx")
    with pytest.raises(ValueError, match="op_block_list and op_include_list exclude each other"):
        changed("OnnxFloatToFloat16", graph, tmp_path, op_block_list=["Add"], op_include_list=["MatMul"])
