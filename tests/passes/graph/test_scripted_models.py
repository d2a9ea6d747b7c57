"""Models of a user's script, and what a config says of inputs and outputs: exported, compared, scored."""

import json
import sys

import numpy as np
import onnxruntime
import pytest

from encoders import tiny_encoder
from olivine.config import load
from olivine.errors import ModelError
from olivine.models import Model
from olivine.models.loading import load_module
from olivine.models.scripted import opened
from olivine.store.hashes import Hashes
from olivine.workflow.engine import run
from olivine.workflow.keys import model_content
from olivine.workflow.plan import make_plan

pytestmark = pytest.mark.usefixtures("warm")

SCRIPT = """
import torch

class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv = torch.nn.Conv2d(3, 4, 3, padding=1)
        self.head = torch.nn.Linear(4, 5)

    def forward(self, x, bias):
        return self.head(torch.relu(self.conv(x)).mean((2, 3))) + bias

def load_net(model_path):
    assert model_path is None or model_path.endswith("weights")
    return Net()

def example(model):
    return {"x": torch.ones(1, 3, 16, 16), "bias": torch.ones(1, 5)}

def io_config(model):
    return {"input_names": ["x", "bias"], "output_names": ["scores"], "dynamic_axes": {"x": {"0": "rows"}, "bias": {"0": "rows"}}}
"""


@pytest.fixture
def planned(tmp_path):
    (tmp_path / "net.py").write_text(SCRIPT)

    def plan(input_model, passes=None):
        config = {
            "input_model": input_model,
            "passes": passes or {"c": {"type": "OnnxConversion", "target_opset": 17}},
            "cache_dir": str(tmp_path / "cache"),
            "output_dir": str(tmp_path / "out"),
        }
        (tmp_path / "config.json").write_text(json.dumps(config))
        return make_plan(load(tmp_path / "config.json"))

    return plan


def scores_of(folder, rows, size=16):
    session = onnxruntime.InferenceSession(folder / "model" / "model.onnx", providers=["CPUExecutionProvider"])
    given = {"x": np.ones((rows, 3, size, size), "float32"), "bias": np.zeros((rows, 5), "float32")}
    return session.run(["scores"], given)[0]


def scripted(**keys):
    return {"type": "PyTorchModel", "model_loader": "load_net", "model_script": "net.py"} | keys


IO = {
    "input_names": ["x", "bias"],
    "input_shapes": [[1, 3, 16, 16], [1, 5]],
    "output_names": ["scores"],
    "dynamic_axes": {"x": {"0": "rows", "2": "high", "3": "wide"}, "bias": {"0": "rows"}, "scores": {"0": "rows"}},
}


@pytest.mark.parametrize(
    "keys", [{"io_config": IO}, {"io_config": "io_config", "dummy_inputs_func": "example"}], ids=["config", "functions"]
)
def test_module_of_a_script_is_exported_as_it_computes(planned, tmp_path, keys):
    plan = planned(scripted(**keys))
    assert plan.problems == ()
    result = run(plan)
    (step,) = [one for one in result.steps if "largest_difference" in one["facts"]]
    assert step["facts"]["largest_difference"] < 1e-3
    sys.path.insert(0, str(tmp_path))
    try:
        import net
        import torch

        with torch.inference_mode():
            expected = net.Net().eval()(torch.ones(3, 3, 16, 16), torch.zeros(3, 5)).numpy()
    finally:
        sys.path.remove(str(tmp_path))
        sys.modules.pop("net", None)
    assert np.abs(scores_of(tmp_path / "out", 3) - expected).max() < 1e-4
    again = planned(scripted(**keys))
    assert "c" in again.cached
    (tmp_path / "net.py").write_text(SCRIPT + "# changed\n")
    assert "c" not in planned(scripted(**keys)).cached


@pytest.mark.slow
def test_sizes_that_the_config_opens_are_open_and_others_are_not(planned, tmp_path):
    run(planned(scripted(io_config=IO)))
    assert scores_of(tmp_path / "out", 2, size=24).shape == (2, 5)
    run(planned(scripted(io_config=IO | {"dynamic_axes": None})))
    with pytest.raises(Exception, match="Got invalid dimensions"):
        scores_of(tmp_path / "out", 2)


def test_input_model_of_a_script_is_compared_with_its_graph(planned):
    base, graph = run(planned(scripted(io_config=IO))).scores
    assert (base["model"], graph["cosine"]) == ("base", pytest.approx(1, abs=1e-5))


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({}, "nothing says what goes into the module that 'load_net' gives."),
        ({"io_config": {"input_names": ["x"]}}, "nothing tells the shape of the input 'x'"),
        ({"io_config": "io_confg"}, "has no function 'io_confg'."),
    ],
)
def test_what_is_not_told_of_a_module_is_one_message(planned, keys, said):
    (problem,) = planned(scripted(**keys)).problems
    assert said in problem.message


@pytest.mark.slow
def test_names_of_an_io_config_are_those_of_the_graph(planned, tmp_path):
    folder = tiny_encoder(tmp_path / "bert", "bert")
    io = {
        "input_names": ["input_ids", "attention_mask"],
        "output_names": ["answer"],
        "dynamic_axes": {"input_ids": {"0": "rows"}, "attention_mask": {"0": "rows"}, "answer": {"0": "rows"}},
        "input_shapes": [[1, 12], [1, 12]],
        "input_types": ["int64", "int64"],
    }
    model = {"type": "HfModel", "model_path": str(folder), "io_config": io}
    model["load_kwargs"] = {"attn_implementation": "eager", "torch_dtype": "float32"}
    fixed = {"type": "DynamicToFixedShape", "dim_param": ["rows"], "dim_value": [2]}
    plan = planned(model, {"c": {"type": "OnnxConversion"}, "f": fixed})
    assert plan.problems == ()
    run(plan)
    session = onnxruntime.InferenceSession(tmp_path / "out" / "model" / "model.onnx")
    assert [(one.name, one.shape) for one in session.get_inputs()] == [
        ("input_ids", [2, 12]),
        ("attention_mask", [2, 12]),
    ]
    assert session.get_outputs()[0].name == "answer"


def test_key_of_a_script_s_model_holds_all_that_its_loader_is_given(planned, tmp_path):
    def content(**keys):
        return model_content(planned(scripted(io_config=IO, **keys)).input_model, Hashes(tmp_path / "cache"))

    weights = tmp_path / "weights"
    weights.mkdir()
    (weights / "a.bin").write_bytes(b"1")
    plain, named, folder = content(), content(model_path="resnet18"), content(model_path=str(weights))
    others = [content(model_path="resnet50")]  # a name that only the loader understands
    (weights / "a.bin").rename(weights / "b.bin")
    others.append(content(model_path=str(weights)))
    (tmp_path / "helper.py").write_text("")
    others.append(content())
    (tmp_path / "helper.py").rename(tmp_path / "renamed.py")
    others.append(content())
    assert len({plain, named, folder, *others}) == 7


@pytest.mark.parametrize(
    ("given", "said"),
    [("None", "NoneType"), ("Net", "the class Net"), ("{}", "dict")],
    ids=["nothing", "class", "dict"],
)
def test_loader_that_gives_no_module_is_told(tmp_path, given, said):
    (tmp_path / "net.py").write_text(
        f"class Net:\n    named_parameters = eval = print\n\ndef load(_): return {given}\n"
    )
    script = {"path": str(tmp_path / "net.py"), "folder": str(tmp_path), "model_loader": "load"}
    model = Model("script", tmp_path / "net.py", attributes={"script": script})
    with (
        opened(model, load_module) as scripted_model,
        pytest.raises(ModelError, match=f"net.py gave {said}, no torch module"),
    ):
        scripted_model.module()
