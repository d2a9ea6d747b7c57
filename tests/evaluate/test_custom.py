"""What a function of a user's script is called with, whichever year its params are of."""

import json

import pytest

from encoders import tiny_encoder
from olivine.evaluate import Evidence, custom_numbers
from olivine.models import Model
from olivine.work import Machine

MACHINE = Machine("cpu", "CPUExecutionProvider", 8 * 10**9, 10**12, 2)
DEVICE, PROVIDERS = "cpu", ["CPUExecutionProvider"]
FUNCTIONS = """
import json
from pathlib import Path

def told(*given):
    Path(__file__).with_name("told.json").write_text(json.dumps(given))
    return 1

def of_today(model, device, execution_providers): return told(device, execution_providers)
def with_kwargs(model, device, execution_providers, data_dir, batch_size=16): return told(device, execution_providers, data_dir, batch_size)
def of_february_2023(model, data_dir, batch_size): return told(data_dir, batch_size)
def of_2023(model, data_dir, batch_size, device, execution_providers): return told(data_dir, batch_size, device, execution_providers)
def own_names(m, where, n, on, eps): return told(where, n, on, eps)
def short_names(m, d): return told(d)
def slashed(m, d, /): return told(d)
def model_alone(model): return told()
def anything(model, **more): return told(*sorted(more))
def by_place(model, *more): return told(*more)
def outputs(model_output, targets, scale): return told(model_output, targets, scale)
def other_outputs(preds, labels): return told(preds, labels)
"""
OLDER = {"data_dir": "here", "batch_size": 4}


@pytest.mark.parametrize(
    ("function", "kwargs", "older", "given"),
    [
        ("of_today", {}, {}, [DEVICE, PROVIDERS]),
        ("of_today", {}, OLDER, [DEVICE, PROVIDERS]),
        ("with_kwargs", {"data_dir": "rows"}, {}, [DEVICE, PROVIDERS, "rows", 16]),
        ("with_kwargs", {"data_dir": "rows", "batch_size": 2}, {}, [DEVICE, PROVIDERS, "rows", 2]),
        ("of_february_2023", {}, OLDER, ["here", 4]),
        ("of_february_2023", {"data_dir": "rows", "batch_size": 2}, {}, ["rows", 2]),
        ("of_2023", {}, OLDER, ["here", 4, DEVICE, PROVIDERS]),
        ("of_2023", {}, {"batch_size": 4}, [None, 4, DEVICE, PROVIDERS]),
        ("own_names", {}, OLDER, ["here", 4, DEVICE, PROVIDERS]),
        ("own_names", {"where": "a", "n": 1}, {}, ["a", 1, DEVICE, PROVIDERS]),
        ("own_names", {"eps": "x"}, OLDER, ["here", 4, DEVICE, "x"]),
        ("slashed", {}, {}, [DEVICE]),
        ("short_names", {}, {}, [DEVICE]),
        ("model_alone", {}, {}, []),
        ("anything", {"extra": 1}, {}, ["device", "execution_providers", "extra"]),
        ("by_place", {}, OLDER, ["here", 4, DEVICE, PROVIDERS]),
        ("outputs", {"scale": 2}, OLDER, [["joy"], ["fear"], 2]),
        ("other_outputs", {}, {}, [["joy"], ["fear"]]),
    ],
)
def test_function_gets_what_its_params_ask_for(tmp_path, function, kwargs, older, given):
    (tmp_path / "own.py").write_text(FUNCTIONS)
    script = {"name": "own", "user_script": str(tmp_path / "own.py"), "script_dir": None, "function": function}
    script |= {
        "on_outputs": "outputs" in function,
        "kwargs": kwargs,
        "of_2023": older,
        "numbers": ["x"],
        "max_seconds": 60,
    }
    evidence = Evidence(labels=["fear"], generated=["joy"], token_losses=None, log_probabilities=None)
    assert custom_numbers([script], Model("hf", tmp_path), evidence, MACHINE) == {"own.x": 1}
    assert json.loads((tmp_path / "told.json").read_text()) == given


def test_script_opens_a_model_of_any_kind(tmp_path):
    folder = tiny_encoder(tmp_path / "bert")
    (tmp_path / "own.py").write_text("def classes(model): return model.load_model().config.num_labels\n")
    script = {"name": "own", "user_script": str(tmp_path / "own.py"), "script_dir": None, "function": "classes"}
    script |= {"on_outputs": False, "kwargs": {}, "numbers": ["x"], "max_seconds": 60}
    assert custom_numbers([script], Model("hf", folder), None, MACHINE) == {"own.x": 3}
