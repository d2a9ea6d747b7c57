"""Settings of a session that win only beyond the noise, and quantized products in ONNX's own operators."""

import json

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from encoders import write_config
from graph_tools import changed, largest_difference, operators
from graphs import text_classifier
from olivine.config import load
from olivine.models.onnx_header import OnnxHeader
from olivine.passes.graph.session_tuning import fastest
from olivine.workflow.engine import run
from olivine.workflow.plan import make_plan

pytestmark = pytest.mark.usefixtures("warm")

STEADY = [1.0 + 0.001 * (n % 5) for n in range(40)]
NOISY = [0.9 + 0.1 * (n % 4) for n in range(40)]  # its median is lower, its interval reaches beyond


def test_setting_wins_only_beyond_the_noise():
    assert fastest({"defaults": STEADY, "one thread": [0.8 * one for one in STEADY]}) == "one thread"
    assert fastest({"defaults": STEADY, "one thread": [0.9999 * one for one in STEADY]}) == "defaults"
    assert fastest({"defaults": NOISY, "one thread": [0.97 * one for one in NOISY]}) == "defaults"
    assert fastest({"defaults": STEADY[:2], "one thread": [0.5, 0.5]}) == "defaults"  # too few to tell
    faster = {name: [share * one for one in STEADY] for name, share in (("a", 0.8), ("b", 0.6))}
    assert fastest({"defaults": STEADY, **faster}) == "b"


def test_settings_are_timed_beside_the_defaults_and_stored_with_the_graph(tmp_path):
    graph = text_classifier(tmp_path / "given" / "model.onnx")
    params = {"intra_thread_num_list": [1], "opt_level_list": [0, "ORT_ENABLE_ALL"], "max_seconds": 1}
    tuned, heard = changed("OrtPerfTuning", graph, tmp_path, **params)
    assert list(heard.facts["milliseconds"]) == [
        "defaults",
        "graph_optimization_level 0",
        "graph_optimization_level 0, intra_op_num_threads 1",
        "graph_optimization_level 99",
        "graph_optimization_level 99, intra_op_num_threads 1",
    ]
    settings = json.loads(tuned.with_name("session_options.json").read_text())
    words = ", ".join(f"{key} {value}" for key, value in settings.items()) or "defaults"
    assert words == heard.facts["chosen"]
    assert largest_difference(graph, tuned) < 1e-6


def test_settings_beside_a_graph_are_those_of_its_sessions(tmp_path, monkeypatch):
    graph = text_classifier(tmp_path / "given" / "model.onnx")
    (graph.parent / "session_options.json").write_text(
        '{"intra_op_num_threads": 1, "graph_optimization_level": 1, "execution_mode": 0}'
    )
    from olivine.runtimes.session import OnnxSession

    opened, original = [], onnxruntime.InferenceSession
    monkeypatch.setattr(onnxruntime, "InferenceSession", lambda *a, **k: opened.append(a[1]) or original(*a, **k))
    OnnxSession(graph)
    assert opened[0].intra_op_num_threads == 1
    assert opened[0].graph_optimization_level == onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC


def test_config_with_tuning_runs_and_delivers_the_settings(tmp_path):
    graph = text_classifier(tmp_path / "given" / "model.onnx")
    model = {"type": "ONNXModel", "model_path": str(graph)}
    chain = {"tune": {"type": "OrtSessionParamsTuning", "intra_thread_num_list": [1], "max_seconds": 1}}
    plan = make_plan(load(write_config(tmp_path, graph, chain, input_model=model)))
    assert not plan.problems
    assert run(plan).scores[-1]["cosine"] > 0.9999
    assert (tmp_path / "out" / "model" / "session_options.json").is_file()


@pytest.mark.parametrize("params", [{}, {"use_signed_int": True}, {"use_transpose_op": True}, {"add_zero_point": True}])
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("symmetric", [True, False])
def test_products_in_blocks_compute_the_same_in_onnx_operators(tmp_path, bits, symmetric, params):
    graph = text_classifier(tmp_path / "given" / "model.onnx")
    blocks = {"bits": bits, "block_size": 16, "is_symmetric": symmetric, "accuracy_level": 4 if bits == 8 else 0}
    quantized, _ = changed(
        "OnnxBlockWiseRtnQuantization", graph, tmp_path / "q", **blocks, nodes_to_include=["classify"]
    )
    plain, heard = changed("MatMulNBitsToQDQ", quantized, tmp_path, **params)
    assert heard.facts["changes"] == {"MatMulNBits": 1}
    assert "MatMulNBits" not in operators(plain)
    assert operators(plain)["DequantizeLinear"] == 1
    assert OnnxHeader.read(plain).opsets[""] == 21
    # onnxruntime makes MatMulNBits of it again where it can, and rounds what goes into it to 8 bits
    assert largest_difference(quantized, plain) < (0.005 if bits == 4 else 0.05)
    _, heard = changed("MatMulNBitsToQDQ", plain, tmp_path / "again")
    assert heard.warnings == ["no MatMulNBits of 4 or 8 bits is in the graph"]


def test_scales_that_are_cast_from_16_bits_are_written_as_what_they_become(tmp_path):
    graph = text_classifier(tmp_path / "given" / "model.onnx")
    blocks = {"block_size": 16, "nodes_to_include": ["classify"]}
    quantized, _ = changed("OnnxBlockWiseRtnQuantization", graph, tmp_path / "q", **blocks)
    proto = onnx.load(quantized)
    (node,) = [node for node in proto.graph.node if node.op_type == "MatMulNBits"]
    (scales,) = [one for one in proto.graph.initializer if one.name == node.input[2]]
    halves = numpy_helper.from_array(numpy_helper.to_array(scales).astype(np.float16), "halves")
    proto.graph.initializer.remove(scales)
    proto.graph.initializer.append(halves)
    proto.graph.node.insert(0, helper.make_node("Cast", ["halves"], [scales.name], to=TensorProto.FLOAT))
    onnx.save(proto, quantized)
    plain, heard = changed("MatMulNBitsToQDQ", quantized, tmp_path)
    assert heard.facts["changes"] == {"MatMulNBits": 1}
    assert operators(plain).get("Cast") == operators(graph).get("Cast")
    assert largest_difference(quantized, plain) < 0.005
