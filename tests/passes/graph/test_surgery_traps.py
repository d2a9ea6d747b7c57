"""Graphs that look like what a surgeon is for, and names that are in its way: outputs stay what they were."""

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from graph_tools import changed, largest_difference, operators, outputs
from graphs import value, weight
from olivine.errors import ModelError

X, Y = value("x", ["batch", 16]), value("y", ["batch", 16])
FLAG = value("flag", [], TensorProto.BOOL)
ROW = {"x": np.random.default_rng(0).normal(size=(2, 16)).astype(np.float32)}
BOTH = [ROW | {"flag": np.array(flag)} for flag in (True, False)]


def node(kind, inputs, output, domain="", **attributes):
    names = output if isinstance(output, list) else [output]
    return helper.make_node(kind, inputs, names, name=f"n_{names[0]}", domain=domain, **attributes)


def branch(name, nodes, output, *stored):
    return helper.make_graph(nodes, name, [], [value(output, ["batch", 16])], list(stored))


def number(name, array):
    return numpy_helper.from_array(np.asarray(array), name)


def graph_file(folder, nodes, inputs, outputs_, stored, *, opset=17, functions=()):
    graph = helper.make_graph(nodes, "tiny", inputs, outputs_, stored)
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1), helper.make_opsetid("own", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10, functions=list(functions))
    (folder / "given").mkdir()
    onnx.save(model, folder / "given" / "model.onnx")
    return folder / "given" / "model.onnx"


def operated(graph, folder, surgeon, **params):
    once, heard = changed("GraphSurgeries", graph, folder / "once", surgeries=[{"surgeon": surgeon, **params}])
    return once, heard


def test_new_weight_leaves_the_names_of_inputs_alone(tmp_path):
    nodes = [node("Gemm", ["x", "w"], "a", transB=1), node("Add", ["a", "w_transposed"], "y")]
    inputs = [X, value("w_transposed", ["batch", 16])]
    graph = graph_file(tmp_path, nodes, inputs, [Y], [weight("w", 16, 16)])
    apart, _ = operated(graph, tmp_path, "GemmToMatMulAdd")
    assert "Gemm" not in operators(apart)
    assert largest_difference(graph, apart, [ROW | {"w_transposed": ROW["x"] + 1}]) < 1e-5


def test_new_weight_leaves_the_names_in_inner_graphs_alone(tmp_path):
    first = [node("Relu", ["x"], "w_transposed"), node("Gemm", ["w_transposed", "w"], "a", transB=1)]
    picks = {
        "then_branch": branch("one", first, "a"),
        "else_branch": branch("other", [node("Gemm", ["x", "w"], "b", transB=1)], "b"),
    }
    graph = graph_file(tmp_path, [node("If", ["flag"], "y", **picks)], [X, FLAG], [Y], [weight("w", 16, 16)])
    apart, heard = operated(graph, tmp_path, "GemmToMatMulAdd")
    assert heard.facts["changes"] == {"GemmToMatMulAdd": 2}
    assert largest_difference(graph, apart, BOTH) < 1e-5


def test_weight_that_leaves_an_inner_graph_gets_a_name_of_its_own(tmp_path):
    picks = {
        "then_branch": branch("one", [node("MatMul", ["x", "p"], "a")], "a", weight("p", 16, 16)),
        "else_branch": branch("other", [node("Exp", ["x"], "p"), node("Relu", ["p"], "b")], "b"),
    }
    graph = graph_file(tmp_path, [node("If", ["flag"], "y", **picks)], [X, FLAG], [Y], [])
    shared, _ = operated(graph, tmp_path, "DeduplicateSubgraphInitializers")
    assert largest_difference(graph, shared, BOTH) == 0


def test_weights_of_text_stay_in_inner_graphs(tmp_path):
    picks = {
        "then_branch": branch("one", [node("MatMul", ["x", "p"], "a")], "a", weight("p", 16, 16)),
        "else_branch": branch("other", [node("Exp", ["x"], "b")], "b", number("words", np.array(["a", "b"], object))),
    }
    graph = graph_file(tmp_path, [node("If", ["flag"], "y", **picks)], [X, FLAG], [Y], [])
    shared, _ = operated(graph, tmp_path, "DeduplicateSubgraphInitializers")
    assert largest_difference(graph, shared, BOTH) == 0


@pytest.mark.parametrize(
    ("surgeon", "kind", "body"),
    [
        ("GemmToMatMulAdd", "Gemm", [("MatMul", ["a", "b"], "m"), ("Relu", ["m"], "o")]),
        ("MatMulAddToGemm", "MatMul", [("MatMul", ["b", "a"], "m"), ("Relu", ["m"], "o")]),
        ("ReciprocalMulToDiv", "Mul", [("Sub", ["a", "b"], "o")]),
        ("PowReduceSumPowDiv2LpNorm", "Div", [("Mul", ["a", "b"], "o")]),
    ],
)
def test_function_of_the_file_that_is_called_like_an_operator_stays(tmp_path, surgeon, kind, body):
    imports = [helper.make_opsetid("", 17)]
    inner = [helper.make_node(op, inputs, [output]) for op, inputs, output in body]
    function = helper.make_function("own", kind, ["a", "b"], ["o"], inner, imports)
    nodes = {
        "Gemm": [node("Gemm", ["x", "w"], "y", "own")],
        "MatMul": [node("MatMul", ["x", "w"], "p", "own"), node("Add", ["p", "v"], "y")],
        "Mul": [node("Exp", ["x"], "e"), node("Reciprocal", ["e"], "r"), node("Mul", ["x", "r"], "y", "own")],
        "Div": [
            *(node("Pow", ["x", "two"], "q"), node("ReduceSum", ["q", "last"], "s"), node("Sqrt", ["s"], "l")),
            node("Div", ["x", "l"], "y", "own"),
        ],
    }[kind]
    stored = [weight("w", 16, 16), weight("v", 16), number("two", np.float32(2)), number("last", np.array([-1]))]
    row = {"x": np.random.default_rng(1).normal(size=(16, 16)).astype(np.float32)}
    graph = graph_file(tmp_path, nodes, [X], [Y], stored, functions=[function])
    same, heard = operated(graph, tmp_path, surgeon)
    assert heard.facts["changes"] == {}
    assert largest_difference(graph, same, [row]) == 0


def test_product_of_integers_stays(tmp_path):
    stored = [number("w", np.ones((16, 16), np.int32)), number("b", np.arange(16, dtype=np.int32))]
    whole = [value(name, ["batch", 16], TensorProto.INT32) for name in "xy"]
    nodes = [node("MatMul", ["x", "w"], "p"), node("Add", ["p", "b"], "y")]
    same, _ = operated(graph_file(tmp_path, nodes, [whole[0]], [whole[1]], stored), tmp_path, "MatMulAddToGemm")
    assert operators(same) == {"MatMul": 1, "Add": 1}


@pytest.mark.parametrize(("axis", "shape"), [(1, (4, 16)), (-1, (16,)), (2, (16,))])
def test_root_mean_square_becomes_a_norm_over_the_last_dimension_only(tmp_path, axis, shape):
    sizes = [value(name, ["batch", 4, 16]) for name in "xy"]
    nodes = [node("SimplifiedLayerNormalization", ["x", "g"], "y", axis=axis)]
    graph = graph_file(tmp_path, nodes, [sizes[0]], [sizes[1]], [weight("g", *shape)])
    normed, _ = operated(graph, tmp_path, "SimplifiedLayerNormToL2Norm")
    assert ("LpNormalization" in operators(normed)) == (axis != 1)
    row = {"x": np.random.default_rng(0).normal(size=(2, 4, 16)).astype(np.float32)}
    assert largest_difference(graph, normed, [row]) < 1e-4


def test_scale_of_one_number_counts_for_the_whole_width(tmp_path):
    nodes = [node("RMSNormalization", ["x", "g"], "y", axis=-1)]
    graph = graph_file(tmp_path, nodes, [X], [Y], [number("g", np.array([2], np.float32))], opset=23)
    normed, heard = operated(graph, tmp_path, "SimplifiedLayerNormToL2Norm")
    assert heard.facts["changes"] == {"SimplifiedLayerNormToL2Norm": 1}
    assert largest_difference(graph, normed, [ROW]) < 1e-4


def tables(name, *shapes):
    stored = [number(f"{name}_{place}", np.full(shape, place + 1, np.float32)) for place, shape in enumerate(shapes)]
    nodes = [node("Constant", [], f"{one.name}_out", value=one) for one in stored]
    results = [value(f"{one.name}_out", list(one.dims)) for one in stored]
    return helper.make_graph(nodes, name, [], results)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (((), ()), ((), ())),  # two numbers
        (((16, 16), (16, 16)), ((16, 16), (16, 16))),  # of one length
        (((16, 16), (16, 16)), ((32, 8), (32, 8))),  # of other angles
        (((16, 16), (8, 16)), ((32, 16), (8, 16))),  # no pair
    ],
)
def test_choice_that_is_none_between_positions_stays(tmp_path, one, other):
    picks = {"then_branch": tables("one", *one), "else_branch": tables("other", *other)}
    nodes = [
        node("If", ["flag"], ["p", "q"], **picks),
        *(node("ReduceSum", [name], f"s_{name}", keepdims=0) for name in "pq"),
        *(node("Mul", ["x", "s_p"], "a"), node("Add", ["a", "s_q"], "y")),
    ]
    graph = graph_file(tmp_path, nodes, [X, FLAG], [Y], [])
    same, heard = operated(graph, tmp_path, "RemoveRopeMultiCache")
    assert heard.facts["changes"] == {}
    assert largest_difference(graph, same, BOTH) == 0


@pytest.mark.parametrize("table", [np.cos, np.sin])
@pytest.mark.parametrize("factor", [1.0, 1.19])
def test_tables_of_positions_are_no_embeddings(tmp_path, table, factor):
    angles = np.arange(64)[:, None] * 10000.0 ** -(np.arange(8) / 8)
    stored = [number("positions", (factor * table(angles)).astype(np.float32)), weight("words", 64, 8)]
    nodes = [node("Gather", [name, "ids"], f"g_{name}") for name in ("positions", "words")]
    nodes.append(node("Mul", ["g_positions", "g_words"], "y"))
    ids = value("ids", ["batch", "length"], TensorProto.INT64)
    graph = graph_file(tmp_path, nodes, [ids], [value("y", ["batch", "length", 8])], stored)
    small, heard = operated(graph, tmp_path, "QuantizeEmbeddingInt8")
    assert heard.facts["changes"] == {"QuantizeEmbeddingInt8": 1}
    kept = {one.name: numpy_helper.to_array(one) for one in onnx.load(small).graph.initializer}
    assert np.array_equal(kept["positions"], numpy_helper.to_array(stored[0]))
    assert "words" not in kept


def test_embedding_whose_first_word_is_nothing_is_an_embedding(tmp_path):
    words = np.array(numpy_helper.to_array(weight("words", 64, 8)))
    words[0] = 0  # as padding is
    words[1, 0] = 0.5
    ids, picked = value("ids", ["batch"], TensorProto.INT64), value("y", ["batch", 8])
    graph = graph_file(tmp_path, [node("Gather", ["words", "ids"], "y")], [ids], [picked], [number("words", words)])
    _, heard = operated(graph, tmp_path, "QuantizeEmbeddingInt8")
    assert heard.facts["changes"] == {"QuantizeEmbeddingInt8": 1}


@pytest.mark.parametrize("opset", [13, 14, 17])
def test_embedding_and_head_are_tied_in_graphs_of_old_opsets(tmp_path, opset):
    table = weight("table", 40, 16)
    head = number("head", numpy_helper.to_array(table).T.copy())
    nodes = [node("Gather", ["table", "ids"], "e"), node("Tanh", ["e"], "t"), node("MatMul", ["t", "head"], "y")]
    ids = value("ids", ["batch", "length"], TensorProto.INT64)
    graph = graph_file(tmp_path, nodes, [ids], [value("y", ["batch", "length", 40])], [table, head], opset=opset)
    tied, heard = operated(graph, tmp_path, "TieWordEmbeddings")
    assert heard.facts["changes"] == {"TieWordEmbeddings": 1}
    assert largest_difference(graph, tied, [{"ids": np.array([[1, 2, 39], [0, 0, 5]])}]) < 1e-5


LEAST = float(np.finfo(np.float32).min)


@pytest.mark.parametrize(
    "nodes",
    [
        [node("Mul", ["x", "large"], "a"), node("Max", ["a", "least"], "y")],  # no score
        [node("Where", ["kept", "x", "least"], "y")],  # what is given is minus infinity
        [node("Where", ["kept", "x", "least"], "a"), node("LogSoftmax", ["a"], "y")],
        [node("Where", ["kept", "x", "least"], "a"), node("Softmax", ["a"], "b"), node("Max", ["b", "least"], "y")],
    ],
)
def test_constant_that_reaches_more_than_a_softmax_stays(tmp_path, nodes):
    stored = [number("least", np.float32(LEAST)), number("large", np.float32(1e6))]
    graph = graph_file(tmp_path, nodes, [X, value("kept", ["batch", 16], TensorProto.BOOL)], [Y], stored)
    same, heard = operated(graph, tmp_path, "ReplaceAttentionMaskValue")
    assert heard.facts["changes"] == {}
    rows = [ROW | {"kept": np.arange(32).reshape(2, 16) % 3 > 0}]
    assert largest_difference(graph, same, rows) == 0


def test_masks_of_sixteen_bits_and_in_lists_are_replaced(tmp_path):
    half = [value(name, ["batch", 2], TensorProto.FLOAT16) for name in "xy"]
    nodes = [
        node("Constant", [], "listed", value_floats=[0.0, -np.inf]),
        node("Cast", ["listed"], "cast", to=TensorProto.FLOAT16),
        *(node("Add", ["x", "cast"], "a"), node("Add", ["a", "mask"], "b"), node("Softmax", ["b"], "y")),
    ]
    mask = number("mask", np.array([0, -65504], np.float16))
    graph = graph_file(tmp_path, nodes, [half[0]], [half[1]], [mask])
    mended, heard = operated(graph, tmp_path, "ReplaceAttentionMaskValue", threshold=-60000)
    assert heard.facts["changes"] == {"ReplaceAttentionMaskValue": 2}
    assert largest_difference(graph, mended, [{"x": np.array([[1, 2]], np.float16)}]) == 0


def two_inputs(folder):
    nodes = [node("MatMul", ["x", "w"], "hidden"), node("Sub", ["hidden", "z"], "y")]
    return graph_file(folder, nodes, [X, value("z", ["batch", 16])], [Y], [weight("w", 16, 16)])


@pytest.mark.parametrize("taken", ["w", "hidden", "y", "z"])
def test_input_gets_no_name_that_is_taken(tmp_path, taken):
    with pytest.raises(ModelError, match=f"'x' cannot be called '{taken}': another value of the graph is"):
        operated(two_inputs(tmp_path), tmp_path, "RenameInputs", old_names=["x"], new_names=[taken])


def test_output_gets_no_name_that_is_taken(tmp_path):
    with pytest.raises(ModelError, match="'y' cannot be called 'hidden': another value of the graph is"):
        operated(two_inputs(tmp_path), tmp_path, "RenameOutputs", old_names=["y"], new_names=["hidden"])


def test_inputs_can_change_their_names_with_each_other(tmp_path):
    graph = two_inputs(tmp_path)
    other, _ = operated(graph, tmp_path, "RenameInputs", old_names=["x", "z"], new_names=["z", "x"])
    row = {"x": ROW["x"], "z": ROW["x"] + 1}
    turned = {"z": row["x"], "x": row["z"]}
    assert np.array_equal(outputs(graph, [row])[0]["y"], outputs(other, [turned])[0]["y"])


def test_name_of_no_input_is_told(tmp_path):
    _, heard = operated(two_inputs(tmp_path), tmp_path, "RenameInputs", old_names=["x", "zz"], new_names=["a", "b"])
    assert heard.warnings == ["the graph has no input 'zz' to be renamed; there are x, z"]


def test_graph_that_surgeons_left_has_unique_names(tmp_path):
    nodes = [node("Gemm", ["x", "w"], "y_MatMul"), node("Gemm", ["y_MatMul", "w", "b"], "y", transB=1)]
    graph = graph_file(tmp_path, nodes, [X], [Y], [weight("w", 16, 16), weight("b", 16)])
    apart, _ = operated(graph, tmp_path, "GemmToMatMulAdd")
    assert largest_difference(graph, apart, [ROW]) < 1e-5
    onnxruntime.InferenceSession(apart)
