"""What a person reads fits the terminal: with COLUMNS=80 no line is longer, but for a word that is."""

import pytest
from test_cli import config, run


@pytest.fixture
def narrow(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")


def too_long(text):
    """Lines that could have been broken: a path is one word."""
    return [line for line in text.splitlines() if len(line) > 80 and " " in line.strip()]


@pytest.mark.parametrize(
    "command",
    [
        ["passes"],
        *(["passes", name] for name in ("lora", "ModelBuilder", "gptq", "parity_check", "qlora")),
        ["passes", "nope"],
        ["doctor"],
        ["--help"],
        ["parity", "--help"],
        ["parity", "nowhere", "a/path/that/is/long/and/leads/nowhere", "--text-template", "{question} {answer}"],
        ["cache", "ls", "--cache-dir", "a/folder/that/is/not/there/and/has/a/name/that/is/longer/than/it/should/be"],
        ["evaluate", "a/folder/that/is/not/there", "a/config/that/is/not/there/and/has/a/long/name.json"],
    ],
    ids=" ".join,
)
def test_lines_fit(command, narrow):
    done = run(*command)
    assert too_long(done.stdout + done.stderr) == []


def test_lines_of_a_plan_and_its_problems_fit(narrow, tiny_llama, tmp_path):
    path = config(tmp_path, tiny_llama)
    for change in ("quality.max_drop=0.03", "passes.lora.rr=4", "passes.builder.precision=int3", "passes.lora.type=x"):
        done = run("plan", path, "--set", change)
        assert done.stdout
        assert too_long(done.stdout + done.stderr) == []


def test_file_gets_whole_lines(tiny_llama, tmp_path):
    """What a program or grep reads is not broken."""
    done = run("plan", config(tmp_path, tiny_llama), "--set", "passes.lora.type=x")
    (problem,) = done.stderr.splitlines()
    assert len(problem) > 80


def test_names_that_configs_use_come_first():
    lines = run("passes").stdout.splitlines()
    assert "ModelBuilder (build)" in lines
    assert "MergeAdapterWeights (merge)" in lines
    assert "Gptq (gptq, also GptqQuantizer, GptqModel, AutoGPTQQuantizer)" in lines
    assert '"type": "ModelBuilder" or "build"' in run("passes", "build").stdout.splitlines()
