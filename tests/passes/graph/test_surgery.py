"""Surgeons: the same outputs before and after, the places that were found, and none a second time."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from encoders import tiny_encoder, write_config
from graph_tools import changed, largest_difference, operators, outputs, rows_for
from graphs import N_TOKENS, WIDTH, text_classifier, value, weight
from olivine.config import load
from olivine.errors import ModelError
from olivine.exporting.surgery import SURGEONS, surgeon_of
from olivine.models.onnx_header import OnnxHeader
from olivine.workflow.plan import make_plan


def operated(graph, folder, *surgeries, **params):
    """The graph after the surgeons, and how often each found a place; they are run twice."""
    records = [{"surgeon": one} if isinstance(one, str) else one for one in surgeries]
    once, heard = changed("GraphSurgeries", graph, folder / "once", surgeries=records, **params)
    _, again = changed("GraphSurgeries", once, folder / "twice", surgeries=records)
    assert again.facts["changes"] == {}
    return once, heard.facts["changes"]


def node(kind, inputs, output, domain="", **attributes):
    outputs_ = output if isinstance(output, list) else [output]
    return helper.make_node(kind, inputs, outputs_, name=f"n_{outputs_[0]}", domain=domain, **attributes)


def graph_file(folder, nodes, inputs, outputs_, stored, **external):
    graph = helper.make_graph(nodes, "tiny", inputs, outputs_, stored)
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1), helper.make_opsetid("custom", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=9)
    (folder / "given").mkdir(exist_ok=True)
    onnx.save(model, folder / "given" / "model.onnx", **external)
    return folder / "given" / "model.onnx"


def number(name, array):
    return numpy_helper.from_array(np.asarray(array), name)


X = value("x", ["batch", 16])
Y = value("y", ["batch", 16])


@pytest.mark.parametrize("transposed", [0, 1])
@pytest.mark.parametrize("external", [{}, {"save_as_external_data": True, "location": "w.bin", "size_threshold": 0}])
def test_gemm_becomes_a_product_and_a_sum_and_one_gemm_again(tmp_path, transposed, external):
    stored = [weight("w", 16, 16), weight("b", 16)]
    graph = graph_file(tmp_path, [node("Gemm", ["x", "w", "b"], "y", transB=transposed)], [X], [Y], stored, **external)
    apart, counts = operated(graph, tmp_path, "GemmToMatMulAdd")
    assert counts == {"GemmToMatMulAdd": 1}
    assert operators(apart) == {"MatMul": 1, "Add": 1}
    assert largest_difference(graph, apart) < 1e-5
    joined, counts = operated(apart, tmp_path / "b", "MatMulAddToGemm")
    assert operators(joined) == {"Gemm": 1}
    assert largest_difference(graph, joined) < 1e-5


def test_scaled_gemm_stays(tmp_path):
    graph = graph_file(tmp_path, [node("Gemm", ["x", "w"], "y", alpha=0.5)], [X], [Y], [weight("w", 16, 16)])
    same, counts = operated(graph, tmp_path, "GemmToMatMulAdd")
    assert (operators(same), counts) == ({"Gemm": 1}, {})


def test_product_of_three_dimensions_becomes_a_gemm_of_two(tmp_path):
    nodes = [node("MatMul", ["x", "w"], "p"), node("Add", ["b", "p"], "y")]
    shapes = [value("x", [2, 3, 16])], [value("y", [2, 3, 8])]
    graph = graph_file(tmp_path, nodes, *shapes, [weight("w", 16, 8), weight("b", 8)])
    joined, _ = operated(graph, tmp_path, "MatMulAddToGemm")
    assert operators(joined) == {"Reshape": 2, "Gemm": 1}
    assert largest_difference(graph, joined) < 1e-5


def test_product_with_a_reciprocal_becomes_a_division(tmp_path):
    nodes = [node("Exp", ["x"], "e"), node("Reciprocal", ["e"], "r"), node("Mul", ["r", "x"], "y")]
    graph = graph_file(tmp_path, nodes, [X], [Y], [])
    divided, counts = operated(graph, tmp_path, "ReciprocalMulToDiv")
    assert operators(divided) == {"Exp": 1, "Div": 1}
    assert counts == {"ReciprocalMulToDiv": 1}
    assert largest_difference(graph, divided) < 1e-5


@pytest.mark.parametrize("root", ["Pow", "Sqrt"])
def test_length_of_a_vector_becomes_a_norm(tmp_path, root):
    nodes = [
        node("Pow", ["x", "two"], "q"),
        node("ReduceSum", ["q", "axes"], "s", keepdims=1),
        node("Sqrt", ["s"], "l") if root == "Sqrt" else node("Pow", ["s", "half"], "l"),
        node("Div", ["x", "l"], "y"),
    ]
    stored = [number("two", np.float32(2)), number("axes", np.array([-1])), number("half", np.float32(0.5))]
    graph = graph_file(tmp_path, nodes, [X], [Y], stored)
    normed, _ = operated(graph, tmp_path, "PowReduceSumPowDiv2LpNorm")
    assert operators(normed) == {"LpNormalization": 1}
    assert largest_difference(graph, normed) < 1e-6


def test_root_mean_square_becomes_a_norm_with_its_skip(tmp_path):
    nodes = [
        node("SimplifiedLayerNormalization", ["x", "g"], "n", axis=-1, epsilon=1e-6),
        node(
            "SkipSimplifiedLayerNormalization",
            ["n", "x", "g"],
            ["y", "", "", "s"],
            domain="com.microsoft",
            epsilon=1e-6,
        ),
    ]
    total = value("s", ["batch", 16])
    graph = graph_file(tmp_path, nodes, [X], [Y, total], [weight("g", 16)])
    normed, counts = operated(graph, tmp_path, "SimplifiedLayerNormToL2Norm")
    assert counts == {"SimplifiedLayerNormToL2Norm": 2}
    assert operators(normed) == {"LpNormalization": 2, "Mul": 2, "Add": 1}
    assert largest_difference(graph, normed) < 1e-4


def test_names_of_inputs_outputs_and_sizes_are_changed(tmp_path):
    graph = text_classifier(tmp_path / "given" / "model.onnx")
    other, counts = operated(
        graph,
        tmp_path,
        {"surgeon": "RenameInputs", "old_names": ["input_ids"], "new_names": ["ids"]},
        {"surgeon": "RenameOutputs", "old_names": ["logits"], "new_names": ["scores"]},
        {"surgeon": "RenameInputDims", "input_idx": 0, "dim_idx": 0, "dim_name": "rows"},
        {"surgeon": "RenameOutputDims", "output_idx": 0, "dim_idx": 0, "dim_name": "rows"},
    )
    assert counts == {"RenameInputs": 1, "RenameOutputs": 1, "RenameInputDims": 1, "RenameOutputDims": 1}
    signature = OnnxHeader.read(other).signature
    assert [spec.name for spec in signature.inputs] == ["ids", "attention_mask"]
    assert signature.inputs[0].shape == ("rows", "sequence")
    assert signature.outputs[0].name == "scores"
    row = rows_for(graph, 1)[0]
    renamed = {"ids": row["input_ids"], "attention_mask": row["attention_mask"]}
    assert np.array_equal(outputs(graph, [row])[0]["logits"], outputs(other, [renamed])[0]["scores"])


def test_what_is_computed_twice_is_computed_once(tmp_path):
    nodes = [node("Exp", ["x"], "a"), node("Exp", ["x"], "b"), node("Add", ["a", "b"], "y")]
    graph = graph_file(tmp_path, nodes, [X], [Y], [])
    once, counts = operated(graph, tmp_path, "DeduplicateNodes")
    assert (operators(once), counts) == ({"Exp": 1, "Add": 1}, {"DeduplicateNodes": 1})
    assert largest_difference(graph, once) == 0


def test_weights_of_inner_graphs_are_stored_once(tmp_path):
    def branch(name, factor):
        inner = [node("MatMul", ["x", f"w_{name}"], f"p_{name}"), node("Mul", [f"p_{name}", f"f_{name}"], f"z_{name}")]
        same = numpy_helper.from_array(numpy_helper.to_array(weight("w", 16, 16)), f"w_{name}")
        stored = [same, number(f"f_{name}", np.float32(factor))]
        return helper.make_graph(inner, name, [], [value(f"z_{name}", ["batch", 16])], stored)

    nodes = [node("If", ["flag"], "y", then_branch=branch("a", 1), else_branch=branch("b", 2))]
    graph = graph_file(tmp_path, nodes, [X, value("flag", [], TensorProto.BOOL)], [Y], [])
    shared, counts = operated(graph, tmp_path, "DeduplicateSubgraphInitializers")
    assert counts == {"DeduplicateSubgraphInitializers": 1}
    assert shared.stat().st_size < graph.stat().st_size - 900
    x = np.random.default_rng(0).normal(size=(2, 16)).astype(np.float32)
    assert largest_difference(graph, shared, [{"x": x, "flag": np.array(flag)} for flag in (True, False)]) < 1e-6


def test_copies_between_devices_are_dropped(tmp_path):
    nodes = [node("MemcpyFromHost", ["x"], "a"), node("Exp", ["a"], "b"), node("MemcpyToHost", ["b"], "y")]
    graph = graph_file(tmp_path, nodes, [X], [Y], [])
    plain, counts = operated(graph, tmp_path, "RemoveMemcpy")
    assert counts == {"RemoveMemcpy": 2}
    assert operators(plain) == {"Exp": 1, "Identity": 1}
    x = np.ones((2, 16), np.float32)
    assert np.allclose(outputs(plain, [{"x": x}])[0]["y"], np.exp(1))


def test_mask_constants_are_replaced_wherever_they_stand(tmp_path):
    least = np.float32(np.finfo(np.float32).min)
    inner = helper.make_tensor("v", TensorProto.FLOAT, [1], [float(least)])
    nodes = [
        node("Constant", [], "c", value=numpy_helper.from_array(least)),
        node("Where", ["kept", "zero", "c"], "m"),
        node("Shape", ["x"], "sizes"),
        node("ConstantOfShape", ["sizes"], "filled", value=inner),
        node("Where", ["kept", "zero", "filled"], "m2"),
        node("Add", ["x", "m"], "a"),
        node("Add", ["a", "m2"], "b"),
        node("Softmax", ["b"], "y", axis=-1),
    ]
    kept = value("kept", ["batch", 16], TensorProto.BOOL)
    graph = graph_file(tmp_path, nodes, [X, kept], [Y], [number("zero", np.float32(0))])
    mended, counts = operated(graph, tmp_path, "ReplaceAttentionMaskValue")
    assert counts == {"ReplaceAttentionMaskValue": 2}
    x = np.random.default_rng(0).normal(size=(2, 16)).astype(np.float32)
    rows = [{"x": x, "kept": np.arange(32).reshape(2, 16) % 3 > 0}]
    assert largest_difference(graph, mended, rows) == 0


def tied(folder, *, is_same=True):
    table = weight("table", N_TOKENS, WIDTH)
    head = numpy_helper.to_array(table).T.copy()
    head[0, 0] += 0 if is_same else 1
    nodes = [node("Gather", ["table", "ids"], "e"), node("Tanh", ["e"], "t"), node("MatMul", ["t", "head"], "y")]
    ids, logits = value("ids", ["batch", "sequence"], TensorProto.INT64), value("y", ["batch", "sequence", N_TOKENS])
    return graph_file(folder, nodes, [ids], [logits], [table, number("head", head)])


def test_embedding_and_head_that_are_equal_are_stored_once(tmp_path):
    graph = tied(tmp_path)
    once, counts = operated(graph, tmp_path, "TieWordEmbeddings")
    assert counts == {"TieWordEmbeddings": 1}
    assert once.stat().st_size < 0.7 * graph.stat().st_size
    assert largest_difference(graph, once) < 1e-5


def test_head_of_other_numbers_is_not_tied(tmp_path):
    _, counts = operated(tied(tmp_path, is_same=False), tmp_path, "TieWordEmbeddings")
    assert counts == {}


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bits", [4, 8])
def test_float_embedding_reads_the_quantized_head(tmp_path, bits, symmetric):
    graph = tied(tmp_path)
    params = {"bits": bits, "block_size": 16, "is_symmetric": symmetric, "nodes_to_include": ["n_y"]}
    quantized, _ = changed("OnnxBlockWiseRtnQuantization", graph, tmp_path / "q", **params)
    shared, counts = operated(quantized, tmp_path, "ShareEmbeddingLmHead")
    assert counts == {"ShareEmbeddingLmHead": 1}
    assert operators(shared)["GatherBlockQuantized"] == 1
    assert "table" not in {one.name for one in onnx.load(shared).graph.initializer}
    assert largest_difference(quantized, shared) < (0.6 if bits == 4 else 0.1)


def test_embedding_in_8_bits_is_within_half_a_step_of_each_word(tmp_path):
    graph = tied(tmp_path)
    small, counts = operated(graph, tmp_path, "QuantizeEmbeddingInt8")
    assert counts == {"QuantizeEmbeddingInt8": 1}
    before = numpy_helper.to_array(onnx.load(graph).graph.initializer[0])
    stored = {one.name: numpy_helper.to_array(one) for one in onnx.load(small).graph.initializer}
    scales = stored["table_scale"]
    assert stored["table_int8"].dtype == np.int8
    assert scales == pytest.approx(np.abs(before).max(axis=1, keepdims=True) / 127)
    assert (np.abs(stored["table_int8"] * scales - before) <= 0.501 * scales).all()
    assert largest_difference(graph, small) < 0.1


def blocks(groups, folder):
    nodes = [
        node("MatMulNBits", ["x", "w", "s", "", "g"], "y", domain="com.microsoft", K=32, N=16, bits=4, block_size=16)
    ]
    random = np.random.default_rng(0)
    stored = [
        number("w", random.integers(0, 255, (16, 2, 8), np.uint8)),
        number("s", random.random((32,), np.float32)),
        number("g", np.asarray(groups, np.int32)),
    ]
    return graph_file(folder, nodes, [value("x", ["batch", 32])], [Y], stored)


def test_group_numbers_that_count_up_are_dropped_and_others_stay(tmp_path):
    graph = blocks([0] * 16 + [1] * 16, tmp_path)
    plain, counts = operated(graph, tmp_path, "RemoveGidxFromMatMulNBits")
    assert counts == {"RemoveGidxFromMatMulNBits": 1}
    assert largest_difference(graph, plain) < 1e-5
    _, counts = operated(blocks([0, 1] * 16, tmp_path), tmp_path / "b", "RemoveGidxFromMatMulNBits")
    assert counts == {}


@pytest.mark.parametrize("large", [True, False])
def test_one_table_of_positions_is_kept(tmp_path, large):
    def branch(name, n_rows):
        tables = [weight(f"{kind}_{name}", n_rows, 8, seed=n_rows) for kind in ("cos", "sin")]
        constants = [node("Constant", [], f"{one.name}_out", value=one) for one in tables]
        return helper.make_graph(constants, name, [], [value(f"{one.name}_out", [n_rows, 8]) for one in tables])

    picks = {"then_branch": branch("large", 32), "else_branch": branch("small", 16)}
    nodes = [
        node("If", ["flag"], ["cos", "sin"], **picks),
        node("Gather", ["cos", "at"], "a"),
        node("Gather", ["sin", "at"], "b"),
        node("Add", ["a", "b"], "y"),
    ]
    inputs = [value("flag", [], TensorProto.BOOL), value("at", ["batch"], TensorProto.INT64)]
    graph = graph_file(tmp_path, nodes, inputs, [value("y", ["batch", 8])], [])
    kept, counts = operated(graph, tmp_path, {"surgeon": "RemoveRopeMultiCache", "use_large_cache": large})
    assert counts == {"RemoveRopeMultiCache": 1}
    assert "If" not in operators(kept)
    assert largest_difference(graph, kept, [{"flag": np.array(large), "at": np.array([0, 5, 15])}]) == 0


def attending(folder):
    """GroupQueryAttention whose lengths are counted from a mask, as the model builder has it."""
    nodes = [
        node("ReduceSum", ["attention_mask", "along"], "n", keepdims=1),
        node("Sub", ["n", "one"], "less"),
        node("Cast", ["less"], "lengths", to=TensorProto.INT32),
        node("Shape", ["attention_mask"], "shape"),
        node("Gather", ["shape", "last"], "width"),
        node("Cast", ["width"], "total", to=TensorProto.INT32),
        node(
            "GroupQueryAttention",
            ["q", "k", "v", "past_k", "past_v", "lengths", "total"],
            ["y", "present_k", "present_v"],
            domain="com.microsoft",
            num_heads=2,
            kv_num_heads=2,
        ),
    ]
    rows = [value(name, [1, "new", 16]) for name in "qkv"]
    caches = [value(name, [1, 2, "past", 8]) for name in ("past_k", "past_v")]
    mask = value("attention_mask", [1, "all"], TensorProto.INT64)
    stored = [number("along", np.array([1])), number("one", np.array([[1]])), number("last", np.array(1))]
    presents = [value(name, [1, 2, "all", 8]) for name in ("present_k", "present_v")]
    return graph_file(folder, nodes, [*rows, *caches, mask], [value("y", [1, "new", 16]), *presents], stored)


def test_lengths_are_inputs_in_place_of_a_mask(tmp_path):
    graph = attending(tmp_path)
    direct, counts = operated(graph, tmp_path, "AttentionMaskToSequenceLengths")
    assert counts == {"AttentionMaskToSequenceLengths": 1}
    names = [spec.name for spec in OnnxHeader.read(direct).signature.inputs]
    assert "attention_mask" not in names
    assert names[-2:] == ["past_seq_len", "total_seq_len"]
    random = np.random.default_rng(0)
    row = {name: random.normal(size=(1, 4, 16)).astype(np.float32) for name in "qkv"}
    row |= {name: np.zeros((1, 2, 0, 8), np.float32) for name in ("past_k", "past_v")}
    row |= {
        "attention_mask": np.ones((1, 4), np.int64),
        "past_seq_len": np.array([[3]], np.int32),
        "total_seq_len": np.array([4], np.int32),
    }
    assert largest_difference(graph, direct, [row]) == 0


def test_packed_attention_becomes_a_loop_over_the_sequences(tmp_path):
    shape = [1, 2, "tokens", 8]
    nodes = [node("PackedAttention", ["q", "k", "v", "bounds"], "y", domain="custom", num_heads=2, scale=0.25)]
    inputs = [*(value(name, shape) for name in "qkv"), value("bounds", ["n"], TensorProto.INT32)]
    graph = graph_file(tmp_path, nodes, inputs, [value("y", [1, "tokens", 2, 8])], [])
    from olivine.exporting.graph_files import Saving, open_graph, save_graph

    model = open_graph(graph)
    surgeon = surgeon_of({"surgeon": "PackedAttentionToLoopMHA"})
    assert surgeon.operate(model) == 1
    assert surgeon.operate(model) == 0
    save_graph(model, tmp_path / "loop.onnx", Saving())
    random = np.random.default_rng(0)
    q, k, v = (random.normal(size=(1, 2, 7, 8)).astype(np.float32) for _ in range(3))
    row = {"q": q, "k": k, "v": v, "bounds": np.array([0, 3, 7], np.int32)}
    (given,) = outputs(tmp_path / "loop.onnx", [row])[0].values()
    for start, stop in ((0, 3), (3, 7)):
        scores = np.einsum("bhtd,bhsd->bhts", q[:, :, start:stop], k[:, :, start:stop]) * 0.25
        shares = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
        expected = np.einsum("bhts,bhsd->bthd", shares, v[:, :, start:stop])
        assert np.abs(given[:, start:stop] - expected).max() < 1e-5


def test_surgeon_without_a_place_is_warned_of_and_fails_where_that_is_strict(tmp_path):
    graph = text_classifier(tmp_path / "given" / "model.onnx")
    _, heard = changed("GraphSurgeries", graph, tmp_path, surgeries={"surgeon": "RemoveMemcpy"})
    assert heard.warnings == ["no surgeon found a place in the graph"]
    with pytest.raises(ModelError, match="the surgeon RemoveMemcpy finds no place in the graph, and strict is set"):
        changed("GraphSurgeries", graph, tmp_path / "b", surgeries=[{"surgeon": "RemoveMemcpy"}], strict=True)


def test_unknown_surgeons_and_params_are_problems_of_the_plan(tmp_path):
    tiny_encoder(tmp_path / "model")
    surgeries = [{"surgeon": "RenameInput"}, {"surgeon": "RenameInputs", "old_names": ["a"], "new_names": []}]
    chain = {"c": {"type": "OnnxConversion"}, "s": {"type": "GraphSurgeries", "surgeries": surgeries}}
    told = [problem.message for problem in make_plan(load(write_config(tmp_path, tmp_path / "model", chain))).problems]
    assert told[0] == "there is no surgeon 'RenameInput'; did you mean 'RenameInputs'?."
    assert "RenameInputs: its params: value error, old_names and new_names belong together" in told[1]


def test_nineteen_surgeons_of_configs_are_there():
    names = (
        *("TieWordEmbeddings", "GemmToMatMulAdd", "MatMulAddToGemm", "AttentionMaskToSequenceLengths"),
        *("RemoveRopeMultiCache", "ReplaceAttentionMaskValue", "SimplifiedLayerNormToL2Norm", "RenameInputs"),
        *("RenameInputDims", "RenameOutputDims", "PackedAttentionToLoopMHA", "ReciprocalMulToDiv"),
        *("RemoveGidxFromMatMulNBits", "DeduplicateNodes", "DeduplicateSubgraphInitializers", "ShareEmbeddingLmHead"),
        *("QuantizeEmbeddingInt8", "RemoveMemcpy", "PowReduceSumPowDiv2LpNorm"),
    )
    assert {name.lower() for name in names} <= set(SURGEONS)


def shapes_between(path):
    graph = onnx.load(path).graph
    return {one.name for one in graph.value_info} - {one.name for one in graph.initializer}


def test_shapes_between_are_written_and_forgotten(tmp_path):
    nodes = [node("MatMul", ["x", "w"], "p"), node("Relu", ["p"], "r"), node("MatMul", ["r", "w"], "y")]
    graph = graph_file(tmp_path, nodes, [X], [Y], [weight("w", 16, 16)])
    assert shapes_between(graph) == set()
    told, counts = operated(graph, tmp_path, "InferShapes")
    assert (shapes_between(told), counts) == ({"p", "r"}, {"InferShapes": 2})
    assert largest_difference(graph, told) == 0
    plain, counts = operated(told, tmp_path / "b", "RemoveShapes")
    assert (shapes_between(plain), counts) == (set(), {"RemoveShapes": 2})
    assert largest_difference(graph, plain) == 0


def test_weights_that_are_inputs_are_weights_alone(tmp_path):
    nodes = [node("MatMul", ["x", "w"], "y")]
    graph = graph_file(tmp_path, nodes, [X, value("w", [16, 16])], [Y], [weight("w", 16, 16)])
    plain, counts = operated(graph, tmp_path, "RemoveInitializerFromInputs")
    assert [one.name for one in onnx.load(plain).graph.input] == ["x"]
    assert counts == {"RemoveInitializerFromInputs": 1}
    assert largest_difference(graph, plain) == 0


def test_what_named_nodes_compute_is_given_too(tmp_path):
    nodes = [node("Relu", ["x"], "r"), node("Exp", ["r"], "y")]
    graph = graph_file(tmp_path, nodes, [X], [Y], [])
    asked = {"surgeon": "ExposeOutputs", "names": ["n_r", "n_z"]}
    given, heard = changed("GraphSurgeries", graph, tmp_path / "a", surgeries=[asked])
    assert "the graph has no node 'n_z' whose outputs could be given" in heard.warnings
    (row,) = rows_for(given, 1)
    told = outputs(given, [row])[0]
    assert list(told) == ["y", "r"]
    assert np.array_equal(told["r"], np.maximum(row["x"], 0))
    _, again = changed("GraphSurgeries", given, tmp_path / "b", surgeries=[asked])
    assert again.facts["changes"] == {}


@pytest.mark.parametrize("dtype", [TensorProto.FLOAT, TensorProto.FLOAT16])
def test_erf_is_near_a_tanh_and_quick_gelu_a_product_with_its_sigmoid(tmp_path, dtype):
    given = [value("x", ["batch", 16], dtype)], [value("y", ["batch", 16], dtype)]
    graph = graph_file(tmp_path, [node("Erf", ["x"], "y")], *given, [])
    near, _ = operated(graph, tmp_path, "ReplaceErfWithTanh")
    assert operators(near) == {"Mul": 1, "Tanh": 1}
    assert 0 < largest_difference(graph, near) < 0.03
    (tmp_path / "b").mkdir()
    quick = node("QuickGelu", ["x"], "y", domain="com.microsoft", alpha=1.5)
    graph = graph_file(tmp_path / "b", [quick], [X], [Y], [])
    plain, counts = operated(graph, tmp_path / "b", "QuickGeluToSigmoid")
    assert (operators(plain), counts) == ({"Mul": 2, "Sigmoid": 1}, {"QuickGeluToSigmoid": 1})
    assert largest_difference(graph, plain) < 1e-5


@pytest.fixture
def quantized(tmp_path):
    """x -> 8 bits -> float -> Relu -> 8 bits -> float = y, and a weight in 8 bits."""
    nodes = [
        node("QuantizeLinear", ["x", "s", "z"], "q"),
        node("DequantizeLinear", ["q", "s", "z"], "d"),
        node("DequantizeLinear", ["w", "s", "z"], "f"),
        node("MatMul", ["d", "f"], "m"),
        node("QuantizeLinear", ["m", "s", "z"], "p"),
        node("DequantizeLinear", ["p", "s", "z"], "y"),
    ]
    integers = np.random.default_rng(0).integers(118, 139, (16, 16), np.uint8)
    stored = [number("s", np.float32(0.01)), number("z", np.uint8(128)), number("w", integers)]
    return graph_file(tmp_path, nodes, [X], [Y], stored)


def test_activations_are_floats_again_and_weights_stay_in_integers(quantized, tmp_path):
    plain, counts = operated(quantized, tmp_path, "RemoveQDQ")
    assert counts == {"RemoveQDQ": 2}
    assert operators(plain) == {"DequantizeLinear": 1, "MatMul": 1, "Identity": 1}
    (row,) = rows_for(plain, 1)
    integers = numpy_helper.to_array(next(one for one in onnx.load(plain).graph.initializer if one.name == "w"))
    # onnxruntime itself may round what meets a weight of 8 bits
    weights = (integers.astype(np.float32) - 128) * np.float32(0.01)
    assert np.abs(outputs(plain, [row])[0]["y"] - row["x"] @ weights).max() < 5e-3
    kept, _ = changed(
        "GraphSurgeries",
        quantized,
        tmp_path / "k",
        surgeries=[{"surgeon": "RemoveQDQ", "keep_clip_after_inputs": True}],
    )
    expected = np.clip(row["x"], -1.28, 1.27) @ weights
    assert np.abs(outputs(kept, [row])[0]["y"] - expected).max() < 5e-3
    clipped, counts = operated(quantized, tmp_path / "c", "QDQToClip")
    assert (operators(clipped)["Clip"], counts) == (2, {"QDQToClip": 2})
    assert np.abs(outputs(clipped, [row])[0]["y"] - np.clip(expected, -1.28, 1.27)).max() < 5e-3
