"""Graphs that exporters seldom write and users have all the same: each pass gives what was there, or says why not."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from encoders import write_config
from graph_tools import changed, largest_difference, operators, outputs
from graphs import text_classifier, value, weight
from olivine.config import load
from olivine.errors import ModelError
from olivine.models.onnx_header import OnnxHeader
from olivine.workflow.plan import make_plan

X, Y = value("x", ["batch", 16]), value("y", ["batch", 16])
ROW = {"x": np.random.default_rng(0).normal(size=(2, 16)).astype(np.float32)}
OPSETS = [helper.make_opsetid("com.microsoft", 1), helper.make_opsetid("own", 1)]


def node(kind, inputs, output, domain="", **attributes):
    return helper.make_node(kind, inputs, [output], name=f"n_{output}", domain=domain, **attributes)


def graph_file(folder, nodes, inputs, outputs_, stored, *, opset=17, functions=()):
    graph = helper.make_graph(nodes, "odd", inputs, outputs_, stored)
    opsets = [helper.make_opsetid("", opset), *OPSETS]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8, functions=list(functions))
    (folder / "given").mkdir(parents=True)
    onnx.save(model, folder / "given" / "model.onnx")
    return folder / "given" / "model.onnx"


def number(name, array):
    return numpy_helper.from_array(np.asarray(array), name)


def nothing(folder):
    return graph_file(folder, [], [X], [X], [])


def handed_through(folder):
    return graph_file(folder, [node("Relu", ["x"], "y")], [X], [Y, X], [])


def weight_given(folder):
    return graph_file(folder, [node("MatMul", ["x", "w"], "y")], [X], [Y, value("w", [16, 16])], [weight("w", 16, 16)])


def texts(folder):
    words, given = number("words", np.array(["a", "b"], object)), value("z", [2], TensorProto.STRING)
    nodes = [node("MatMul", ["x", "w"], "y"), node("Identity", ["words"], "z")]
    return graph_file(folder, nodes, [X], [Y, given], [weight("w", 16, 16), words])


def sequence(folder):
    joined = node("ConcatFromSequence", ["q"], "z", axis=1)
    nodes = [node("SequenceConstruct", ["x", "x"], "q"), joined, node("MatMul", ["z", "w"], "y")]
    return graph_file(folder, nodes, [X], [Y], [weight("w", 32, 16)])


def optional(folder):
    nodes = [node("Optional", ["x"], "o"), node("OptionalGetElement", ["o"], "y")]
    return graph_file(folder, nodes, [X], [Y], [])


def weights_listed(folder):
    listed = [X, value("w", [16, 16]), value("b", [16])]
    nodes = [node("MatMul", ["x", "w"], "a"), node("Add", ["a", "b"], "y")]
    return graph_file(folder, nodes, listed, [Y], [weight("w", 16, 16), weight("b", 16)])


def function(folder):
    inner = [
        helper.make_node("Constant", [], ["k"], value=numpy_helper.from_array(np.float32(2))),
        *(helper.make_node("MatMul", ["a", "b"], ["m"]), helper.make_node("Mul", ["m", "k"], ["o"])),
    ]
    doubled = helper.make_function("own", "Twice", ["a", "b"], ["o"], inner, [helper.make_opsetid("", 17)])
    nodes = [node("Twice", ["x", "w"], "y", "own")]
    return graph_file(folder, nodes, [X], [Y], [weight("w", 16, 16)], functions=[doubled])


def quantized_weights(folder):
    codes = np.random.default_rng(0).integers(-100, 100, (16, 16)).astype(np.int8)
    nodes = [node("DequantizeLinear", ["c", "s"], "w"), node("MatMul", ["x", "w"], "y")]
    return graph_file(folder, nodes, [X], [Y], [number("c", codes), number("s", np.float32(0.01))])


ODD = (nothing, handed_through, weight_given, texts, sequence, optional, weights_listed, function, quantized_weights)
PASSES = {
    "OnnxPeepholeOptimizer": {},
    "OnnxFloatToFloat16": {},
    "OnnxIODataTypeConverter": {"name_pattern": ".", "source_dtype": "float32", "target_dtype": "float64"},
    "DynamicToFixedShape": {"dim_param": ["batch"], "dim_value": [2]},
    "OnnxDynamicQuantization": {},
}
FLOATS = {"OnnxFloatToFloat16": np.float16, "OnnxIODataTypeConverter": np.float64}


@pytest.mark.parametrize("name", PASSES)
@pytest.mark.parametrize("given", ODD)
def test_pass_gives_what_the_graph_gave(tmp_path, given, name):
    graph = given(tmp_path)
    result, _ = changed(name, graph, tmp_path, **PASSES[name])
    row = {"x": ROW["x"].astype(FLOATS.get(name, np.float32))}
    (before,), (after,) = outputs(graph, [ROW]), outputs(result, [row])
    assert list(before) == list(after)
    for key, array in before.items():
        if array.dtype.kind == "f":
            assert np.abs(array - after[key]).max() < (0.03 if name != "OnnxPeepholeOptimizer" else 1e-6)


@pytest.mark.parametrize("given", [handed_through, weight_given])
def test_type_of_an_output_that_nothing_computes_is_not_kept(tmp_path, given):
    with pytest.raises(ModelError, match=r"the type of the output '[xw]' cannot be kept: it is an input or a weight"):
        changed("OnnxFloatToFloat16", given(tmp_path), tmp_path, keep_io_types=True)
    result, _ = changed("OnnxFloatToFloat16", given(tmp_path / "b"), tmp_path / "c", keep_io_types=["y"])
    assert OnnxHeader.read(result).signature.outputs[0].dtype == "float32"


@pytest.mark.parametrize("given", [texts, sequence, weight_given])
def test_everything_beside_the_graph_leaves_shapes_and_texts_in_it(tmp_path, given):
    params = {"save_as_external_data": True, "size_threshold": 0, "convert_attribute": True}
    result, _ = changed("OnnxPeepholeOptimizer", given(tmp_path), tmp_path, **params)
    assert OnnxHeader.read(result).external_files == ["model.onnx.data"]
    assert largest_difference(tmp_path / "given" / "model.onnx", result, [ROW]) < 1e-6 if given != texts else result


def test_axes_stay_in_a_graph_whose_weights_lie_beside_it(tmp_path):
    nodes = [node("MatMul", ["x", "w"], "a"), node("ReduceSum", ["a", "axes"], "y", keepdims=1)]
    stored = [weight("w", 16, 16), number("axes", np.array([-1]))]
    graph = graph_file(tmp_path, nodes, [X], [value("y", ["batch", 1])], stored)
    params = {"save_as_external_data": True, "size_threshold": 0}
    result, _ = changed("OnnxPeepholeOptimizer", graph, tmp_path, **params)
    assert largest_difference(graph, result, [ROW]) < 1e-6


@pytest.mark.parametrize("opset", [11, 12, 13, 17])
def test_operators_mean_the_same_in_the_opset_of_blocks(tmp_path, opset):
    nodes = [
        node("MatMulNBits", ["x", "q", "s"], "z", "com.microsoft", K=32, N=16, bits=4, block_size=32),
        node("Softmax", ["z"], "y"),
    ]
    random = np.random.default_rng(0)
    codes, scales = random.integers(0, 255, (16, 1, 16), np.uint8), 0.1 * random.random(16, np.float32)
    sizes = [value("x", ["batch", 4, 32]), value("y", ["batch", 4, 16])]
    graph = graph_file(tmp_path, nodes, sizes[:1], sizes[1:], [number("q", codes), number("s", scales)], opset=opset)
    plain, _ = changed("MatMulNBitsToQDQ", graph, tmp_path)
    assert OnnxHeader.read(plain).opsets[""] == 21
    assert largest_difference(graph, plain, [{"x": random.normal(size=(2, 4, 32)).astype(np.float32)}]) < 0.01


def layers(folder):
    """Two layers that onnxruntime joins to Gemm, of other names."""
    nodes = []
    for place, (given, result) in enumerate((("x", "h"), ("h", "y"))):
        nodes += [node("MatMul", [given, f"w{place}"], f"p{place}"), node("Add", [f"p{place}", "b"], result)]
    stored = [weight("w0", 16, 16), weight("w1", 16, 16, seed=1), weight("b", 16)]
    return graph_file(folder, nodes, [X], [Y], stored)


def test_node_that_is_left_out_is_left_out_whatever_is_joined_before(tmp_path):
    quantized, _ = changed("OnnxDynamicQuantization", layers(tmp_path), tmp_path, nodes_to_exclude=["n_p0"])
    assert operators(quantized)["MatMul"] == operators(quantized)["MatMulInteger"] == 1


@pytest.mark.parametrize(("params", "n_integer"), [({"op_types_to_exclude": ["MatMul"]}, 0), ({}, 2)])
def test_operators_are_those_that_the_user_sees(tmp_path, params, n_integer):
    quantized, _ = changed("OnnxDynamicQuantization", layers(tmp_path), tmp_path, **params)
    assert operators(quantized).get("MatMulInteger", 0) == n_integer


def test_names_that_the_graph_does_not_have_are_told(tmp_path):
    graph = layers(tmp_path)
    params = {"nodes_to_exclude": ["n_p9"], "op_types_to_exclude": ["Gatherr"]}
    _, heard = changed("OnnxDynamicQuantization", graph, tmp_path, **params)
    assert heard.warnings == [
        "the graph has no node 'n_p9', which the config names",
        "the graph has no operator 'Gatherr', which the config names",
    ]


@pytest.mark.parametrize(
    ("params", "said"),
    [
        (
            {"type": "OnnxDynamicQuantization", "weight_type": "QInt16"},
            "dynamic quantization has no weights of type QInt16",
        ),
        (
            {"type": "OnnxStaticQuantization", "weight_type": "QUInt8", "activation_type": "QInt8"},
            "no operators for QUInt8 weights and QInt8 activ",
        ),
        (
            {"type": "OnnxStaticQuantization", "quant_format": "QOperator", "activation_type": "QUInt16"},
            "quant_format QOperator has no operators for QInt8 weights and QUInt16 activations",
        ),
        ({"type": "OnnxQuantization", "quant_mode": "dynamic", "weight_type": "QInt4"}, "no weights of type QInt4"),
    ],
)
def test_types_without_operators_are_problems_of_the_plan(tmp_path, params, said):
    graph = text_classifier(tmp_path / "given" / "model.onnx")
    model = {"type": "ONNXModel", "model_path": str(graph)}
    (problem,) = make_plan(load(write_config(tmp_path, graph, {"q": params}, input_model=model))).problems
    assert said in problem.message


def test_whatever_comes_is_taken_where_that_is_asked_for(tmp_path):
    nodes = [node("MatMul", ["x", "w"], "a"), node("Log", ["a"], "y")]
    graph = graph_file(tmp_path, nodes, [X], [Y], [weight("w", 16, 16)])
    assert np.isnan(outputs(graph, [ROW])[0]["y"]).any()
    _, heard = changed("OnnxDynamicQuantization", graph, tmp_path, min_cosine=0)
    assert len(heard.facts["rungs"]) == 1


def test_infinities_after_quantization_fail_the_step(tmp_path):
    """1 / (x W)^2: the least squares are 0 when they are rounded."""
    nodes = [
        *(node("MatMul", ["x", "w"], "m"), node("Mul", ["m", "m"], "s"), node("Reciprocal", ["s"], "y")),
    ]
    graph = graph_file(tmp_path, nodes, [X], [Y], [weight("w", 16, 16)])
    with pytest.raises(ModelError, match="a cosine of -1 to those before at best"):
        changed("OnnxStaticQuantization", graph, tmp_path, mend=False, op_types_to_quantize=["MatMul", "Gemm", "Mul"])


@pytest.mark.parametrize("kind", ["texts", "sequence"])
def test_outputs_that_are_no_tensors_of_numbers_are_left_out_of_the_comparison(tmp_path, kind):
    nodes = [node("MatMul", ["x", "w"], "a"), node("SequenceConstruct", ["x", "a"], "y")]
    given = helper.make_tensor_sequence_value_info("y", TensorProto.FLOAT, ["batch", 16])
    graph = texts(tmp_path) if kind == "texts" else graph_file(tmp_path, nodes, [X], [given], [weight("w", 16, 16)])
    _, heard = changed("OnnxDynamicQuantization", graph, tmp_path)
    assert 0.99 < heard.facts["rungs"][-1]["cosine"] < 1


def test_outputs_that_are_infinite_alike_are_near(tmp_path):
    nodes = [node("MatMul", ["x", "w"], "a"), node("Where", ["kept", "a", "least"], "y")]
    stored = [weight("w", 16, 16), number("least", np.float32(-np.inf)), number("kept", np.arange(16) % 3 > 0)]
    _, heard = changed("OnnxDynamicQuantization", graph_file(tmp_path, nodes, [X], [Y], stored), tmp_path)
    assert 0.99 < heard.facts["rungs"][0]["cosine"] < 1


def test_sizes_that_contradict_each_other_are_problems_of_the_plan(tmp_path):
    graph = text_classifier(tmp_path / "given" / "model.onnx")
    names, shapes = ["input_ids", "attention_mask"], [[1, 8], [1, 6]]
    chain = {"f": {"type": "DynamicToFixedShape", "input_name": names, "input_shape": shapes}}
    model = {"type": "ONNXModel", "model_path": str(graph)}
    (problem,) = make_plan(load(write_config(tmp_path, graph, chain, input_model=model))).problems
    assert problem.message == "the open size 'sequence' would be 8 and 6."
