"""Quantizing a graph by hand-made graphs: inner graphs, shared weights, nodes without names; oracles in numpy."""

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from olivine.errors import ModelError
from olivine.models.onnx_files import onnx_model
from olivine.passes import Context, Machine, passes
from olivine.work import Silent

MACHINE = Machine("cpu", "CPUExecutionProvider", 8 * 10**9, 10**12, 2)
WIDTH = 32


class Kept(Silent):
    def __init__(self):
        self.warnings, self.facts = [], {}

    def warn(self, message):
        self.warnings.append(message)

    def record(self, **facts):
        self.facts |= facts


def value(name, shape=("n", WIDTH), dtype=TensorProto.FLOAT):
    return helper.make_tensor_value_info(name, dtype, shape)


def weight(name, *shape, seed=0, dtype="float32"):
    shape = shape or (WIDTH, WIDTH)
    array = np.random.default_rng([seed, *name.encode()]).normal(size=shape) / np.sqrt(shape[0])
    return numpy_helper.from_array(array.astype(dtype), name)


def product(left, right, out, name=""):
    return helper.make_node("MatMul", [left, right], [out], name=name)


def write(folder, nodes, outputs, stored, inputs=None, **external):
    folder.mkdir(exist_ok=True)
    graph = helper.make_graph(nodes, "g", inputs or [value("x")], outputs, stored)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.checker.check_model(model)
    onnx.save(model, folder / "graph.onnx", **external)
    return folder / "graph.onnx"


def quantize(path, output, report=None, **params):
    output.mkdir()
    plugin = passes.classes["quantize_onnx"]
    step = plugin(plugin.Params(**{"accuracy_level": 0, **params}))
    model = onnx_model(path)
    step.requires(model)
    result = step.run(model, Context(output, output.parent / "scratch", MACHINE, report or Kept()))
    step.ensures(result)
    return output / path.name


def ran(path, **inputs):
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return session.run(None, inputs)


def nodes_of(graph):
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from nodes_of(attribute.g)


def rounded(matrix, bits=4, block=32):
    """A weight [K, N] as it is stored, symmetric: the formula of onnxruntime's quantizer, a block at a time."""
    half = 2 ** (bits - 1)
    blocks = matrix.T.reshape(matrix.shape[1], -1, block)
    extreme = np.take_along_axis(blocks, np.abs(blocks).argmax(-1, keepdims=True), -1)
    scale = (extreme / -half).astype(np.float32)
    codes = np.clip(np.round(np.divide(blocks, scale, where=scale != 0, out=np.zeros_like(blocks))), -half, half - 1)
    return (codes * scale).reshape(matrix.shape[1], -1).T.astype(np.float32)


def float_of(path):
    """The quantized graph with its products undone: every weight as numpy dequantizes what the file holds."""
    model = onnx.load(path)
    stored = {one.name: numpy_helper.to_array(one) for one in model.graph.initializer}
    found = {}
    for node in nodes_of(model.graph):
        if node.op_type == "MatMulNBits":
            sizes = {one.name: one.i for one in node.attribute}
            packed, scales = stored[node.input[1]], stored[node.input[2]]
            n, k, bits = sizes["N"], sizes["K"], sizes["bits"]
            codes = packed if bits == 8 else np.stack([packed & 15, packed >> 4], -1)
            codes = codes.reshape(n, -1, sizes["block_size"]).astype(np.float32)
            zeros = np.full(scales.shape, 2 ** (bits - 1), np.float32)
            if len(node.input) > 3:
                packed = stored[node.input[3]]
                both = packed if bits == 8 else np.stack([packed & 15, packed >> 4], -1).reshape(n, -1)
                zeros = both[:, : scales.shape[1]].astype(np.float32)
            found[node.output[0]] = ((codes - zeros[..., None]) * scales[..., None]).reshape(n, -1)[:, :k].T
    return found


@pytest.mark.parametrize("bits", [4, 8])
def test_stored_weights_are_those_of_the_formula_and_the_graph_computes_with_them(bits, tmp_path):
    stored = weight("w", 64, 48)
    path = write(tmp_path / "in", [product("x", "w", "y")], [value("y", ("n", 48))], [stored], [value("x", ("n", 64))])
    level = {"accuracy_level": 4} if bits == 8 else {}
    result = quantize(path, tmp_path / "out", bits=bits, **level)
    expected = rounded(numpy_helper.to_array(stored), bits)
    np.testing.assert_allclose(float_of(result)["y"], expected, atol=1e-6)
    x = np.random.default_rng(1).normal(size=(3, 64)).astype(np.float32)
    tolerance = 1e-4 if bits == 4 else 5e-2  # level 4 rounds the activations too
    np.testing.assert_allclose(ran(result, x=x)[0], x @ expected, atol=tolerance)


@pytest.mark.parametrize("flipped", [0, 1])
@pytest.mark.parametrize("bias", [(), (48,), (1, 48), (3, 1), (3, 48)])
def test_gemm_becomes_a_product_and_the_sum_of_its_bias(flipped, bias, tmp_path):
    shape = (48, 64) if flipped else (64, 48)
    stored = [weight("w", *shape), *([weight("b", *bias)] if bias else [])]
    node = helper.make_node("Gemm", ["x", "w", *(["b"] if bias else [])], ["y"], transB=flipped)
    path = write(tmp_path / "in", [node], [value("y", (3, 48))], stored, [value("x", (3, 64))])
    result = quantize(path, tmp_path / "out")
    kinds = [one.op_type for one in onnx.load(result).graph.node]
    assert kinds == (["MatMulNBits", "Add"] if bias else ["MatMulNBits"])
    matrix = numpy_helper.to_array(stored[0])
    expected = rounded(matrix.T if flipped else matrix)
    np.testing.assert_allclose(float_of(result)["y_product" if bias else "y"], expected, atol=1e-6)
    x = np.random.default_rng(1).normal(size=(3, 64)).astype(np.float32)
    added = numpy_helper.to_array(stored[1]) if bias else 0
    np.testing.assert_allclose(ran(result, x=x)[0], x @ expected + added, atol=1e-4)


def test_gemms_of_other_forms_stay_and_a_weight_is_quantized_for_those_who_read_it_alike(tmp_path):
    def gemm(left, out, **attributes):
        return helper.make_node("Gemm", [left, "w", "b"], [out], **attributes)

    nodes = [
        *(gemm("x", "a", transB=1), gemm("a", "c", transB=0), gemm("c", "d", transB=1)),
        *(gemm("d", "e", alpha=0.5), gemm("e", "f", beta=2.0), gemm("f", "y", transA=1)),
    ]
    stored = [weight("w"), weight("b", WIDTH)]
    outputs, inputs = [value("y", (WIDTH, WIDTH))], [value("x", (WIDTH, WIDTH))]
    result = quantize(write(tmp_path / "in", nodes, outputs, stored, inputs), tmp_path / "out")
    kinds = [node.op_type for node in onnx.load(result).graph.node]
    assert kinds == ["MatMulNBits", "Add", "Gemm", "MatMulNBits", "Add", "Gemm", "Gemm", "Gemm"]
    matrix, bias = map(numpy_helper.to_array, stored)
    near = rounded(matrix.T)
    x = np.random.default_rng(1).normal(size=(WIDTH, WIDTH)).astype(np.float32)
    d = ((x @ near + bias) @ matrix + bias) @ near + bias
    expected = (0.5 * d @ matrix + bias) @ matrix + 2 * bias
    np.testing.assert_allclose(ran(result, x=x)[0], expected.T @ matrix + bias, rtol=1e-3, atol=1e-3)


def branches(**extra):
    """An If whose branches use an outer weight, and one of them its own of a name that the other has for a value."""
    yes = helper.make_graph(
        [product("x", "outer", "a"), product("a", "own", "yes_out")], "yes", [], [value("yes_out")], [weight("own")]
    )
    no = helper.make_graph(
        [product("x", "outer", "own_"), helper.make_node("Relu", ["own_"], ["no_out"])], "no", [], [value("no_out")]
    )
    return helper.make_node("If", ["flag"], ["y"], then_branch=yes, else_branch=no, **extra)


def test_branches_of_an_if_are_quantized_with_the_weight_outside_stored_once(tmp_path):
    inputs = [value("x"), value("flag", (), TensorProto.BOOL)]
    path = write(tmp_path / "in", [branches()], [value("y")], [weight("outer")], inputs)
    report = Kept()
    result = quantize(path, tmp_path / "out", report)
    model = onnx.load(result)
    assert [node.op_type for node in nodes_of(model.graph)].count("MatMulNBits") == 3
    assert "MatMul" not in {node.op_type for node in nodes_of(model.graph)}
    assert len(model.graph.initializer) == 4  # codes and scales of two weights, no float weight any more
    assert report.facts["summary"] == "2 weights of 3 products in 4 bits"
    outer, own = (rounded(numpy_helper.to_array(weight(name))) for name in ("outer", "own"))
    x = np.random.default_rng(1).normal(size=(2, WIDTH)).astype(np.float32)
    np.testing.assert_allclose(ran(result, x=x, flag=np.array(True))[0], x @ outer @ own, atol=1e-4)
    np.testing.assert_allclose(ran(result, x=x, flag=np.array(False))[0], np.maximum(x @ outer, 0), atol=1e-4)


def loop(stored=()):
    body = helper.make_graph(
        [product("state", "outer", "next", "step"), helper.make_node("Identity", ["going"], ["goes"])],
        "body",
        [value("i", (), TensorProto.INT64), value("going", (), TensorProto.BOOL), value("state")],
        [value("goes", (), TensorProto.BOOL), value("next")],
        stored,
    )
    return helper.make_node("Loop", ["times", "", "x"], ["y"], body=body)


def test_body_of_a_loop_and_the_graph_outside_share_one_quantized_weight(tmp_path):
    stored = [weight("outer"), numpy_helper.from_array(np.array(3), "times")]
    nodes = [loop(), product("y", "outer", "z", "step")]  # two nodes of one name, in two graphs
    result = quantize(write(tmp_path / "in", nodes, [value("z")], stored), tmp_path / "out")
    assert {one.name for one in onnx.load(result).graph.initializer} == {"outer_Q4", "outer_scales", "times"}
    matrix = rounded(numpy_helper.to_array(stored[0]))
    x = np.random.default_rng(1).normal(size=(2, WIDTH)).astype(np.float32)
    np.testing.assert_allclose(ran(result, x=x)[0], x @ np.linalg.matrix_power(matrix, 4), atol=1e-3)


def test_weight_that_an_inner_graph_uses_as_it_is_stays(tmp_path):
    add = helper.make_graph([helper.make_node("Add", ["x", "outer"], ["sum"])], "add", [], [value("sum")])
    keep = helper.make_graph([helper.make_node("Identity", ["x"], ["same"])], "keep", [], [value("same")])
    nodes = [helper.make_node("If", ["flag"], ["y"], then_branch=add, else_branch=keep), product("y", "outer", "z")]
    inputs = [value("x", (WIDTH, WIDTH)), value("flag", (), TensorProto.BOOL)]
    path = write(tmp_path / "in", nodes, [value("z")], [weight("outer")], inputs)
    result = quantize(path, tmp_path / "out")
    matrix = numpy_helper.to_array(weight("outer"))
    x = np.random.default_rng(1).normal(size=(WIDTH, WIDTH)).astype(np.float32)
    np.testing.assert_allclose(ran(result, x=x, flag=np.array(True))[0], (x + matrix) @ rounded(matrix), atol=1e-4)


def test_node_that_is_left_out_keeps_the_weight_that_another_has_quantized(tmp_path):
    nodes = [product("x", "w", "a", "first"), product("a", "w", "b"), product("b", "w", "y", "last")]
    path = write(tmp_path / "in", nodes, [value("y")], [weight("w")])
    result = quantize(path, tmp_path / "out", nodes_to_exclude=["b"])  # a node without a name goes by its output
    kinds = {node.output[0]: node.op_type for node in onnx.load(result).graph.node}
    assert kinds == {"a": "MatMulNBits", "b": "MatMul", "y": "MatMulNBits"}
    matrix = numpy_helper.to_array(weight("w"))
    x = np.random.default_rng(1).normal(size=(2, WIDTH)).astype(np.float32)
    np.testing.assert_allclose(ran(result, x=x)[0], x @ rounded(matrix) @ matrix @ rounded(matrix), atol=1e-4)
    only = quantize(path, tmp_path / "only", nodes_to_include=["last"])
    assert [node.op_type for node in onnx.load(only).graph.node] == ["MatMul", "MatMul", "MatMulNBits"]
    with pytest.raises(ModelError, match="has no node 'second'"):
        quantize(path, tmp_path / "none", nodes_to_exclude=["second"])


def test_names_that_the_graph_already_has_are_left_to_it(tmp_path):
    taken = [weight("w"), weight("w_Q4"), weight("w_scales", 1, WIDTH)]
    nodes = [product("x", "w", "a"), product("a", "w_Q4", "b"), helper.make_node("Add", ["b", "w_scales"], ["y"])]
    result = quantize(write(tmp_path / "in", nodes, [value("y")], taken), tmp_path / "out")
    first, second, last = (numpy_helper.to_array(one) for one in taken)
    x = np.random.default_rng(1).normal(size=(2, WIDTH)).astype(np.float32)
    np.testing.assert_allclose(ran(result, x=x)[0], x @ rounded(first) @ rounded(second) + last, atol=1e-4)


def test_constants_inputs_with_a_default_and_external_weights_are_found(tmp_path):
    constant = helper.make_node("Constant", [], ["c"], value=weight("c"))
    nodes = [constant, product("x", "listed", "a"), product("a", "c", "y")]
    inputs = [value("x"), value("listed", (WIDTH, WIDTH))]  # old exporters list weights among the inputs
    path = write(
        tmp_path / "in", nodes, [value("y")], [weight("listed")], inputs,
        save_as_external_data=True, location="all.bin", size_threshold=0,
    )  # fmt: skip
    (path.parent / "notes.txt").write_text("mine")
    (path.parent / "config.json").write_text("{}")
    result = quantize(path, tmp_path / "out")
    assert sorted(file.name for file in result.parent.iterdir()) == ["config.json", "graph.onnx", "graph.onnx.data"]
    listed, own = (rounded(numpy_helper.to_array(weight(name))) for name in ("listed", "c"))
    x = np.random.default_rng(1).normal(size=(2, WIDTH)).astype(np.float32)
    np.testing.assert_allclose(ran(result, x=x)[0], x @ listed @ own, atol=1e-4)


def test_model_in_the_hubs_cache_is_links_and_is_read(tmp_path):
    snapshot, blobs = tmp_path / "models--a--b" / "snapshots" / "0123", tmp_path / "models--a--b" / "blobs"
    snapshot.mkdir(parents=True)
    settings = {"save_as_external_data": True, "location": "w.bin", "size_threshold": 0}
    path = write(blobs, [product("x", "w", "y")], [value("y")], [weight("w")], **settings)
    for name in (path.name, "w.bin"):
        (snapshot / name).symlink_to(blobs / name)
    result = quantize(snapshot / path.name, tmp_path / "out")
    np.testing.assert_allclose(float_of(result)["y"], rounded(numpy_helper.to_array(weight("w"))), atol=1e-6)


@pytest.mark.parametrize("width", [10, 16, 90])
@pytest.mark.parametrize("params", [{}, {"is_symmetric": False}, {"algorithm": "search"}, {"accuracy_level": 4}])
@pytest.mark.parametrize("bits", [4, 8])
def test_last_block_of_a_row_is_filled_with_zeros(width, params, bits, tmp_path):
    params = params | ({"accuracy_level": 4} if bits == 8 else {})
    stored = [weight("w", width, 48), weight("b", 48)]
    node = helper.make_node("Gemm", ["x", "w", "b"], ["y"])
    path = write(tmp_path / "in", [node], [value("y", ("n", 48))], stored, [value("x", ("n", width))])
    result = quantize(path, tmp_path / "out", bits=bits, **params)
    matrix, bias = map(numpy_helper.to_array, stored)
    near = float_of(result)["y_product"]
    if not params.keys() & {"is_symmetric", "algorithm"}:
        filled = np.pad(matrix, ((0, -width % 32), (0, 0)))
        np.testing.assert_allclose(near, rounded(filled, bits)[:width], atol=1e-6)
    assert np.abs(near - matrix).max() < np.abs(matrix).max() * 2.5 ** (2 - bits)
    for n_rows in (1, 3):
        x = np.random.default_rng(n_rows).normal(size=(n_rows, width)).astype(np.float32)
        tolerance = 5e-2 if "accuracy_level" in params else 1e-4  # level 4 rounds the activations too
        np.testing.assert_allclose(ran(result, x=x)[0], x @ near + bias, atol=tolerance)


def test_weights_that_blocks_make_no_smaller_stay_and_are_told(tmp_path):
    stored = [weight("w", 4, WIDTH), weight("v")]
    nodes = [product("x", "w", "a"), product("a", "v", "y")]
    path = write(tmp_path / "in", nodes, [value("y")], stored, [value("x", ("n", 4))])
    report = Kept()
    quantize(path, tmp_path / "out", report)
    no_smaller = "blocks of 32 would make their 4 inputs no smaller"
    assert report.warnings == [f"1 of 2 weights stay as they are, 'w' first: {no_smaller}"]
    with pytest.raises(ModelError, match=f"no weight that is worth quantizing: {no_smaller}"):
        quantize(path, tmp_path / "none", nodes_to_exclude=["y"])


@st.composite
def graphs(draw):
    """Up to five steps on x, each with one of three weights, outside, in a branch or in a loop; some without names."""
    nodes, at = [], "x"
    for index in range(draw(st.integers(1, 5))):
        name, out = draw(st.sampled_from(["w", "v", "u"])), f"t{index}"
        label = draw(st.sampled_from(["", f"node{index}", f"node{index - 1}_Q4"]))
        kind = draw(st.sampled_from(["product", "sum", "if", "loop"]))
        if kind == "product":
            nodes.append(product(at, name, out, label))
        elif kind == "sum":
            nodes.append(helper.make_node("Add", [at, name], [out], name=label))
        elif kind == "if":
            inner = [weight("inner", seed=index)] if draw(st.booleans()) else []
            yes = helper.make_graph(
                [product(at, "inner" if inner else name, f"yes{index}", "same")], "a", [], [value(f"yes{index}")], inner
            )
            no = helper.make_graph([product(at, name, f"no{index}")], "b", [], [value(f"no{index}")])
            nodes.append(helper.make_node("If", ["flag"], [out], then_branch=yes, else_branch=no))
        else:
            body = helper.make_graph(
                [product(f"s{index}", name, f"n{index}"), helper.make_node("Identity", [f"g{index}"], [f"h{index}"])],
                "body",
                [
                    *(value(f"i{index}", (), TensorProto.INT64), value(f"g{index}", (), TensorProto.BOOL)),
                    value(f"s{index}", (WIDTH, WIDTH)),
                ],
                [value(f"h{index}", (), TensorProto.BOOL), value(f"n{index}", (WIDTH, WIDTH))],
            )
            nodes.append(helper.make_node("Loop", ["times", "", at], [out], body=body))
        at = out
    return nodes, at


def with_rounded(graph):
    """The same graph with every product's weight rounded in place, beside the weight that sums use."""
    known = {one.name: one for one in graph.initializer}
    rounded_names = set()
    for node in nodes_of(graph):
        if node.op_type == "MatMul" and node.input[1] in known:
            rounded_names.add(node.input[1])
            node.input[1] += "!"
    for name in rounded_names:
        graph.initializer.append(numpy_helper.from_array(rounded(numpy_helper.to_array(known[name])), f"{name}!"))
    for node in nodes_of(graph):
        for attribute in node.attribute:
            if attribute.HasField("g"):
                for one in attribute.g.initializer:
                    one.CopyFrom(numpy_helper.from_array(rounded(numpy_helper.to_array(one)), one.name))
    return graph


@settings(max_examples=25, deadline=None, derandomize=True, database=None)
@given(drawn=graphs(), flag=st.booleans())
def test_any_graph_computes_with_the_rounded_weights_and_nothing_else_changes(tmp_path_factory, drawn, flag):
    nodes, out = drawn
    folder = tmp_path_factory.mktemp("graph")
    stored = [*(weight(name) for name in "wvu"), numpy_helper.from_array(np.array(2), "times")]
    inputs = [value("x", (WIDTH, WIDTH)), value("flag", (), TensorProto.BOOL)]
    path = write(folder / "in", nodes, [value(out, (WIDTH, WIDTH))], stored, inputs)
    oracle = onnx.load(path)
    with_rounded(oracle.graph)
    given_inputs = {
        "x": np.random.default_rng(2).normal(size=(WIDTH, WIDTH)).astype(np.float32),
        "flag": np.array(flag),
    }
    expected = ran(oracle.SerializeToString(), **given_inputs)[0]
    if "MatMul" not in {node.op_type for node in nodes_of(oracle.graph)}:
        with pytest.raises(ModelError, match="no float weight to quantize"):
            quantize(path, folder / "out")
        return
    result = quantize(path, folder / "out")
    np.testing.assert_allclose(ran(result, **given_inputs)[0], expected, atol=1e-4 * np.abs(expected).max())
