"""A float ONNX folder that is quantized: the builder's own bytes, and clear words for what cannot be."""

import contextlib
import io

import onnx_ir
import pytest
from onnx import helper

from graph_tools import changed
from graphs import save, value, weight
from olivine.errors import ModelError
from olivine.exporting import genai_graph, trial
from olivine.exporting.rounding import Settings
from olivine.models import Model
from olivine.models.opened import Opened
from olivine.passes import Context, Machine, passes
from olivine.work import Silent
from tiny import tiny_model

MACHINE = Machine("cpu", "CPUExecutionProvider", 8 * 10**9, 10**12, 2)


def built(model, folder, precision):
    folder.mkdir(parents=True)
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        target = genai_graph.Target(precision, "cpu", {})
        genai_graph.build(
            Opened(model), folder, folder.parent / "scratch", target, Settings(), lambda _done, _total: None
        )
    trial.check_generates(folder, genai_graph.check_folder(folder), "CPUExecutionProvider")
    return folder


def quantized(folder, output, **params):
    output.mkdir()
    plugin = passes.find("OnnxMatMul4Quantizer")
    step = plugin(plugin.Params(**params))
    model = Model("onnx", folder, attributes={"execution_provider": "CPUExecutionProvider"})
    step.requires(model)
    result = step.run(model, Context(output, output.parent / "scratch", MACHINE, Silent()))
    step.ensures(result)
    return result.path


@pytest.fixture(scope="module")
def float_llama(tmp_path_factory):
    """A tiny untied Llama in float32 ONNX; read only."""
    folder = tmp_path_factory.mktemp("float")
    model = Model("hf", tiny_model(folder / "model", "llama"))
    return built(model, folder / "fp32", "fp32"), built(model, folder / "int4", "int4")


def test_float_graph_quantized_afterwards_holds_the_builders_codes(float_llama, tmp_path):
    source, direct = float_llama
    result = quantized(source, tmp_path / "out")
    ours, theirs = (onnx_ir.load(folder / "model.onnx").graph.initializers for folder in (result, direct))
    assert set(ours) == set(theirs)
    for name, stored in theirs.items():
        assert ours[name].const_value.tobytes() == stored.const_value.tobytes(), name
    assert {path.name for path in result.iterdir()} == {path.name for path in source.iterdir() if path.is_file()}


def test_search_and_zero_points_run(float_llama, tmp_path):
    result = quantized(float_llama[0], tmp_path / "out", algorithm="K_QUANT", is_symmetric=False, block_size=16)
    nodes = [node for node in onnx_ir.load(result / "model.onnx").graph if node.op_type == "MatMulNBits"]
    assert nodes
    assert all(len(node.inputs) == 4 and node.attributes["block_size"].value == 16 for node in nodes)


def test_nodes_that_are_left_out_stay_float(float_llama, tmp_path):
    result = quantized(float_llama[0], tmp_path / "a", nodes_to_exclude=["/lm_head/MatMul"])
    assert "/lm_head/MatMul" in {node.name for node in onnx_ir.load(result / "model.onnx").graph}
    only = quantized(float_llama[0], tmp_path / "b", nodes_to_include=["/lm_head/MatMul"])
    names = {node.name for node in onnx_ir.load(only / "model.onnx").graph if node.op_type == "MatMulNBits"}
    assert names == {"/lm_head/MatMul_Q4"}


def test_single_nodes_have_bits_and_blocks_of_their_own(tmp_path):
    nodes = [
        helper.make_node("MatMul", ["x", "first"], ["a"], name="one"),
        helper.make_node("MatMul", ["a", "second"], ["y"], name="two"),
    ]
    graph = save(
        tmp_path / "given" / "m.onnx",
        nodes,
        [value("x", [4, 64])],
        [value("y", [4, 64])],
        [weight("first", 64, 64), weight("second", 64, 64)],
    )
    config = {"two": {"bits": 8, "group_size": 64}}
    result, _ = changed("OnnxKQuantQuantization", graph, tmp_path, customized_weight_config=config)
    forms = {
        node.name: (node.attributes["bits"].value, node.attributes["block_size"].value)
        for node in onnx_ir.load(result).graph
    }
    assert sorted(forms.values()) == [(4, 32), (8, 64)]
    with pytest.raises(ModelError, match="no node 'three'"):
        changed("OnnxKQuantQuantization", graph, tmp_path / "b", customized_weight_config={"three": {"bits": 8}})


def test_unknown_nodes_and_quantized_models_are_refused(float_llama, tmp_path):
    with pytest.raises(ModelError, match="no node '/lm_head/MatMull'"):
        quantized(float_llama[0], tmp_path / "a", nodes_to_exclude=["/lm_head/MatMull"])
    with pytest.raises(ModelError, match=r"no float weight to quantize: \d+ of its products are quantized already"):
        quantized(float_llama[1], tmp_path / "b")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelError, match=r"holds no graph \(\*\.onnx\)"):
        quantized(tmp_path / "empty", tmp_path / "c")


def test_graph_of_scaled_gemms_is_refused_as_what_it_is(tmp_path):
    nodes = [helper.make_node("Gemm", ["x", "layer"], ["y"], alpha=0.5)]
    save(tmp_path / "a" / "model.onnx", nodes, [value("x", [1, 32])], [value("y", [1, 32])], [weight("layer", 32, 32)])
    with pytest.raises(ModelError, match="no float weight to quantize: 1 of its products are Gemm of another form"):
        quantized(tmp_path / "a", tmp_path / "b")


def test_slow_form_is_a_problem_of_the_plan():
    plugin = passes.find("OnnxBlockWiseRtnQuantization")
    from olivine.workflow.plan import STAND_IN

    problems = list(plugin(plugin.Params(bits=8, accuracy_level=1)).check(STAND_IN, MACHINE, {}))
    assert "100 times slower" in problems[0].message
    assert not list(plugin(plugin.Params(bits=8)).check(STAND_IN, MACHINE, {}))
