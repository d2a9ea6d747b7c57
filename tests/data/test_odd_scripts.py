"""Whatever a user's script gives, it is rows, an io_config or a number, or one sentence that names the script."""

import sys
import types

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from damage import assert_is_sentence, fuzzed
from olivine.config.schema import DataConfig, IoConfig
from olivine.data._scripted import scripted_rows
from olivine.errors import DataError, ModelError, OlivineError
from olivine.evaluate._custom import custom_numbers
from olivine.models import Model
from olivine.models.loading import load_module
from olivine.models.scripted import SCRIPT, opened
from olivine.work import Machine

SCRIPT_TEXT = """
import sys

def give(*arguments, **named):
    value = sys.modules["odd_values"].value
    if isinstance(value, Exception):
        raise value
    return value
"""
MACHINE = Machine("cpu", "CPUExecutionProvider", 2**33, 2**33, 2)


class Late:
    """Rows that fail only when they are asked for."""

    def __len__(self):
        return 3

    def __getitem__(self, place):
        return {}["late"]


def generator():
    yield {"x": [1, 2]}
    raise ZeroDivisionError("division by zero")


PLAIN = st.none() | st.booleans() | st.integers(-3, 2**65) | st.floats() | st.text(max_size=6) | st.binary(max_size=4)
ARRAYS = st.sampled_from(
    [
        np.zeros(0),
        np.ones((2, 3)),
        np.array("x"),
        np.array([None, "a"]),
        torch.ones(2, 2),
        torch.tensor(3),
        torch.zeros(0),
    ]
)
ODD = st.one_of(
    PLAIN,
    ARRAYS,
    st.recursive(
        PLAIN | ARRAYS,
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.tuples(inner, inner)
            | st.dictionaries(
                st.sampled_from(["input_names", "dynamic_axes", "input_shapes", "x", 1, None]), inner, max_size=3
            )
        ),
        max_leaves=6,
    ),
    st.builds(Late),
    st.builds(generator),
    st.sampled_from([KeyError("k"), RuntimeError("a\nb"), OSError(28, "No space left"), object(), len, int]),
)


@pytest.fixture(scope="module")
def script(tmp_path_factory):
    """The file of a script whose one function gives, or raises, `odd_values.value`."""
    path = tmp_path_factory.mktemp("scripts") / "mine.py"
    path.write_text(SCRIPT_TEXT)
    return path


@pytest.fixture
def odd_values(monkeypatch):
    module = types.ModuleType("odd_values")
    monkeypatch.setitem(sys.modules, "odd_values", module)
    return module


@fuzzed
@given(draw=st.data())
def test_rows_of_a_script_are_rows_or_a_sentence_that_names_it(draw, script, odd_values):
    odd_values.value = draw.draw(ODD)
    part = draw.draw(st.sampled_from(["dataloader_config", "load_dataset_config"]))
    text = script.read_text()
    if part == "load_dataset_config":
        text += "\nfrom olive.data.registry import Registry\nRegistry.register_dataset('give')(give)\n"
    own = script.with_name(f"{part}.py")
    own.write_text(text)
    config = DataConfig.model_validate({"name": "rows", "user_script": str(own), part: {"type": "give"}})
    try:
        rows = scripted_rows(config, range, list)
    except DataError as error:
        assert_is_sentence(error, names=own.name)
        return
    assert all(isinstance(row, dict) and all(isinstance(name, str) for name in row) for row in rows)


@fuzzed
@given(draw=st.data())
def test_io_config_of_a_script_is_one_or_a_sentence_that_names_it(draw, script, odd_values):
    odd_values.value = draw.draw(ODD)
    told = {"path": str(script), "folder": str(script.parent), "model_loader": "give", "io_config": "give"}
    try:
        with opened(Model("script", script, attributes={SCRIPT: told}), load_module) as scripted:
            given_config = scripted.io_config()
    except ModelError as error:
        assert_is_sentence(error, names=script.name)
        return
    assert given_config is None or IoConfig.model_validate(given_config)


@fuzzed
@given(draw=st.data())
def test_number_of_a_script_is_finite_or_a_sentence_that_names_it(draw, script, odd_values):
    odd_values.value = draw.draw(ODD)
    asked = {
        "name": "mine",
        "user_script": str(script),
        "script_dir": None,
        "function": "give",
        "on_outputs": False,
        "kwargs": {},
        "numbers": draw.draw(st.sampled_from([["x"], ["x", "input_names"]])),
        "max_seconds": 60,
    }
    try:
        numbers = custom_numbers([asked], Model("hf", script.parent), None, MACHINE)
    except OlivineError as error:
        assert_is_sentence(error, names=script.name)
        return
    assert all(np.isfinite(number) for number in numbers.values())
