"""The header of an ONNX file is what the onnx package reads of it, and what is wrong with it is one sentence."""

import subprocess
import sys

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from damage import assert_is_sentence, damaged, fuzzed
from olivine.errors import ModelError, Unsupported
from olivine.models import Model
from olivine.models.onnx_files import check_onnx, graph_of, onnx_facts, onnx_model
from olivine.models.onnx_header import TYPES, OnnxHeader
from olivine.models.signature import TensorSpec


def value(name, shape, dtype=TensorProto.FLOAT):
    return helper.make_tensor_value_info(name, dtype, shape)


def weight(name, *shape, dtype="float32"):
    return numpy_helper.from_array(np.random.default_rng(len(name)).normal(size=shape).astype(dtype), name)


def graph_with_branches():
    """Token ids to two scores: an embedding, an If whose branches hold a weight each and use one from outside."""

    def branch(name):
        nodes = [helper.make_node("MatMul", ["states", f"{name}_weight"], [f"{name}_out"])]
        return helper.make_graph(nodes, name, [], [value(f"{name}_out", None)], [weight(f"{name}_weight", 8, 8)])

    nodes = [
        helper.make_node("Cast", ["ids"], ["wide"], to=TensorProto.INT64),
        helper.make_node("Gather", ["embedding", "wide"], ["states"]),
        helper.make_node("Constant", [], ["flag"], value=numpy_helper.from_array(np.array(True))),
        helper.make_node("If", ["flag"], ["mixed"], then_branch=branch("yes"), else_branch=branch("no")),
        helper.make_node("MatMul", ["mixed", "head"], ["scores"]),
    ]
    inputs = [value("ids", ["batch", None], TensorProto.INT32), value("head", [8, 2])]  # old files list weights too
    stored = [weight("embedding", 30, 8), weight("head", 8, 2), weight("half", 3, dtype="float16")]
    return helper.make_graph(nodes, "branches", inputs, [value("scores", ["batch", "length", 2])], stored)


def saved(path, graph=None, *, opset=20, ir=10, domains=(), functions=(), **external):
    opsets = [helper.make_opsetid("", opset), *(helper.make_opsetid(domain, 1) for domain in domains)]
    model = helper.make_model(
        graph or graph_with_branches(), opset_imports=opsets, ir_version=ir, functions=list(functions)
    )
    onnx.save(model, path, **external)
    return path


@pytest.fixture
def external(tmp_path):
    """A graph whose weights lie in `weights.bin` beside it."""
    path = tmp_path / "model.onnx"
    return saved(path, save_as_external_data=True, location="weights.bin", size_threshold=64)


def test_signature_weights_and_operators_are_those_of_the_file(tmp_path):
    header = OnnxHeader.read(saved(tmp_path / "model.onnx"))
    assert header.signature.inputs == (TensorSpec("ids", "int32", ("batch", None), n_choices=30),)
    assert header.signature.outputs == (TensorSpec("scores", "float32", ("batch", "length", 2)),)
    assert header.signature.in_words == "ids int32 [batch, ?] -> scores float32 [batch, length, 2]"
    shapes = {tensor.name: tensor.shape for tensor in header.tensors if tensor.is_float}
    assert shapes == {
        "embedding": (30, 8),
        "head": (8, 2),
        "half": (3,),
        "yes_weight": (8, 8),
        "no_weight": (8, 8),
    }
    assert header.n_parameters == 30 * 8 + 8 * 2 + 3 + 2 * 8 * 8
    assert {name for _, name in header.operators} == {"Cast", "Gather", "Constant", "If", "MatMul"}
    assert (header.opsets, header.ir_version) == ({"": 20}, 10)


def test_every_type_of_onnx_is_known_by_its_size():
    for number in set(TensorProto.DataType.values()) - {0}:
        name, bits = TYPES[number]
        if name != "string" and bits >= 8:
            assert helper.tensor_dtype_to_np_dtype(number).itemsize * 8 == bits, name


def test_weights_are_skipped_and_nothing_heavy_is_imported(tmp_path):
    path = tmp_path / "large.onnx"
    saved(path, helper.make_graph([], "g", [], [], [weight("w", 1000, 1000)]))
    code = (
        "import sys, pathlib; from olivine.models.onnx_files import *; m = onnx_model(pathlib.Path(sys.argv[1]));"
        "check_onnx(m); print(onnx_facts(m).n_parameters, {'onnx', 'numpy', 'torch'} & set(sys.modules))"
    )
    told = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    assert told.stdout == "1000000 set()\n"


def test_external_weights_are_whole_and_in_the_folder(external):
    header = OnnxHeader.read(external)
    assert header.external_files == ["weights.bin"]
    check_onnx(onnx_model(external))
    facts = onnx_facts(onnx_model(external))
    assert facts.weight_bytes == external.stat().st_size + (external.parent / "weights.bin").stat().st_size


def test_missing_truncated_and_escaping_weights_are_refused(external, tmp_path):
    data = external.parent / "weights.bin"
    whole = data.read_bytes()
    data.write_bytes(whole[:-1])
    with pytest.raises(ModelError, match=r"weights\.bin is truncated: \d+ bytes, but the tensor '\w+' ends at"):
        check_onnx(onnx_model(external))
    data.rename(tmp_path / "elsewhere")
    with pytest.raises(ModelError, match=r"lacks the weights 'weights\.bin' of 'model\.onnx'"):
        check_onnx(onnx_model(external))


@pytest.mark.parametrize("location", ["../secret", "/etc/passwd", "a/../../secret", "..\\secret", "", "."])
def test_weights_outside_of_the_folder_are_refused(location, tmp_path):
    (tmp_path / "secret").write_bytes(bytes(1000))
    model = helper.make_model(graph_with_branches(), opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    stored = model.graph.initializer[0]
    stored.ClearField("raw_data")
    stored.data_location = TensorProto.EXTERNAL
    stored.external_data.add(key="location", value=location)
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(ModelError, match="reads weights outside of its folder"):
        check_onnx(onnx_model(folder))


def test_link_out_of_the_folder_is_refused_and_the_hubs_own_links_are_not(external, tmp_path):
    elsewhere = tmp_path / "secret.bin"
    data = external.parent / "weights.bin"
    data.replace(elsewhere)
    folder = tmp_path / "model"
    folder.mkdir()
    external.replace(folder / "model.onnx")
    (folder / "weights.bin").symlink_to(elsewhere)
    with pytest.raises(ModelError, match="reads weights outside of its folder"):
        check_onnx(onnx_model(folder))
    hub = tmp_path / "models--a--b"
    snapshot, blobs = hub / "snapshots" / "0123", hub / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for name, source in (("model.onnx", folder / "model.onnx"), ("weights.bin", elsewhere)):
        source.replace(blobs / name)
        (snapshot / name).symlink_to(blobs / name)
    check_onnx(onnx_model(snapshot))


def test_versions_and_operators_that_nothing_runs_are_refused(tmp_path):
    newest = onnx.defs.onnx_opset_version()
    with pytest.raises(Unsupported, match=f"is of opset version {newest + 1}, and onnx .* knows up to {newest}"):
        check_onnx(onnx_model(saved(tmp_path / "a.onnx", opset=newest + 1)))
    with pytest.raises(Unsupported, match="is of IR version 99"):
        check_onnx(onnx_model(saved(tmp_path / "b.onnx", ir=99)))
    node = helper.make_node("Swirl", ["x"], ["y"], domain="my.own")
    graph = helper.make_graph([node], "g", [value("x", ["n"])], [value("y", ["n"])])
    with pytest.raises(Unsupported, match=r"needs the operator 'my\.own::Swirl', a custom one"):
        check_onnx(onnx_model(saved(tmp_path / "c.onnx", graph, domains=["my.own"])))
    own = helper.make_function(
        "my.own", "Swirl", ["x"], ["y"], [helper.make_node("Relu", ["x"], ["y"])], [helper.make_opsetid("", 20)]
    )
    check_onnx(onnx_model(saved(tmp_path / "d.onnx", graph, domains=["my.own"], functions=[own])))
    check_onnx(onnx_model(saved(tmp_path / "e.onnx", opset=newest)))


def test_file_that_ends_anywhere_is_refused_or_what_onnx_reads(tmp_path):
    whole = saved(tmp_path / "whole.onnx").read_bytes()
    path = tmp_path / "cut.onnx"
    for length in range(0, len(whole), 7):
        path.write_bytes(whole[:length])
        with pytest.raises(ModelError, match=r"is truncated or no ONNX file|is empty|holds no graph"):
            OnnxHeader.read(path)


@fuzzed
@given(st.data())
def test_damaged_file_is_refused_or_read_as_onnx_reads_it(tmp_path_factory, draws):
    folder = tmp_path_factory.getbasetemp() / "onnx-fuzz"
    folder.mkdir(exist_ok=True)
    whole = (folder / "whole.onnx").read_bytes() if (folder / "whole.onnx").is_file() else None
    if whole is None:
        whole = saved(folder / "whole.onnx").read_bytes()
    data = draws.draw(st.one_of(damaged(whole), st.binary(max_size=60)))
    path = folder / "damaged.onnx"
    path.write_bytes(data)
    try:
        header = OnnxHeader.read(path)
        check_onnx(Model("onnx", folder, attributes={"onnx_file": path.name}))
    except (ModelError, Unsupported):
        return
    try:
        proto = onnx.load_model_from_string(data)
    except Exception:  # noqa: BLE001 - what lies in parts that the header does not need; the runtime says so
        return
    stored = {tensor.name for tensor in proto.graph.initializer}
    assert [spec.name for spec in header.signature.inputs] == [
        one.name for one in proto.graph.input if one.name not in stored
    ]
    assert [spec.name for spec in header.signature.outputs] == [one.name for one in proto.graph.output]
    ours = {(tensor.name, tensor.shape) for tensor in header.tensors}
    assert {(tensor.name, tuple(tensor.dims)) for tensor in proto.graph.initializer} <= ours


@fuzzed
@given(st.data())
def test_damaged_places_of_weights_are_refused_or_are_what_the_runtime_opens(tmp_path_factory, draws):
    folder = tmp_path_factory.getbasetemp() / "onnx-external-fuzz"
    path, whole = folder / "model.onnx", folder / "whole"
    if not whole.is_file():
        folder.mkdir(exist_ok=True)
        saved(path, save_as_external_data=True, location="weights.bin", size_threshold=64)
        path.rename(whole)
    model = onnx.load_model_from_string(whole.read_bytes())
    stored = [tensor for tensor in model.graph.initializer if tensor.external_data]
    entry = draws.draw(st.sampled_from(draws.draw(st.sampled_from(stored)).external_data))
    numbers = st.integers(-2, 2000) | st.sampled_from([2**31, 2**32, 2**60, 2**63, 2**64, -(2**63)])
    words = st.sampled_from(
        [
            "",
            "0_0",
            " 0",
            "+0",
            "٣",
            "0.0",
            " ",
            "1e3",
            "0x10",
            "weights.bin/",
            "./weights.bin",
            "model.onnx",
            "no",
            "9" * 5000,
        ]
    )
    entry.value = draws.draw(st.one_of(numbers.map(str), words, st.text(max_size=8)))
    if draws.draw(st.booleans()):
        entry.key = draws.draw(st.sampled_from(["location", "offset", "length", "checksum", ""]))
    try:
        path.write_bytes(model.SerializeToString())
        check_onnx(onnx_model(path))
    except (ModelError, Unsupported) as error:
        assert_is_sentence(error)
        return
    assert onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]).get_inputs()


def test_graph_of_a_folder_is_the_only_one_or_the_one_that_is_named(tmp_path):
    with pytest.raises(ModelError, match="holds no graph"):
        onnx_model(tmp_path)
    (tmp_path / "onnx").mkdir()
    saved(tmp_path / "onnx" / "a.onnx")
    with pytest.raises(ModelError, match=r"there is 'onnx/a\.onnx': name it as onnx_file_name"):
        onnx_model(tmp_path)
    assert graph_of(onnx_model(tmp_path, "onnx/a.onnx")) == tmp_path / "onnx" / "a.onnx"
    for name, n_graphs in (("b.onnx", 1), ("c.onnx", 2)):
        saved(tmp_path / name)
        if n_graphs == 1:
            assert graph_of(onnx_model(tmp_path)) == tmp_path / name
    with pytest.raises(ModelError, match=r"holds 2 graphs \(b\.onnx, c\.onnx\)"):
        onnx_model(tmp_path)
    for name in ("../b.onnx", "/b.onnx", "\0"):
        with pytest.raises(ModelError, match="leads out of the folder"):
            onnx_model(tmp_path / "onnx", name)
    saved(tmp_path / "model.onnx")
    assert graph_of(onnx_model(tmp_path)) == tmp_path / "model.onnx"


def nested(depth):
    """A graph in a graph in a graph, as bytes: the library that writes them ends at 33."""

    def field(number, content):
        length, size = len(content), b""
        while length >= 0x80:
            length, size = length >> 7, size + bytes([length & 0x7F | 0x80])
        return bytes([number << 3 | 2]) + size + bytes([length]) + content

    graph = field(2, b"leaf")
    for _ in range(depth):
        graph = field(1, field(4, b"If") + field(5, field(6, graph)))
    return field(7, graph)


def test_graphs_in_each_other_are_read_as_deep_as_protobuf_goes(tmp_path):
    path = tmp_path / "deep.onnx"
    path.write_bytes(nested(30))
    assert OnnxHeader.read(path).operators == {("", "If")}
    assert onnx.load(path).graph.node[0].op_type == "If"
    path.write_bytes(nested(5000))
    with pytest.raises(ModelError, match="graphs lie in each other"):
        OnnxHeader.read(path)


def test_operator_that_onnx_does_not_have_is_refused_by_name(tmp_path):
    graph = helper.make_graph([helper.make_node("Swirl", ["x"], ["y"])], "g", [value("x", ["n"])], [value("y", ["n"])])
    with pytest.raises(Unsupported, match=r"needs the operator 'Swirl', which neither ONNX nor onnxruntime has"):
        check_onnx(onnx_model(saved(tmp_path / "a.onnx", graph)))
    nodes = [
        helper.make_node("SimplifiedLayerNormalization", ["x", "scale"], ["n"]),  # onnxruntime's, in ONNX's own domain
        helper.make_node("Upsample", ["n", "sizes"], ["y"]),  # an old one
    ]
    graph = helper.make_graph(nodes, "g", [value("x", ["n"])], [value("y", ["n"])])
    check_onnx(onnx_model(saved(tmp_path / "b.onnx", graph)))


def test_every_operator_that_onnx_has_is_known(tmp_path):
    for schema in onnx.defs.get_all_schemas():
        if not schema.domain:
            node = helper.make_node(schema.name, ["x"], ["y"])
            graph = helper.make_graph([node], "g", [value("x", ["n"])], [value("y", ["n"])])
            check_onnx(onnx_model(saved(tmp_path / "a.onnx", graph)))


def test_cycle_is_refused_and_nodes_in_another_order_are_not(tmp_path):
    given, result = [value("x", ["n"])], [value("y", ["n"])]
    nodes = [
        helper.make_node("Relu", ["x"], ["a"]),
        helper.make_node("Add", ["a", "d"], ["b"]),
        helper.make_node("Tanh", ["b"], ["c"]),
        helper.make_node("Neg", ["c"], ["d"]),
        helper.make_node("Exp", ["d"], ["y"]),
    ]
    path = saved(tmp_path / "cycle.onnx", helper.make_graph(nodes, "g", given, result))
    with pytest.raises(ModelError, match=r"cycle\.onnx has a cycle: '[bcd]' is computed of itself"):
        OnnxHeader.read(path)
    nodes[1] = helper.make_node("Add", ["a", "x"], ["b"])
    header = OnnxHeader.read(saved(tmp_path / "late.onnx", helper.make_graph(nodes[::-1], "g", given, result)))
    assert [spec.name for spec in header.signature.inputs] == ["x"]
