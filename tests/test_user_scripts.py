"""Scripts of users: parsed without running, run with what they import of Olive, and gone afterwards."""

import sys
import threading
from pathlib import Path

import pytest

from olivine.config.schema import DataConfig
from olivine.data import pick_any
from olivine.errors import DataError
from olivine.user_scripts import ScriptError, UserScript

REGISTERING = """
from olive.data.registry import Registry
import beside

print("at work")

@Registry.register_dataset()
def My_Rows(count):
    return list(range(count)) + beside.MORE

@Registry.register_pre_process("doubled")
def other(rows):
    return [2 * row for row in rows]

def plain():
    raise ValueError("no luck")
"""


@pytest.fixture
def script(tmp_path):
    (tmp_path / "mine.py").write_text(REGISTERING)
    (tmp_path / "beside.py").write_text("MORE = [7]\n")
    return UserScript.of(str(tmp_path / "mine.py"), None)


def test_script_is_parsed_and_not_run(script, capsys):
    assert script.names() == ["Registry", "beside", "My_Rows", "other", "plain"]
    assert script.registered("load_dataset") == ["my_rows"]
    assert script.registered("pre_process_data") == ["doubled"]
    assert script.registered("dataloader") == []
    assert capsys.readouterr().out == ""


def test_script_registers_what_the_config_names_and_leaves_nothing_behind(script):
    before, path = set(sys.modules), list(sys.path)
    with script.opened() as opened:
        rows = opened.component("load_dataset", "MY_ROWS")(2)
        assert opened.component("pre_process_data", "doubled")(rows) == [0, 2, 14]
        assert opened.component("load_dataset", "doubled") is None
        assert sys.modules["olive"].__file__ is not None
    assert {name for name in set(sys.modules) - before if name.split(".")[0] in ("olive", "beside")} == set()
    assert sys.path == path


def test_each_time_it_is_at_work_a_script_begins_anew(script):
    for _ in range(2):
        with script.opened() as opened:
            registry = sys.modules["olive.data.registry"].Registry
            assert list(registry._REGISTRY["load_dataset"]) == ["my_rows"]
            assert opened.component("load_dataset", "my_rows")(0) == [7]


def test_what_a_script_raises_is_told_in_its_own_words(script):
    with script.opened() as opened, pytest.raises(ScriptError, match=r"plain of .*mine.py failed: ValueError: no luck"):
        opened.function("plain")()
    with script.opened() as opened, pytest.raises(ScriptError, match="has no function 'gone'"):
        opened.function("gone")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("import nowhere_to_be_found", "ModuleNotFoundError"),
        ("raise SystemExit(3)", "SystemExit: 3"),
        ("1 / 0", "ZeroDivisionError"),
    ],
)
def test_script_that_fails_when_it_is_read_is_named(tmp_path, text, said):
    (tmp_path / "bad.py").write_text(text)
    with pytest.raises(ScriptError, match=said), UserScript(tmp_path / "bad.py").opened():
        pass


@pytest.mark.parametrize(
    ("content", "said"),
    [(b"def (:", "bad.py:1 is no Python"), (b"a = '\x00'", "is no Python"), (None, "cannot be read")],
)
def test_file_that_is_no_script_is_told_while_planning(tmp_path, content, said):
    path = tmp_path / "bad.py"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ScriptError, match=said):
        UserScript(path).names()


def test_files_that_decide_what_a_script_does_are_it_and_its_siblings(script):
    assert [path.name for path in script.files] == ["mine.py", "beside.py"]
    assert UserScript(script.path).files == [Path(script.path)]


@pytest.mark.parametrize(
    "line",
    [
        "from helper.deep.scale import VALUE",
        "import os, helper.deep.scale",
        "import importlib; importlib.import_module('helper.deep.scale')",
        "import sys; sys.path.insert(0, os.path.join(here, 'helper', 'deep'))",
        "from between import VALUE",
    ],
)
def test_modules_of_any_depth_count_where_a_source_names_their_folder(tmp_path, line):
    (tmp_path / "mine.py").write_text(line + "\n")
    (tmp_path / "between.py").write_text("from helper import VALUE\n" if "between" in line else "")
    for name in ("helper/deep/scale.py", "outputs/model/run.py", ".hidden/a.py", "helper/__init__.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("VALUE = 1\n")
    files = UserScript.of(str(tmp_path / "mine.py"), None).files
    names = [path.relative_to(tmp_path).as_posix() for path in files]
    assert names == ["mine.py", "between.py", "helper/__init__.py", "helper/deep/scale.py"]


@pytest.mark.parametrize(
    "text",
    [
        "from typing import Callable\nload: Callable = lambda path: path",
        "async def load(path): pass",
        "first, (load, *rest) = make()",
        "for load in (1, 2): pass",
        "match 1:\n  case load: pass",
        "globals()['load'] = print",
        "exec('load = print')",
        "from somewhere import *",
    ],
)
def test_names_that_python_knows_are_known(tmp_path, text):
    (tmp_path / "mine.py").write_text(text + "\n")
    assert {"load", "*"} & set(UserScript(tmp_path / "mine.py").names())


def test_names_of_components_that_are_computed_are_told_as_unknown(tmp_path):
    lines = ["R.register_dataset('one')(print)", "@R.register_dataset(NAME)\ndef two(): pass", "@R.register_dataset"]
    (tmp_path / "mine.py").write_text("\n".join(lines) + "\ndef three(): pass\n")
    assert sorted(UserScript(tmp_path / "mine.py").registered("load_dataset")) == ["*", "one", "three"]


def test_what_a_script_raises_at_length_is_cut(tmp_path):
    (tmp_path / "bad.py").write_text("raise ValueError('x' * 100_000)")
    with pytest.raises(ScriptError) as caught, UserScript(tmp_path / "bad.py").opened():
        pass
    assert 500 < len(str(caught.value)) < 1000


def test_handlers_and_data_sets_of_olive_can_be_imported(tmp_path):
    names = {
        "olive.model": "OliveModelHandler, PyTorchModelHandler, HfModelHandler, ONNXModelHandler, PyTorchModel",
        "olive.constants": "Framework, ModelFileFormat",
        "olive.hardware": "Device, AcceleratorSpec",
        "olive.hardware.accelerator": "Device as D",
        "olive.data.component.dataset": "BaseDataset, ClassificationDataset, DummyDataset",
    }
    lines = [f"from {module} import {imported}" for module, imported in names.items()]
    lines.append("def rows():\n    return BaseDataset([({'x': 1}, 0)] * 3, max_samples=2)\n")
    lines.append("def labelled():\n    return ClassificationDataset([{'x': 1, 'y': 5}], 'y')[0]\n")
    lines.append("def dummies():\n    return DummyDataset([[1, 2]], ['x'], ['int64'], max_samples=4)\n")
    (tmp_path / "imports.py").write_text("\n".join(lines))
    with UserScript(tmp_path / "imports.py").opened() as opened:
        assert list(opened.function("rows")()) == [({"x": 1}, 0)] * 2
        assert opened.function("labelled")() == ({"x": 1}, 5)
        dummies = opened.function("dummies")()
        assert (len(dummies), dummies[3][0]["x"].shape) == (4, (1, 2))


HANGING = """
import pathlib, time
from olive.data.registry import Registry

def wait():
    while not pathlib.Path(__file__).with_name("stop").exists():
        time.sleep(0.02)

@Registry.register_dataset()
def endless():
    wait()

def lazily(data_dir, batch_size):
    yield [1.0]
    wait()
"""


@pytest.fixture
def hanging(tmp_path):
    """A script whose functions end when the test does."""
    (tmp_path / "hang.py").write_text(HANGING)
    yield UserScript.of(str(tmp_path / "hang.py"), None, 1.0)
    (tmp_path / "stop").touch()
    for thread in threading.enumerate():
        if thread.name == "user script":
            thread.join(20)


def test_function_that_does_not_end_is_told_by_name_after_its_time(hanging):
    said = r"wait of .*hang.py took longer than 1 seconds \(max_seconds\), and is still at work"
    with hanging.opened() as opened, pytest.raises(ScriptError, match=said):
        opened.function("wait")()


def test_script_that_does_not_end_while_it_is_imported_is_told(hanging):
    hanging.path.write_text(HANGING + "\nwait()\n")
    with pytest.raises(ScriptError, match=r"hang.py took longer than 1 seconds"), hanging.opened():
        pass


@pytest.mark.parametrize("sections", [{"load_dataset_config": "endless"}, {"dataloader_config": "lazily"}])
def test_rows_that_do_not_end_are_told_with_their_data_config(hanging, sections):
    given = {section: {"type": name} for section, name in sections.items()}
    config = DataConfig(name="mine", user_script=str(hanging.path), max_seconds=1.0, **given)
    with pytest.raises(DataError, match=r"'mine': (endless|lazily) of .* took longer .* still at work"):
        pick_any(config, range)


def test_what_a_script_raises_is_raised_where_it_was_asked(script):
    with (
        script.opened() as opened,
        pytest.raises(ScriptError, match=r"plain of .* failed: ValueError: no luck") as told,
    ):
        opened.function("plain")()
    assert isinstance(told.value.__cause__, ValueError)
