"""With --json, whatever ends a command is a JSON document on standard output; a damaged folder is one sentence."""

import json

import pytest
from click.testing import CliRunner

from olivine.cli import exit_code, olivine
from olivine.errors import OlivineError


@pytest.mark.parametrize(
    "command",
    [
        ["plan", "nowhere.json"],
        ["run", "nowhere.json"],
        ["data", "nowhere.json"],
        ["data", "rowless.json"],
        ["evaluate", "nowhere", "nowhere.json"],
        ["evaluate", "nowhere", "rowless.json"],
        ["parity", "nowhere", "nowhere"],
        ["parity", "nowhere", "nowhere", "--text-template", "{a}"],
        ["cache", "ls", "--cache-dir", "nowhere"],
        ["cache", "gc", "--cache-dir", "nowhere"],
        ["cache", "verify", "--cache-dir", "nowhere"],
        ["passes", "nowhere"],
        ["migrate", "nowhere.json"],
        ["cache", "ls", "nowhere.json"],
        ["parity", "nowhere", "nowhere", "--sep", ";"],
    ],
    ids=" ".join,
)
def test_wrong_request_is_json_for_a_program(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rowless.json").write_text(
        json.dumps({"input_model": {"model_path": "nowhere/at/all"}, "passes": {"a": {"type": "LoRA"}}})
    )
    ended = CliRunner().invoke(olivine, [*command, "--json"])
    assert ended.exit_code or isinstance(ended.exception, OlivineError)
    told = json.loads(ended.stdout)
    assert told.get("status", "refused") == "refused"
    assert told["problems"][0]["message"]


@pytest.mark.parametrize("content", ["null", "[]", "{}", '{"model"', '{"model": {"context_length": "x"}}'])
def test_damaged_export_is_one_sentence(content, tmp_path):
    (tmp_path / "genai_config.json").write_text(content)
    ended = CliRunner().invoke(olivine, ["chat", str(tmp_path), "-p", "hello"])
    assert isinstance(ended.exception, OlivineError)
    assert ended.exception.exit_code == 2
    assert str(tmp_path) in str(ended.exception)


@pytest.mark.parametrize("command", [["parity", "one"], ["run"], ["plan", "a.json", "--nope"], ["doctor", "x"]])
def test_command_that_is_written_wrongly_is_json_too(command, capsys):
    assert exit_code([*command, "--json"]) == 2
    told = capsys.readouterr()
    assert json.loads(told.out)["status"] == "refused"
    assert "Usage:" in told.err


def test_fault_of_the_file_system_is_json_too(tmp_path, capsys):
    (tmp_path / "cache" / "steps").mkdir(parents=True)
    (tmp_path / "cache" / "steps" / ("0" * 64)).mkdir()
    (tmp_path / "cache" / "steps" / ("0" * 64) / "manifest.json").mkdir()
    code = exit_code(["cache", "verify", "--json", "--cache-dir", str(tmp_path / "cache")])
    assert code in (0, 1)
    json.loads(capsys.readouterr().out)
