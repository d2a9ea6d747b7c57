"""Graphs in parts: the chain of parts gives what the graph gives, and so does what is composed of them."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from encoders import tiny_encoder, write_config
from graph_tools import MACHINE, Heard, largest_difference, operators, outputs, result_of, rows_for
from graphs import save, value, weight
from olivine.config import load
from olivine.errors import ModelError, Unsupported
from olivine.models import Model
from olivine.models.chained import CHAIN
from olivine.models.interface import signature_of
from olivine.models.onnx_files import graph_of, onnx_model
from olivine.models.onnx_header import OnnxHeader
from olivine.passes import parts, passes
from olivine.runtimes.module import open_session
from olivine.testing.passes import PassDeclaration
from olivine.work import Context
from olivine.workflow.engine import run
from olivine.workflow.plan import make_plan
from tiny import tiny_model


class TestCaptureSplitInfo(PassDeclaration):
    plugin, params = passes["capture_split_info"], {"num_splits": 2}


class TestSplit(PassDeclaration):
    plugin, params = passes["split"], {"num_splits": 2}


class TestCompose(PassDeclaration):
    plugin = passes["compose"]


def layered(path, n_layers=4, **external):
    """Token ids to logits through numbered layers, the last of which also reads what the first gives."""
    nodes = [helper.make_node("Gather", ["table", "ids"], ["x0"], name="/embed/Gather")]
    stored = [weight("table", 20, 8), weight("head", 8, 20), numpy_helper.from_array(np.float32(0.5), "half")]
    for layer in range(n_layers):
        name, last = f"/layers.{layer}", layer == n_layers - 1
        nodes += [
            helper.make_node("Constant", [], [f"two{layer}"], f"{name}/Constant", value_float=2.0),
            helper.make_node("MatMul", [f"x{layer}", f"w{layer}"], [f"p{layer}"], name=f"{name}/MatMul"),
            helper.make_node("Add", [f"p{layer}", "x1" if last else "half"], [f"s{layer}"], name=f"{name}/Add"),
            helper.make_node("Mul", [f"s{layer}", f"two{layer}"], [f"x{layer + 1}"], name=f"{name}/Mul"),
        ]
        stored.append(weight(f"w{layer}", 8, 8))
    nodes.append(helper.make_node("MatMul", [f"x{n_layers}", "head"], ["logits"], name="/head/MatMul"))
    outputs = [value("logits", ["batch", "sequence", 20]), value("x2", ["batch", "sequence", 8])]
    return save(path, nodes, [value("ids", ["batch", "sequence"], TensorProto.INT64)], outputs, stored, **external)


def rows_of_ids():
    return [{"ids": np.random.default_rng(seed).integers(0, 20, (2, 5))} for seed in range(2)]


def chained_difference(graph, composite, rows):
    """Between what a graph gives and what the chain of its parts gives."""
    session = open_session(composite, "CPUExecutionProvider", "cpu")
    pairs = [(whole, session.run(row)) for whole, row in zip(outputs(graph, rows), rows, strict=True)]
    assert all([*one] == [*other] for one, other in pairs)
    return max(float(np.abs(one[name] - other[name]).max()) for one, other in pairs for name in one)


def composed(composite, folder):
    result, heard = result_of("ComposeOnnxModels", composite, folder)
    return graph_of(result), heard


@pytest.mark.parametrize("external", [{}, {"save_as_external_data": True, "location": "w.bin", "size_threshold": 0}])
@pytest.mark.parametrize(("n_splits", "apart", "nodes"), [(2, False, [9, 9]), (3, True, [1, 8, 4, 4, 1])])
def test_chain_of_parts_gives_what_the_graph_gives_and_compose_is_the_inverse(
    tmp_path, external, n_splits, apart, nodes
):
    graph = layered(tmp_path / "given" / "model.onnx", **external)
    params = {"num_splits": n_splits, "unique_embeds_lm_head_splits": apart}
    composite, heard = result_of("SplitModel", onnx_model(graph), tmp_path / "s", **params)
    assert list(composite.parts) == [f"split_{number}" for number in range(len(nodes))]
    assert [*heard.facts["nodes"].values()] == nodes
    assert chained_difference(graph, composite, rows_of_ids()) == 0
    assert signature_of(composite) == OnnxHeader.read(graph).signature
    whole, heard = composed(composite, tmp_path / "c")
    assert OnnxHeader.read(whole).signature == OnnxHeader.read(graph).signature
    assert operators(whole) == operators(graph)
    assert OnnxHeader.read(whole).n_parameters == OnnxHeader.read(graph).n_parameters
    assert largest_difference(graph, whole, rows_of_ids()) == 0
    assert heard.facts["changes"]["values that they handed over"] >= len(nodes) - 1


@pytest.mark.parametrize("dynamo", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_bert_of_both_exporters_is_split_by_its_layers(exported, tmp_path, dynamo):
    graph = exported("bert", target_opset=18, use_dynamo_exporter=dynamo)
    composite, _ = result_of("SplitModel", onnx_model(graph), tmp_path / "s", num_splits=2)
    assert chained_difference(graph, composite, rows_for(graph)) < 1e-5
    first, second = (OnnxHeader.read(graph_of(part)) for part in composite.parts.values())
    assert "pixel_values" not in {spec.name for spec in first.signature.inputs}
    assert abs(first.n_parameters - second.n_parameters) < 0.8 * first.n_parameters
    whole, _ = composed(composite, tmp_path / "c")
    assert operators(whole) == operators(graph)
    assert largest_difference(graph, whole) < 1e-5


@pytest.mark.parametrize(
    "params",
    [
        {"split_assignments": {"layers.0": 0, "layers.1": 0, "layers.2": 7, "layers.3": 7}},
        {"split_assignments": "layers.0=0;layers.1=0;layers.2=1;layers.3=1"},
        {"block_to_split": "layers", "num_splits": 2},
        {},  # the graph says it in its metadata, as Olive writes it
    ],
)
def test_every_way_of_saying_where_gives_the_same_parts(tmp_path, params):
    graph = layered(tmp_path / "given" / "model.onnx")
    marked = onnx.load(graph)
    helper.set_model_props(marked, {"split_assignments": "layers.0=0;layers.1=0;layers.2=1;layers.3=1"})
    onnx.save(marked, graph)
    composite, heard = result_of("SplitModel", onnx_model(graph), tmp_path / "s", **params)
    assert heard.facts["nodes"] == {"split_0": 9, "split_1": 9}
    assert chained_difference(graph, composite, rows_of_ids()) == 0


def test_a_file_of_costs_ends_a_part_where_memory_or_kind_does(tmp_path):
    graph = layered(tmp_path / "given" / "model.onnx")
    rows = ["layers.0,64,100,128", "layers.1,64,100,128", "layers.2,64,100,128", "layers.3,640,100,128"]
    (tmp_path / "costs.csv").write_text("module,num_params,num_bytes,num_flops\n" + "\n".join(rows))
    params = {"cost_model": str(tmp_path / "costs.csv"), "memory": "200B"}
    composite, heard = result_of("SplitModel", onnx_model(graph), tmp_path / "s", **params)
    assert heard.facts["nodes"] == {"split_0": 9, "split_1": 4, "split_2": 5}
    assert chained_difference(graph, composite, rows_of_ids()) == 0


def test_what_parts_hand_over_is_in_8_bits_where_the_graph_is(tmp_path):
    nodes = [
        helper.make_node("MatMul", ["x", "w0"], ["a"], name="/layers.0/MatMul"),
        helper.make_node("QuantizeLinear", ["a", "scale", "zero"], ["q"], name="/layers.0/Quantize"),
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["d"], name="/layers.0/Dequantize"),
        helper.make_node("MatMul", ["d", "w1"], ["b"], name="/layers.1/MatMul"),
        helper.make_node("Add", ["b", "d"], ["y"], name="/layers.1/Add"),
    ]
    stored = [weight("w0", 8, 8), weight("w1", 8, 8), numpy_helper.from_array(np.float32(0.05), "scale")]
    stored.append(numpy_helper.from_array(np.uint8(128), "zero"))
    graph = save(tmp_path / "given" / "m.onnx", nodes, [value("x", ["n", 8])], [value("y", ["n", 8])], stored)
    composite, heard = result_of("SplitModel", onnx_model(graph), tmp_path / "s", num_splits=2)
    (handed,) = OnnxHeader.read(graph_of(composite.parts["split_1"])).signature.inputs
    assert (handed.name, handed.dtype, heard.facts["handed_over"]) == ("q", "uint8", ["q"])
    rows = [{"x": np.random.default_rng(0).normal(size=(3, 8)).astype(np.float32)}]
    assert chained_difference(graph, composite, rows) == 0
    whole, _ = composed(composite, tmp_path / "c")
    assert largest_difference(graph, whole, rows) == 0


def test_inner_graphs_read_what_an_earlier_part_gives(tmp_path):
    branches = {
        f"{name}_branch": helper.make_graph(
            [helper.make_node(kind, ["a", "one"], [f"{name}_y"])], name, [], [value(f"{name}_y", ["n", 8])]
        )
        for name, kind in (("then", "Add"), ("else", "Sub"))
    }
    nodes = [
        helper.make_node("MatMul", ["x", "w0"], ["a"], name="/layers.0/MatMul"),
        helper.make_node("Tanh", ["a"], ["t"], name="/layers.0/Tanh"),
        helper.make_node("If", ["flag"], ["c"], name="/layers.1/If", **branches),
        helper.make_node("Add", ["c", "t"], ["y"], name="/layers.1/Add"),
    ]
    stored = [weight("w0", 8, 8), numpy_helper.from_array(np.float32(1), "one")]
    inputs = [value("x", ["n", 8]), value("flag", [], TensorProto.BOOL)]
    graph = save(tmp_path / "given" / "m.onnx", nodes, inputs, [value("y", ["n", 8])], stored)
    composite, heard = result_of("SplitModel", onnx_model(graph), tmp_path / "s", num_splits=2)
    assert heard.facts["handed_over"] == ["a", "t"]
    x = np.random.default_rng(0).normal(size=(3, 8)).astype(np.float32)
    rows = [{"x": x, "flag": np.array(flag)} for flag in (True, False)]
    assert chained_difference(graph, composite, rows) == 0
    whole, _ = composed(composite, tmp_path / "c")
    assert largest_difference(graph, whole, rows) == 0


def test_parts_that_were_written_by_hand_are_composed_whatever_their_inner_names(tmp_path):
    first = save(
        tmp_path / "a" / "model.onnx",
        [helper.make_node("MatMul", ["x", "w"], ["inner"], name="m"), helper.make_node("Tanh", ["inner"], ["h"])],
        [value("x", ["n", 8])],
        [value("h", ["n", 8])],
        [weight("w", 8, 8)],
    )
    second = save(
        tmp_path / "b" / "model.onnx",
        [helper.make_node("MatMul", ["h", "w"], ["inner"], name="m"), helper.make_node("Add", ["inner", "x"], ["y"])],
        [value("h", ["n", 8]), value("x", ["n", 8])],
        [value("y", ["n", 8])],
        [weight("w", 8, 8, seed=1)],
    )
    whole, heard = composed(composite_of(tmp_path, first, second), tmp_path / "c")
    signature = OnnxHeader.read(whole).signature
    assert ([one.name for one in signature.inputs], [one.name for one in signature.outputs]) == (["x"], ["y"])
    x = np.random.default_rng(0).normal(size=(3, 8)).astype(np.float32)
    stored = [numpy_helper.to_array(onnx.load(path).graph.initializer[0]) for path in (first, second)]
    expected = np.tanh(x @ stored[0]) @ stored[1] + x
    assert np.abs(outputs(whole, [{"x": x}])[0]["y"] - expected).max() < 1e-5
    assert heard.warnings == []


def composite_of(folder, *graphs):
    return Model("composite", folder, parts={path.parent.name: onnx_model(path) for path in graphs})


def one_node(path, kind="Tanh", given="x", gives="y", dtype=TensorProto.FLOAT, opset=20):
    save(
        path,
        [helper.make_node(kind, [given], [gives])],
        [value(given, ["n", 8], dtype)],
        [value(gives, ["n", 8], dtype)],
        [],
    )
    model = onnx.load(path)
    model.opset_import[0].version = opset
    onnx.save(model, path)
    return path


@pytest.mark.parametrize(
    ("second", "message"),
    [
        ({"given": "z"}, "the parts 'a' and 'b' both give 'y'"),
        ({"given": "y", "gives": "x"}, "the part 'b' gives 'x', which 'a' takes before it is there"),
        (
            {"given": "y", "gives": "z", "dtype": TensorProto.DOUBLE},
            "takes 'y' as DOUBLE, but what it is given is FLOAT",
        ),
        ({"given": "y", "gives": "z", "opset": 19}, "are of opsets 20 and 19 of ONNX: bring them to one with"),
    ],
)
def test_parts_that_do_not_fit_are_told(tmp_path, second, message):
    first = one_node(tmp_path / "a" / "model.onnx")
    with pytest.raises(ModelError, match=message):
        composed(composite_of(tmp_path, first, one_node(tmp_path / "b" / "model.onnx", **second)), tmp_path / "c")


def test_parts_that_hand_nothing_over_stand_side_by_side(tmp_path):
    graphs = [
        one_node(tmp_path / "a" / "model.onnx", gives="ya"),
        one_node(tmp_path / "b" / "model.onnx", kind="Sin", gives="yb"),
    ]
    whole, heard = composed(composite_of(tmp_path, *graphs), tmp_path / "c")
    assert heard.warnings == ["no part takes what another one gives: they stand side by side in one graph"]
    x = np.ones((2, 8), np.float32)
    (given,) = outputs(whole, [{"x": x}])
    assert np.allclose(given["ya"], np.tanh(x))
    assert np.allclose(given["yb"], np.sin(x))


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"num_splits": 2}, "number no layers: name modules as block_to_split"),
        ({"num_splits": 2, "block_to_split": "blocks"}, "no node of the graph is of the module 'blocks'"),
        ({"split_assignments": {"blocks.0": 0}}, "no node of the graph is of a module that is assigned"),
        ({}, "it is not said where the graph is split"),
    ],
)
def test_graph_that_cannot_be_split_so_is_told(tmp_path, params, message):
    graph = one_node(tmp_path / "given" / "model.onnx")
    with pytest.raises(ModelError, match=message):
        result_of("SplitModel", onnx_model(graph), tmp_path / "s", **params)


def test_one_graph_cannot_be_composed(tmp_path):
    with pytest.raises(Unsupported, match="takes a model of several parts, but got one graph"):
        composed(onnx_model(one_node(tmp_path / "given" / "model.onnx")), tmp_path / "c")


def test_pass_that_renames_between_the_parts_leaves_them_without_a_chain(tmp_path):
    graph = layered(tmp_path / "given" / "model.onnx")
    composite, _ = result_of("SplitModel", onnx_model(graph), tmp_path / "s", num_splits=2)
    surgery = passes.find("GraphSurgeries")
    rename = {"surgeon": "RenameOutputs", "old_names": ["x2"], "new_names": ["between"]}
    step = surgery(surgery.Params.model_validate({"surgeries": [rename]}))
    (tmp_path / "r").mkdir()
    (tmp_path / "scratch").mkdir()
    renamed = parts.run(step, composite, Context(tmp_path / "r", tmp_path / "scratch", MACHINE, Heard()))
    assert renamed.attributes[CHAIN] == composite.attributes[CHAIN]
    assert {spec.name.partition("/")[0] for spec in signature_of(renamed).inputs} == {"split_0", "split_1"}


def test_plan_tells_what_cannot_be_split(tmp_path):
    def problems(**params):
        passes_ = {"w": {"type": "CaptureSplitInfo", **params}, "b": {"type": "ModelBuilder", "precision": "fp32"}}
        config = write_config(tmp_path, tiny_model(tmp_path / "model"), passes_ | {"s": {"type": "SplitModel"}})
        return [f"{problem.message}" for problem in make_plan(load(config)).problems]

    (message,) = problems()
    assert "it is not said how many parts there are" in message
    (message,) = problems(num_splits=9)
    assert "num_splits 9 is more than the model's 2 layers" in message
    (message,) = problems(num_splits=2, block_to_split="model.blocks")
    assert "no module 'model.blocks' with weights" in message
    assert "cost_model needs memory" in problems(cost_model="costs.csv")[0]
    assert any("there is no file 'costs.csv'" in message for message in problems(cost_model="costs.csv", memory="8GB"))
    (tmp_path / "costs.csv").write_text("module,bytes\nmodel.layers.0,1\n")
    told = problems(cost_model=str(tmp_path / "costs.csv"), memory="8GB")
    assert any("has no column 'num_params'" in message for message in told)


def test_memory_of_an_accelerator_is_that_of_a_part(tmp_path):
    (tmp_path / "costs.csv").write_text("module,num_params,num_bytes,num_flops\nmodel.layers.0,1,1,1\n")
    step = {"type": "CaptureSplitInfo", "cost_model": str(tmp_path / "costs.csv")}
    systems = {"here": {"type": "LocalSystem", "accelerators": [{"device": "cpu", "memory": "4GB"}]}}
    model = tiny_model(tmp_path / "model")
    config = write_config(tmp_path, model, {"w": step, "b": {"type": "ModelBuilder"}}, systems=systems, target="here")
    assert load(config).workflow.passes["w"].params["memory"] == "4GB"


@pytest.mark.slow
def test_decoder_is_split_where_the_checkpoint_says_and_composed_for_genai(tmp_path):
    model = {
        "w": {"type": "CaptureSplitInfo", "num_splits": 2, "unique_embeds_lm_head_splits": True},
        "b": {"type": "ModelBuilder", "precision": "int4", "int4_block_size": 16, "int4_algo_config": "default"},
        "s": {"type": "SplitModel"},
        "o": {"type": "ComposeOnnxModels"},
    }
    plan = make_plan(load(write_config(tmp_path, tiny_model(tmp_path / "model"), model)))
    assert plan.problems == ()
    result = run(plan)
    scores = {score["model"]: score for score in result.scores}
    assert set(scores) == {"base", "b", "o"}  # parts with a cache are asked nothing
    assert scores["o"]["loss"] == pytest.approx(scores["b"]["loss"], abs=1e-6)
    assert (tmp_path / "out" / "model" / "genai_config.json").is_file()


@pytest.mark.slow
def test_parts_are_quantized_on_what_the_parts_before_them_give_and_scored_together(tmp_path):
    steps = {
        "c": {"type": "OnnxConversion", "target_opset": 17},
        "s": {"type": "SplitModel", "num_splits": 2},
        "q": {"type": "OnnxStaticQuantization", "activation_type": "uint8", "quant_format": "QDQ"},
        "o": {"type": "ComposeOnnxModels"},
    }
    plan = make_plan(load(write_config(tmp_path, tiny_encoder(tmp_path / "model", "bert"), steps)))
    assert plan.problems == ()
    scores = {score["model"]: score for score in run(plan).scores}
    assert scores["s"]["cosine"] == pytest.approx(1, abs=1e-5)
    assert scores["q"]["cosine"] > 0.9
    assert scores["o"]["cosine"] == pytest.approx(1, abs=1e-5)  # beside the parts before it


def test_surgeon_that_counts_inputs_changes_the_parts_that_have_so_many(tmp_path):
    first = one_node(tmp_path / "a" / "model.onnx", kind="Tanh")
    second = save(
        tmp_path / "b" / "model.onnx",
        [helper.make_node("Add", ["y", "z"], ["sum"])],
        [value("y", ["n", 8]), value("z", ["n", 8])],
        [value("sum", ["n", 8])],
        [],
    )
    surgery = passes.find("GraphSurgeries")
    rename = {"surgeon": "RenameInputDims", "input_idx": 1, "dim_idx": 0, "dim_name": "rows"}
    step = surgery(surgery.Params.model_validate({"surgeries": [rename]}))
    (tmp_path / "r").mkdir()
    (tmp_path / "scratch").mkdir()
    heard = Heard()
    result = parts.run(
        step, composite_of(tmp_path, first, second), Context(tmp_path / "r", tmp_path / "scratch", MACHINE, heard)
    )
    assert OnnxHeader.read(graph_of(result.parts["b"])).signature.inputs[1].shape == ("rows", 8)
    assert "a: RenameInputDims changes nothing: the graph has 1 inputs, and no input 1" in heard.warnings
    with pytest.raises(ModelError, match="the graph has 1 inputs, and no input 1"):
        result_of("GraphSurgeries", onnx_model(first), tmp_path / "s", surgeries=[rename])


def test_fewer_parts_than_were_asked_for_are_told(tmp_path):
    graph = layered(tmp_path / "given" / "model.onnx", n_layers=2)
    composite, heard = result_of("SplitModel", onnx_model(graph), tmp_path / "s", num_splits=5)
    assert list(composite.parts) == ["split_0", "split_1"]
    assert heard.warnings == ["5 parts were asked for, and the modules of the graph make 2"]
