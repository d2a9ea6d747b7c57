"""Adapters taken out of graphs: with their weights the graph is the adapted model, without them its base."""

import json

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper

from encoders import write_config
from graph_tools import changed, largest_difference, outputs
from graphs import save, text_classifier, value, weight
from olivine.config import load
from olivine.errors import ModelError
from olivine.evaluate import inputs_of
from olivine.models import Model
from olivine.models.interface import text_signature
from olivine.models.onnx_files import onnx_facts, onnx_model
from olivine.models.sample_inputs import made_up
from olivine.runtimes import adapter_inputs
from olivine.runtimes.session import OnnxSession
from olivine.workflow.plan import make_plan
from tiny import VOCABULARY, tiny_adapter, tiny_model

pytestmark = pytest.mark.usefixtures("warm")

METHODS = {
    "lora": ("LoraConfig", {}),
    "dora": ("LoraConfig", {"use_dora": True, "target_modules": ["q_proj", "down_proj"]}),
    "loha": ("LoHaConfig", {"target_modules": ["q_proj", "down_proj"]}),
}
ROWS = made_up(text_signature(VOCABULARY), 2, 0, {"batch": 2, "sequence": 7})


@pytest.fixture(scope="module")
def graphs(tmp_path_factory):
    """For each method, the graph of a model with its adapter, exported with the adapter apart; and that of the base."""
    folder = tmp_path_factory.mktemp("adapters")
    base = Model("hf", tiny_model(folder / "base", num_hidden_layers=1))
    made = {"base": changed("OnnxConversion", base, folder / "of-base")[0]}
    for kind, (method, settings) in METHODS.items():
        adapter = tiny_adapter(base.path, folder / kind, method=method, **settings)
        made[kind], _ = changed("OnnxConversion", Model("adapter", adapter, base=base), folder / f"of-{kind}")
    return made


def session(path):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def adapted_layer(path):
    """y = x W + x A^T B^T, with the adapter's weights as torch.export names and lays them."""
    layer = "inner.base_model.model.model.layers.0.q_proj"
    a, b = f"{layer}.lora_A.default.weight", f"{layer}.lora_B.default.weight"
    nodes = [
        helper.make_node("MatMul", ["x", "base"], ["own"]),
        helper.make_node("Transpose", [a], ["at"], perm=[1, 0]),
        helper.make_node("Transpose", [b], ["bt"], perm=[1, 0]),
        helper.make_node("MatMul", ["x", "at"], ["down"]),
        helper.make_node("MatMul", ["down", "bt"], ["up"]),
        helper.make_node("Add", ["own", "up"], ["logits"]),
    ]
    stored = [weight("base", 8, 6), weight(a, 2, 8), weight(b, 6, 2)]
    return save(path, nodes, [value("x", ["batch", 8])], [value("logits", ["batch", 6])], stored)


def test_weights_under_the_names_of_the_newer_exporter_are_taken_out(tmp_path):
    graph = adapted_layer(tmp_path / "given" / "model.onnx")
    apart, heard = changed("ExtractAdapters", graph, tmp_path, save_format="safetensors")
    assert heard.facts["changes"] == {"lora weights taken out": 2}
    rows = [{"x": np.random.default_rng(0).normal(size=(3, 8)).astype(np.float32)}]
    weights = adapter_inputs.read(apart.parent / "adapter_weights.safetensors")
    assert {name: one.shape for name, one in weights.items()} == {
        "model.layers.0.q_proj.lora_A.weight": (2, 8),
        "model.layers.0.q_proj.lora_B.weight": (6, 2),
    }
    expected = outputs(graph, rows)[0]["logits"]
    assert np.abs(session(apart).run(["logits"], rows[0] | weights)[0] - expected).max() < 1e-5
    base = onnx.numpy_helper.to_array(next(one for one in onnx.load(graph).graph.initializer if one.name == "base"))
    assert np.abs(session(apart).run(["logits"], rows[0])[0] - rows[0]["x"] @ base).max() < 1e-5
    assert np.abs(OnnxSession(apart).run(rows[0])["logits"] - expected).max() < 1e-5


def test_what_is_quantized_afterwards_is_held_to_the_model_with_its_adapter(tmp_path):
    graph = adapted_layer(tmp_path / "given" / "model.onnx")
    apart, _ = changed("ExtractAdapters", graph, tmp_path / "a")
    small, heard = changed("OnnxDynamicQuantization", apart, tmp_path / "b", min_cosine=0.99)
    assert [rung["cosine"] > 0.99 for rung in heard.facts["rungs"]] == [True]
    row = {"x": np.random.default_rng(0).normal(size=(3, 8)).astype(np.float32)}
    expected = OnnxSession(graph).run(row)["logits"]
    assert np.abs(OnnxSession(small).run(row)["logits"] - expected).max() < 0.05 * np.abs(expected).max()


def test_graph_that_has_lost_its_adapter_is_no_result(tmp_path):
    graph = adapted_layer(tmp_path / "given" / "model.onnx")
    apart, _ = changed("ExtractAdapters", graph, tmp_path / "a")
    model = onnx.load(apart)
    (own,) = [one for one in model.graph.input if one.name == "x"]
    del model.graph.input[:]
    model.graph.input.append(own)
    onnx.save(model, apart)
    with pytest.raises(ModelError, match="does not take the adapter's weight"):
        OnnxSession(apart)


@pytest.mark.slow
@pytest.mark.parametrize("form", ["onnx_adapter", "numpy", "safetensors"])
@pytest.mark.parametrize("kind", METHODS)
def test_graph_with_the_weights_that_were_taken_out_is_the_adapted_model(tmp_path, graphs, kind, form):
    apart, heard = changed("ExtractAdapters", graphs[kind], tmp_path, adapter_type=kind, save_format=form)
    told = json.loads((apart.parent / "adapter_inputs.json").read_text())
    weights = adapter_inputs.read(apart.parent / told["file"])
    n_of_layer = {"lora": 2 * 7, "dora": 3 * 2, "loha": 4 * 2}[kind]
    assert heard.facts["changes"] == {f"{kind} weights taken out": n_of_layer}
    assert {name.rsplit(".", 2)[0] for name in weights} >= {"model.layers.0.self_attn.q_proj"}
    fed = [{**row, **weights} for row in ROWS]
    names = outputs(graphs[kind], ROWS)[0]
    runs = [dict(zip(names, session(apart).run(list(names), row), strict=True)) for row in fed]
    for one, other in zip(runs, outputs(graphs[kind], ROWS), strict=True):
        assert np.abs(one["logits"] - other["logits"]).max() < 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["lora", "loha"])
@pytest.mark.parametrize("is_open", [True, False])
def test_graph_without_the_weights_is_the_base(tmp_path, graphs, kind, is_open):
    params = {"adapter_type": kind, "dynamic_lora_r": is_open}
    apart, _ = changed("ExtractAdapters", graphs[kind], tmp_path, **params)
    assert largest_difference(graphs["base"], apart, ROWS) < 1e-4
    assert largest_difference(graphs[kind], apart, ROWS) > 1e-2


@pytest.mark.slow
def test_an_adapter_of_another_rank_fits_where_the_rank_is_open(tmp_path, graphs):
    apart, _ = changed("ExtractAdapters", graphs["lora"], tmp_path, save_format="numpy")
    weights = adapter_inputs.read(apart.parent / "adapter_weights.npz")
    wider = {
        name: np.concatenate([one, np.zeros_like(one)], axis=int(name.endswith("lora_A.weight")))
        for name, one in weights.items()
    }
    expected, given = (session(apart).run(["logits"], {**ROWS[0], **one})[0] for one in (weights, wider))
    assert np.abs(expected - given).max() < 1e-4


@pytest.mark.slow
def test_weights_of_dora_have_to_be_given_and_that_is_told(tmp_path, graphs):
    apart, heard = changed("ExtractAdapters", graphs["dora"], tmp_path, adapter_type="dora")
    assert any("have to be given" in note for note in heard.notes)
    assert "model.layers.0.self_attn.q_proj.lora_magnitude_vector.weight" in {
        one.name for one in session(apart).get_inputs()
    }


@pytest.mark.slow
def test_what_is_measured_is_the_model_with_its_adapter(tmp_path, graphs):
    for kind in METHODS:
        apart, _ = changed("ExtractAdapters", graphs[kind], tmp_path / kind, adapter_type=kind)
        model = onnx_model(apart)
        assert [one.name for one in onnx_facts(model).signature.inputs] == ["input_ids", "attention_mask"]
        (row,) = inputs_of(model, None, 1)
        expected = OnnxSession(graphs[kind]).run(row)["logits"]
        opened = OnnxSession(apart)
        assert opened.input_names == ["input_ids", "attention_mask"]
        assert np.abs(opened.run(row)["logits"] - expected).max() < 1e-4


@pytest.mark.slow
def test_weights_that_stay_are_replaced_by_onnxruntime(tmp_path, graphs):
    apart, heard = changed("ExtractAdapters", graphs["lora"], tmp_path, make_inputs=False, save_format="safetensors")
    assert "too small to lie beside the graph" in heard.warnings[0]  # of keys, whose heads are few and small here
    assert largest_difference(graphs["lora"], apart, ROWS) < 1e-6
    weights = adapter_inputs.read(apart.parent / "adapter_weights.safetensors")
    options = onnxruntime.SessionOptions()
    zeros = {name: np.zeros_like(one) for name, one in weights.items() if name.endswith("lora_A.weight")}
    values = [onnxruntime.OrtValue.ortvalue_from_numpy(one) for one in zeros.values()]
    options.add_external_initializers(list(zeros), values)
    without = onnxruntime.InferenceSession(apart, options, providers=["CPUExecutionProvider"])
    assert np.abs(without.run(["logits"], ROWS[0])[0] - outputs(graphs["base"], ROWS)[0]["logits"]).max() < 1e-4


@pytest.mark.slow
def test_half_precision_and_simplifying_afterwards_keep_the_adapter(tmp_path, graphs):
    apart, _ = changed("ExtractAdapters", graphs["lora"], tmp_path / "a", save_format="safetensors")
    simple, _ = changed("OnnxPeepholeOptimizer", apart, tmp_path / "b")
    half, _ = changed("OnnxFloatToFloat16", simple, tmp_path / "c")
    expected = OnnxSession(graphs["lora"]).run(ROWS[0])["logits"]
    given = OnnxSession(half).run(ROWS[0])["logits"].astype(np.float32)
    assert np.abs(given - expected).max() < 0.05 * np.abs(expected).max()


def test_graph_without_an_adapter_is_refused_with_what_keeps_one(tmp_path):
    with pytest.raises(ModelError, match="no weights of an adapter by lora: OnnxConversion keeps"):
        changed("ExtractAdapters", text_classifier(tmp_path / "given" / "model.onnx"), tmp_path)
    graph = adapted_layer(tmp_path / "b" / "given" / "model.onnx")
    with pytest.raises(ModelError, match="no weights of an adapter by loha"):
        changed("ExtractAdapters", graph, tmp_path / "b", adapter_type="loha")


def test_pass_that_takes_no_adapter_is_not_mended_by_merging_where_it_is_taken_out_later(tmp_path):
    model = tiny_model(tmp_path / "base")
    given = {
        "type": "HfModel",
        "model_path": str(model),
        "adapter_path": str(tiny_adapter(model, tmp_path / "adapter")),
    }
    steps = {"m": {"type": "ModelBuilder", "precision": "fp32"}, "apart": {"type": "ExtractAdapters"}}
    (problem,) = make_plan(load(write_config(tmp_path, model, steps, input_model=given))).problems
    assert "'apart' takes the adapter out of a graph: use OnnxConversion in its place" in str(problem)
    steps = {"r": {"type": "Rtn"}}
    (problem,) = make_plan(load(write_config(tmp_path, model, steps, input_model=given))).problems
    assert "Put 'merge' before it" in str(problem)
