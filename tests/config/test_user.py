"""Systems that stand once for all workflows of a user."""

import json

import pytest

from olivine.config import load
from olivine.config.user import user_file
from olivine.errors import ConfigError

GOOD = {"input_model": {"type": "HfModel", "model_path": "m"}, "passes": {"small": {"type": "rtn"}}}
BOX = {"type": "PythonEnvironment", "python_environment_path": "/opt/env"}


@pytest.fixture
def loaded(tmp_path):
    """Load a config beside a user's own file."""

    def read(own, overrides=(), **config):
        (tmp_path / "own.json").write_text(json.dumps(own, indent=1))
        (tmp_path / "config.json").write_text(json.dumps(GOOD | config, indent=1))
        return load(tmp_path / "config.json", overrides, user=tmp_path / "own.json")

    return read


@pytest.mark.parametrize(
    "config",
    [
        {"host": "box"},
        {"target": "box"},
        {"engine": {"host": "box"}},
        {"passes": {"small": {"type": "rtn", "host": "box"}}},
        {"host": "box", "systems": {"other": {"type": "LocalSystem"}}},
    ],
)
def test_system_that_is_only_named_is_the_user_s(loaded, config):
    result = loaded({"systems": {"box": BOX, "unused": {"type": "LocalSystem"}}}, **config)
    assert result.problems == ()
    assert result.workflow.systems["box"].config["python_environment_path"] == "/opt/env"
    assert "unused" not in result.workflow.systems


def test_command_line_names_one_as_well(loaded):
    assert "box" in loaded({"systems": {"box": BOX}}, ["host=box"]).workflow.systems


def test_system_that_the_config_defines_counts_there(loaded):
    result = loaded({"systems": {"box": BOX}}, host="box", systems={"box": {"type": "LocalSystem"}})
    assert result.workflow.systems["box"].type == "LocalSystem"


def test_workspace_goes_to_configs_that_need_one(loaded):
    client = {"workspace_name": "W"}
    aml = {"aml": {"type": "AzureML", "aml_compute": "c"}}
    assert loaded({"azureml_client": client}).workflow.azureml_client is None
    assert loaded({"azureml_client": client, "systems": aml}, host="aml").workflow.azureml_client.workspace_name == "W"


def test_mistake_is_told_at_its_line_in_the_user_s_file(loaded):
    (problem,) = loaded({"systms": {}}).problems
    assert "own.json:2" in problem.where
    (problem,) = loaded({"systems": {"box": {"type": "LocalSystm"}}}, host="box").problems
    assert "own.json:" in problem.where
    assert "did you mean 'LocalSystem'" in problem.message


def test_file_that_cannot_be_read_is_named(tmp_path):
    (tmp_path / "own.json").write_text("{")
    (tmp_path / "config.json").write_text(json.dumps(GOOD))
    with pytest.raises(ConfigError, match=r"own\.json"):
        load(tmp_path / "config.json", user=tmp_path / "own.json")


def test_file_lies_where_the_environment_says(tmp_path):
    home = {"XDG_CONFIG_HOME": str(tmp_path)}
    assert user_file(home) is None
    (tmp_path / "olivine").mkdir()
    (tmp_path / "olivine" / "config.yaml").write_text("systems: {}")
    assert user_file(home) == tmp_path / "olivine" / "config.yaml"
    assert user_file(home | {"OLIVINE_CONFIG": "/x.json"}).as_posix() == "/x.json"
    assert user_file(home | {"OLIVINE_CONFIG": ""}) is None
