"""Another Python: one that is here, and one that is made of a requirements file with this olivine in it."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

import olivine
from olivine.config import load
from olivine.errors import RequestError, StepFailed
from olivine.systems import build_wheel, systems
from olivine.systems.python_environment import PythonEnvironment
from olivine.testing.system import SystemContract
from olivine.workflow.engine import run
from olivine.workflow.plan import make_plan
from tiny import write_rows


def environment(path, **settings):
    return PythonEnvironment(PythonEnvironment.Params(python_environment_path=str(path), **settings))


class TestPythonEnvironment(SystemContract):
    system = PythonEnvironment

    def make(self, folder):
        return environment(Path(sys.executable).parent)


@pytest.mark.parametrize("name", ["PythonEnvironment", "IsolatedORT", "python_environment", "pythonenvironment"])
def test_both_types_of_configs_name_it(name):
    assert systems.find(name) is PythonEnvironment


def test_processes_see_what_the_config_says(tmp_path):
    tool = tmp_path / "tools"
    tool.mkdir()
    system = environment(sys.executable, environment_variables={"SAID": "so"}, prepend_to_path=[str(tool)])
    seen = system._environment()
    assert seen["SAID"] == "so"
    assert seen["PATH"].split(os.pathsep)[0] == str(tool)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({}, "'python_environment_path' is missing"),
        ({"python_environment_path": "e", "conda_yaml_path": "c.yaml"}, "'conda_yaml_path' is not served"),
        (
            {"python_environment_path": "e", "requirements_file": "none.txt"},
            r"there is no requirements_file '.*none.txt'",
        ),
    ],
)
def test_settings_that_cannot_be_are_one_sentence(settings, sentence):
    with pytest.raises(RequestError, match=sentence):
        PythonEnvironment(PythonEnvironment.Params(**settings))


def test_environment_that_is_not_there_is_named(tmp_path):
    with pytest.raises(RequestError, match=r"there is no Python environment '.*none'; 'olive_managed_env'"):
        environment(tmp_path / "none").probe()
    with pytest.raises(RequestError, match="there is no Python environment"):
        environment(tmp_path / ("x" * 300)).probe()
    (tmp_path / "empty").mkdir()
    with pytest.raises(RequestError, match=r"the folder '.*empty' holds no Python"):
        environment(tmp_path / "empty").probe()


def test_python_without_olivine_is_named_with_the_command(tmp_path):
    """Isolated, so that it does not see the sources that this one runs."""
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nexec {sys.executable} -I -S "$@"\n')
    python.chmod(0o755)
    with pytest.raises(RequestError, match=f"has no olivine; run: {python} -m pip install olivine=="):
        environment(python).probe()


def test_wheel_of_the_running_code_installs(tmp_path):
    first, second = build_wheel(tmp_path).read_bytes(), build_wheel(tmp_path).read_bytes()
    assert first == second
    wheel = build_wheel(tmp_path)
    with zipfile.ZipFile(wheel) as content:
        names = content.namelist()
        metadata = content.read(f"olivine-{olivine.__version__}.dist-info/METADATA").decode()
    assert "olivine/systems/_worker.py" in names
    assert not [name for name in names if "__pycache__" in name]
    assert "Requires-Dist: torch" in metadata
    command = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--no-deps",
        "--no-index",
        "--target",
        str(tmp_path / "t"),
        str(wheel),
    ]
    subprocess.run(command, check=True, capture_output=True)
    assert (tmp_path / "t" / "olivine" / "py.typed").exists() is (Path(olivine.__file__).parent / "py.typed").exists()


@pytest.fixture
def offline_pip(monkeypatch):
    """Let pip install what it is given and fetch nothing; the new environment borrows the packages of this one."""
    for name in ("PIP_NO_DEPS", "PIP_NO_INDEX"):
        monkeypatch.setenv(name, "1")
    return {"PYTHONPATH": sysconfig.get_paths()["purelib"]}


@pytest.mark.slow
def test_environment_is_made_of_requirements_before_the_first_step(offline_pip, tmp_path, tiny_llama):
    """The plan touches nothing; the run makes it once, and knows then what it has."""
    write_rows(tmp_path / "rows.jsonl")
    shutil.copy(_little_wheel(tmp_path), tmp_path / "little-7-py3-none-any.whl")
    (tmp_path / "needs.txt").write_text(f"{tmp_path}/little-7-py3-none-any.whl\n")
    config = {
        "input_model": {"type": "HfModel", "model_path": str(tiny_llama)},
        "systems": {
            "made": {
                "type": "PythonEnvironment",
                "python_environment_path": "made",
                "requirements_file": "needs.txt",
                "environment_variables": offline_pip,
            }
        },
        "host": "made",
        "passes": {"small": {"type": "rtn", "group_size": 16}},
        "quality": {"enabled": False},
        "cache_dir": str(tmp_path / "cache"),
        "output_dir": str(tmp_path / "out"),
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    loaded = load(tmp_path / "config.json")
    plan = make_plan(loaded)
    assert plan.problems == ()
    assert any("the system 'made' is made before the first step" in note for note in plan.translated)
    assert not (tmp_path / "made").exists()
    heard = []
    assert run(plan, heard.append).status == "done"
    assert [event.step for event in heard if event.kind == "step_done"] == ["prepare:made", "small"]
    again = make_plan(loaded)
    assert again.hosts["made"].probe.version("little") == "7"
    assert again.hosts["made"].probe.version("olivine") == olivine.__version__
    assert again.cached == {"small"}


def _little_wheel(folder):
    path = folder / "little.whl"
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr("little/__init__.py", "")
        wheel.writestr("little-7.dist-info/METADATA", "Metadata-Version: 2.1\nName: little\nVersion: 7\n")
        wheel.writestr("little-7.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr("little-7.dist-info/RECORD", "")
    return path


@pytest.mark.slow
def test_environment_that_nothing_is_said_of_gets_a_runtime(offline_pip, tmp_path):
    """That of its device, unless it has one or requirements say what it is to have."""
    runs = Path(sysconfig.get_paths()["purelib"])
    for n_gpus, seen, extra in ((0, {}, "[cpu]"), (1, {}, "[gpu]"), (0, {"PYTHONPATH": str(runs)}, "")):
        system = environment(tmp_path / "made", olive_managed_env=True, environment_variables=seen)
        system.n_gpus = n_gpus
        system.prepare(tmp_path / "log")
        commands = [line for line in (tmp_path / "log").read_text().splitlines() if line.startswith("$ ")]
        assert commands[-1].strip("'").endswith(f".whl{extra}")
        (tmp_path / "log").unlink()


def test_requirements_that_cannot_be_installed_name_the_step_and_the_log(offline_pip, tmp_path):
    (tmp_path / "needs.txt").write_text(f"{tmp_path}/none.whl\n")
    system = environment(tmp_path / "made", requirements_file=str(tmp_path / "needs.txt"))
    assert not system.is_prepared()
    with pytest.raises(StepFailed, match=r"'-m pip install' ended with 1: .*none\.whl"):
        system.prepare(tmp_path / "log")
    assert "none.whl" in (tmp_path / "log").read_text()
    assert not system.is_prepared()


@pytest.mark.parametrize("name", ["HF_TOKEN", "aws_secret_access_key", "OPENAI_API_KEY", "PGPASSWORD"])
def test_secret_does_not_belong_into_a_config(name):
    with pytest.raises(ValueError, match=f"'{name}' does not belong into a config: set it where olivine is run"):
        environment(sys.executable, environment_variables={name: "abc"})


@pytest.mark.parametrize("name", ["TOKENIZERS_PARALLELISM", "MAX_TOKENS", "MONKEY"])
def test_variable_that_only_sounds_like_a_secret_is_taken(name):
    environment(sys.executable, environment_variables={name: "1"})
