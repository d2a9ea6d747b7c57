"""olivine optimize as its user meets it."""

import contextlib
import io
import json
from types import SimpleNamespace

import pytest

from encoders import tiny_encoder
from graphs import text_classifier
from olivine.cli import exit_code


def run(*arguments):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = exit_code([str(argument) for argument in arguments])
    return SimpleNamespace(exit_code=code, stdout=out.getvalue(), stderr=err.getvalue())


@pytest.fixture
def graph(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return text_classifier(tmp_path / "classifier.onnx")


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--max-drop", "much"], "--max-drop 'much' is no share"),
        (["--max-drop", "5"], "--max-drop '5' is no share"),
        (["--max-size", "large"], "write 90MB"),
        (["--budget", "0"], "leaves no time for anything"),
        (["--budget", "soon"], "write 20m, 1h30m or 90s"),
        (["--min-speedup", "0.5x"], "which would be slower"),
        (["--min-tokens-per-second", "-3"], "no number above 0"),
        (["--precision", "int5"], "there is int4, int8"),
        (["--device", "npu"], "--device: the device 'npu' is not served"),
        (["--provider", "cuda"], "--provider: 'CUDAExecutionProvider' is asked for"),
        (["--data", "nothing.jsonl"], "nothing.jsonl"),
    ],
)
def test_what_is_wrong_is_said_before_anything_runs(graph, tmp_path, flags, said):
    done = run("optimize", "-m", graph, *flags)
    assert done.exit_code == 2
    assert said in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["classifier.onnx"]


def test_text_of_a_column_of_another_name_is_named_by_its_flag(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tiny_encoder(tmp_path / "bert")
    (tmp_path / "rows.csv").write_text("what they say,verdict\nfine,1\npoor,0\n")
    command = ("optimize", "-m", "bert", "-d", "rows.csv", "--label", "verdict", "--dry-run")
    done = run(*command)
    assert done.exit_code == 2
    assert "such as --text-field 'what they say'" in done.stderr
    assert run(*command, "--text-field", "what they say").exit_code == 0


def test_dry_run_shows_the_rungs_and_their_goals(graph):
    done = run("optimize", "-m", graph, "--max-size", "9kB", "--budget", "1h30m", "--dry-run")
    assert done.exit_code == 0, done.stderr
    assert "tries in this order: rtn-32, search-32, search-16, search-64, search-128, dynamic-int8, int8" in done.stdout
    assert "ends after 5400 seconds" in done.stdout
    assert "measure size: at most 9 kB" in done.stdout
    plan = json.loads(run("optimize", "-m", graph, "--dry-run", "--json").stdout)
    assert plan["search"]["rungs"][0] == "rtn-32"
    assert plan["config"]["evaluator"] == "goals"


def test_size_that_no_rung_can_have_is_told_before_the_climb(graph):
    done = run("optimize", "-m", graph, "--max-size", "1kB", "--dry-run")
    assert done.exit_code == 0
    assert "no rung is as small as 1 kB: the weights of the smallest, search-128, take about 1 kB" in done.stderr
    assert "no rung" not in run("optimize", "-m", graph, "--max-size", "90kB", "--dry-run").stderr


def test_rungs_are_told_with_their_price_and_what_they_bought(graph, tmp_path):
    command = ("optimize", "-m", graph, "--max-drop", "0.00001", "--save-config", "ladder.json")
    done = run(*command, "-o", "out")
    assert done.exit_code == 1
    assert "rung rtn-32: " in done.stderr
    assert "bought " in done.stderr
    assert "misses: output agreement" in done.stderr or "misses: output_agreement" in done.stderr
    assert "| → | " in done.stderr
    assert (tmp_path / "out" / "model" / "classifier.onnx").is_file()
    again = json.loads(run("run", "--config", "ladder.json", "--json").stdout)
    assert again["search"]["trials"][0]["name"] == "rtn-32"
    assert again["status"] == "goal missed"


def test_trials_of_a_search_stand_in_a_table_that_fits(graph, tmp_path, monkeypatch):
    bits = {"type": "OnnxBlockWiseRtnQuantization", "bits": [8, 4], "label": "rounded"}
    size = {"name": "size", "type": "size_on_disk", "priority": 1}
    config = {
        "input_model": {"type": "ONNXModel", "model_path": str(graph)},
        "passes": {"small": [bits, {"type": "OnnxDynamicQuantization"}]},
        "evaluators": {"ship": {"metrics": [size, {"name": "near", "type": "output_agreement"}]}},
        "evaluator": "ship",
        "search_strategy": {"sampler": "sequential"},
        "cache_dir": "cache",
        "output_dir": "out",
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    done = run("run", "--config", "config.json")
    assert done.exit_code == 0, done.stderr
    table = [line for line in done.stderr.splitlines() if line.startswith("|")]
    assert [cell.strip() for cell in table[0].split("|")] == ["", "", "trial", "took", "size", "goals", ""]
    assert sum("→" in line for line in table) == 1
    assert len(table) == 2 + 3
    assert any("2: small rounded, bits 4" in line for line in table)
    monkeypatch.setenv("COLUMNS", "60")
    table = [line for line in run("run", "--config", "config.json").stderr.splitlines() if line.startswith("|")]
    assert max(map(len, table)) <= 60


def test_what_was_arrived_at_runs_again_without_a_search(graph, tmp_path):
    done = run("optimize", "-m", graph, "--max-drop", "100%", "-o", "out")
    assert done.exit_code == 0, done.stderr
    assert str(tmp_path / "out" / "workflow.json") in done.stdout
    again = json.loads(run("run", "--config", tmp_path / "out" / "workflow.json", "--json").stdout)
    assert again["search"] is None
    assert all(step["cached"] for step in again["steps"])
