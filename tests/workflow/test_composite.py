"""Models of several parts: each is planned, changed and compared by itself, and delivered in a folder of its own."""

import json

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from encoders import tiny_encoder
from graphs import N_TOKENS, logits_of, text_classifier
from olivine.config import load
from olivine.models import Model
from olivine.models.onnx_files import onnx_facts, onnx_model
from olivine.store.hashes import Hashes
from olivine.store.packing import pack, unpack
from olivine.workflow.columns import score_table
from olivine.workflow.engine import run
from olivine.workflow.keys import model_content
from olivine.workflow.plan import make_plan

pytestmark = pytest.mark.usefixtures("warm")

SCRIPT = """
import torch

class Half(torch.nn.Module):
    def __init__(self, seed):
        super().__init__()
        torch.manual_seed(seed)
        self.layer = torch.nn.Linear(6, 6)

    def forward(self, x):
        return torch.tanh(self.layer(x))

def load_encoder(path):
    return Half(1)

def load_decoder(path):
    return Half(2)

def part_of_2023(name):
    assert name.split("/")[-1] == "model" and isinstance(name, str)
    return Half(3)

def part_of_2024(handler):
    module = handler.load_model()
    assert module.config.model_type == "bert" and handler.hf_config.model_name == handler.model_path
    return Half(4)

def io_config(model):
    return {"input_names": ["x"], "input_shapes": [[1, 6]], "output_names": ["y"], "dynamic_axes": {"x": {"0": "n"}}}
"""
IO = {"input_names": ["x"], "input_shapes": [[1, 6]], "output_names": ["y"], "dynamic_axes": {"x": {"0": "n"}}}
SMALLER = {"half": {"type": "OnnxFloatToFloat16"}, "small": {"type": "OnnxDynamicQuantization", "min_cosine": 0}}


@pytest.fixture
def folder(tmp_path):
    text_classifier(tmp_path / "given" / "encoder" / "model.onnx")
    text_classifier(tmp_path / "given" / "decoder" / "model.onnx", last="other")
    (tmp_path / "given" / "tokenizer.json").write_text("{}")
    (tmp_path / "parts.py").write_text(SCRIPT)
    return tmp_path


def graphs(folder, names=("encoder", "decoder"), **more):
    parts = [{"type": "ONNXModel", "model_path": str(folder / "given" / name / "model.onnx")} for name in names]
    return {"type": "CompositeModel", "model_component_names": list(names), "model_components": parts} | more


def planned(folder, model, passes=SMALLER, **more):
    config = {"input_model": model, "passes": passes, "cache_dir": str(folder / "cache")}
    config |= {"output_dir": str(folder / "out")} | more
    (folder / "config.json").write_text(json.dumps(config, indent=1))
    return make_plan(load(folder / "config.json"))


def problem_of(folder, model, passes=SMALLER):
    (problem,) = planned(folder, model, passes).problems
    return f"{problem.kind}: {problem.message}"


def outputs(path, **given):
    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, given)[0]


@pytest.mark.slow
def test_every_part_goes_through_every_pass_is_compared_and_delivered(folder):
    plan = planned(folder, graphs(folder, model_path=str(folder / "given")))
    assert plan.problems == ()
    base, half, small = run(plan).scores
    assert 0 < half["largest_difference"] < 0.01
    assert small["size_bytes"] < base["size_bytes"]
    assert list(small["parts"]) == ["encoder", "decoder"]
    worst = min(part["cosine"] for part in small["parts"].values())
    assert small["cosine"] == pytest.approx(worst)
    model = folder / "out" / "model"
    names = {path.relative_to(model).as_posix() for path in model.rglob("*") if path.is_file()}
    assert names == {"encoder/model.onnx", "decoder/model.onnx", "tokenizer.json"}
    ids = np.random.default_rng(5).integers(0, N_TOKENS, (1, 6))
    for name in ("encoder", "decoder"):
        given = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
        expected = logits_of(folder / "given" / name / "model.onnx", ids)
        assert np.abs(outputs(model / name / "model.onnx", **given) - expected).max() < 0.1
    table = "\n".join(score_table([base, half, small]))
    assert table.count("- encoder") == table.count("- decoder") == 3
    again = make_plan(load(folder / "out" / "workflow.json"))
    assert again.cached == {"half", "small", "score:base", "score:half", "score:small"}


def test_one_changed_part_makes_another_model(folder):
    parts = {name: onnx_model(folder / "given" / name) for name in ("encoder", "decoder")}
    model = Model("composite", folder / "given", parts=parts)
    before = model_content(model, Hashes(folder / "cache"))
    assert model_content(Model.from_json(model.to_json()), Hashes(folder / "cache")) == before
    others = dict(reversed(parts.items()))
    assert model_content(Model("composite", folder / "given", parts=others), Hashes(folder / "cache")) != before
    path = folder / "given" / "decoder" / "model.onnx"
    graph = onnx.load(path)
    graph.graph.node[0].name = "renamed"
    onnx.save(graph, path)
    assert model_content(model, Hashes(folder / "cache")) != before


def test_record_of_parts_holds_wherever_the_entry_lies(folder):
    parts = {name: onnx_model(folder / "given" / name) for name in ("encoder", "decoder")}
    given = Model("composite", folder / "given", parts=parts)
    made = Model(
        "composite", folder / "a", parts={"encoder": parts["encoder"], "decoder": Model("onnx", folder / "a/d")}
    )
    packed = pack(made.to_json(), folder / "a", given.to_json())
    assert packed["parts"] == {"encoder": "${input/encoder}", "decoder": packed["parts"]["decoder"]}
    assert str(folder) not in json.dumps(packed)
    back = Model.from_json(unpack(packed, folder / "b", given.to_json()))
    assert back.parts["encoder"] == parts["encoder"]
    assert (back.path, back.parts["decoder"].path) == (folder / "b", folder / "b" / "d")


@pytest.mark.slow
def test_parts_that_functions_of_a_script_give_are_exported(folder):
    loaders = [
        {"type": "PyTorchModel", "model_loader": f"load_{name}", "model_script": "parts.py", "io_config": IO}
        for name in ("encoder", "decoder")
    ]
    model = {"type": "CompositePyTorchModel", "model_component_names": ["encoder", "decoder"]}
    passes = {"c": {"type": "OnnxConversion", "target_opset": 17}, "f": {"type": "OnnxFloatToFloat16"}}
    plan = planned(folder, model | {"model_components": loaders}, passes)
    assert plan.problems == ()
    base, exported, _ = run(plan).scores
    assert exported["cosine"] > 0.9999
    assert base["n_rows"] == 16
    x = np.random.default_rng(0).standard_normal((3, 6)).astype(np.float16)
    for name, seed in (("encoder", 1), ("decoder", 2)):
        torch.manual_seed(seed)
        expected = torch.tanh(torch.nn.Linear(6, 6)(torch.from_numpy(x).float())).detach().numpy()
        assert np.abs(outputs(folder / "out" / "model" / name / "model.onnx", x=x) - expected).max() < 0.01
    again = folder / "again.json"  # beside the script, which is consent to it
    again.write_text((folder / "out" / "workflow.json").read_text())
    assert make_plan(load(again)).cached >= {"c", "f"}


@pytest.mark.slow
def test_components_of_a_model_of_2023_are_what_their_functions_take_out_of_it(folder):
    tiny_encoder(folder / "model")
    components = [
        {"name": "first", "component_func": "part_of_2023", "io_config": "io_config"},
        {"name": "second", "component_func": "part_of_2024", "io_config": IO},
    ]
    hf_config = {"model_name": str(folder / "model"), "model_class": "Bert", "components": components}
    model = {"type": "PyTorchModel", "config": {"model_script": "parts.py", "hf_config": hf_config}}
    plan = planned(folder, model, {"c": {"type": "OnnxConversion"}}, quality={"enabled": False})
    assert plan.problems == ()
    assert run(plan).model == folder / "out" / "model"
    assert {path.name for path in (folder / "out" / "model").iterdir()} == {"first", "second"}


@pytest.mark.slow
def test_rows_give_each_part_the_columns_that_it_has_names_for(folder):
    rows = "".join(json.dumps({"input_ids": [n, n + 1]}) + "\n" for n in range(5))
    (folder / "rows.jsonl").write_text(rows)
    data = [{"name": "mine", "load_dataset_config": {"data_name": "json", "data_files": "rows.jsonl"}}]
    given = {"data_configs": data, "quality": {"data_config": "mine"}}
    plan = planned(folder, graphs(folder), {"s": {"type": "OnnxStaticQuantization", "data_config": "mine"}}, **given)
    assert plan.problems == ()
    base, small = run(plan).scores
    assert base["n_rows"] == 5
    assert small["cosine"] > 0.95


def test_parts_that_do_not_make_a_model_are_one_problem_each(folder):
    two = graphs(folder)["model_components"]
    one_named = graphs(folder) | {"model_component_names": ["encoder"]}
    assert problem_of(folder, one_named) == "invalid-value: the model has 2 parts, and 1 of them has a name."
    unnamed = {"type": "CompositeModel", "model_components": two}
    assert problem_of(folder, unnamed) == "invalid-value: the model has 2 parts, and none of them has a name."
    twice = graphs(folder) | {"model_component_names": ["same", "Same"]}
    assert problem_of(folder, twice) == "invalid-value: two parts are named 'same'."
    outside = graphs(folder) | {"model_component_names": ["../a", "b"]}
    assert problem_of(folder, outside).startswith("invalid-value: a part cannot be named '../a'")
    assert problem_of(folder, {"type": "CompositeModel"}).startswith("unsupported: a CompositeModel has parts")
    inner = graphs(folder) | {"model_components": [graphs(folder), two[0]]}
    assert problem_of(folder, inner) == "unsupported: the part 'encoder' is a model of several parts itself."
    (folder / "given" / "decoder" / "model.onnx").unlink()
    assert problem_of(folder, graphs(folder)).startswith("missing-model: the model '")


@pytest.mark.slow
def test_checkpoint_script_and_graph_become_graphs_of_which_the_one_that_is_there_stays(folder):
    vit = {"type": "HfModel", "model_path": str(tiny_encoder(folder / "vit", "vit"))}
    loader = {"type": "PyTorchModel", "model_loader": "load_encoder", "model_script": "parts.py", "io_config": IO}
    model = graphs(folder)
    model["model_components"] = [model["model_components"][0], vit, loader]
    model["model_component_names"] = ["text", "image", "half"]
    plan = planned(folder, model, {"c": {"type": "OnnxConversion"}, "f": {"type": "OnnxFloatToFloat16"}})
    assert plan.problems == ()
    assert "step c: 'text' is a graph already, and left as it is" in plan.translated
    base, exported, half = run(plan).scores
    assert exported["parts"]["text"]["largest_difference"] == 0
    assert exported["parts"]["image"]["cosine"] > 0.9999
    assert half["parts"]["text"]["size_bytes"] < base["parts"]["text"]["size_bytes"]
    assert {path.parent.name for path in (folder / "out" / "model").glob("*/model.onnx")} == {"text", "image", "half"}
    assert make_plan(load(folder / "config.json")).cached >= {"c", "f", "score:base", "score:c", "score:f"}


def test_graphs_in_folders_of_a_named_one_are_the_parts(folder):
    plan = planned(folder, {"type": "CompositeModel", "model_path": str(folder / "given")})
    assert plan.problems == ()
    assert list(plan.input_model.parts) == ["decoder", "encoder"]
    named = {"type": "CompositeModel", "model_path": str(folder / "given"), "model_component_names": ["encoder"]}
    assert list(planned(folder, named).input_model.parts) == ["encoder"]
    gone = named | {"model_component_names": ["encoder", "vision"]}
    assert problem_of(folder, gone).endswith("vision' does not exist.")
    (folder / "empty").mkdir()
    empty = {"type": "CompositeModel", "model_path": str(folder / "empty")}
    assert problem_of(folder, empty).startswith("unsupported: a CompositeModel has parts")


def test_parts_lie_in_the_folder_of_the_whole(folder):
    names, whole = ["encoder", "decoder"], {"type": "CompositeModel", "model_path": str(folder / "given")}
    below = [{"type": "ONNXModel", "model_path": f"{name}/model.onnx"} for name in names]
    files = [{"type": "ONNXModel", "onnx_file_name": f"{name}/model.onnx"} for name in names]
    for parts in (below, files):
        plan = planned(folder, whole | {"model_component_names": names, "model_components": parts})
        assert plan.problems == ()
        assert [part.path.name for part in plan.input_model.parts.values()] == names


def test_parts_that_no_pass_takes_and_passes_on_one_model_are_refused_while_planning(folder):
    mixed = graphs(folder)
    mixed["model_components"][1] = {"type": "HfModel", "model_path": str(tiny_encoder(folder / "vit", "vit"))}
    plan = planned(folder, mixed)
    assert [(one.message, one.fix) for one in plan.problems] == [
        ("pass 'half' takes onnx, but what reaches it is hf.", "Put 'convert' before it.")
    ]
    (folder / "layers.xml").write_text("<net/>")
    (folder / "layers.bin").write_bytes(b"")
    mixed["model_components"][1] = {"type": "OpenVINOModel", "model_path": str(folder / "layers.xml")}
    assert all("convert" not in str(one.fix) for one in planned(folder, mixed).problems)
    told = problem_of(folder, graphs(folder), {"b": {"type": "ModelBuilder", "precision": "int4"}})
    assert told == (
        "unsupported: the pass 'b' (build) works on one model, and this is a model of the parts 'encoder', 'decoder'."
    )
    told = problem_of(folder, graphs(folder), {"c": {"type": "OnnxConversion"}})
    assert told == "invalid-value: pass 'c' takes adapter or diffusers or hf or script, but what reaches it is onnx."


def test_sizes_are_fixed_where_a_part_has_them(folder):
    text_classifier(folder / "given" / "decoder" / "model.onnx", last="other")
    graph = onnx.load(folder / "given" / "decoder" / "model.onnx")
    for value in graph.graph.input:
        value.type.tensor_type.shape.dim[1].dim_param = "tokens"
    onnx.save(graph, folder / "given" / "decoder" / "model.onnx")
    fixed = {"type": "DynamicToFixedShape", "dim_param": ["batch", "sequence"], "dim_value": [1, 7]}
    plan = planned(folder, graphs(folder), {"f": fixed}, quality={"enabled": False})
    assert plan.problems == ()
    model = run(plan).model
    shapes = [
        [one.shape for one in onnx_facts(onnx_model(model / name)).signature.inputs] for name in ("encoder", "decoder")
    ]
    assert shapes == [[(1, 7)] * 2, [(1, "tokens")] * 2]
    told = problem_of(folder, graphs(folder), {"f": fixed | {"dim_param": ["batch", "heads"]}})
    assert told == "invalid-value: no input has an open size 'heads'."


def test_parts_are_no_single_file(folder):
    told = [problem.message for problem in planned(folder, graphs(folder), output_dir=str(folder / "o.onnx")).problems]
    assert told == ["the result is to be the file 'o.onnx', but it has the parts encoder, decoder."]


def test_error_in_a_part_names_it(folder):
    from olivine.errors import StepFailed

    passes = {"s": {"type": "OnnxDynamicQuantization", "min_cosine": 1.0, "mend": False}}
    with pytest.raises(StepFailed, match="the part 'encoder': quantized, the outputs have a cosine"):
        run(planned(folder, graphs(folder), passes, quality={"enabled": False}))
    assert not (folder / "out" / "model").exists()
