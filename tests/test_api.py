"""`import olivine`: the commands as functions, their results as a notebook shows them, their errors as exceptions."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

import olivine
from olivine.errors import ConfigError, DataError, GoalMissed, RequestError
from olivine.models import Model
from tiny import tiny_adapter, write_rows

pytestmark = pytest.mark.usefixtures("warm")

SOURCE = Path(olivine.__file__).parent


@pytest.fixture
def config(tiny_llama, tmp_path):
    """A workflow whose pass only writes the model anew, and rows on which both are scored."""
    write_rows(tmp_path / "rows.jsonl", 8)
    text = {"text_template": "### Text: {phrase}\n### The tone is:\n{tone}", "strategy": "line-by-line"}
    return {
        "input_model": {"type": "HfModel", "model_path": str(tiny_llama)},
        "data_configs": [
            {
                "name": "rows",
                "load_dataset_config": {"data_name": "json", "data_files": str(tmp_path / "rows.jsonl")},
                "pre_process_data_config": text,
            }
        ],
        "passes": {"int4": {"type": "rtn", "group_size": 32}},
        "quality": {"data_config": "rows"},
        "cache_dir": str(tmp_path / "cache"),
        "output_dir": str(tmp_path / "out"),
    }


def said(code):
    """What a new interpreter prints."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout


def test_import_loads_nothing_but_itself():
    loaded = said("import olivine, sys; print(*sys.modules)").split()
    assert {name for name in loaded if name.startswith("olivine")} == {"olivine", "olivine.telemetry"}
    assert not {"pydantic", "click", "yaml", "numpy"} & set(loaded)


def test_every_name_is_there_with_its_type():
    stub = ast.parse((SOURCE / "__init__.pyi").read_text(encoding="utf-8"))
    told = {alias.asname for node in stub.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert told == set(olivine.__all__)
    assert set(olivine.__all__) <= set(dir(olivine))
    assert all(getattr(olivine, name) is not None for name in olivine.__all__)
    assert not hasattr(olivine, "evaluation")


@pytest.mark.parametrize("first", ["", "import olivine.passes, olivine.evaluate"])
def test_evaluate_is_called_and_still_the_package_of_metrics(first):
    code = (
        f"import olivine\n{first}\n"
        "from olivine import evaluate\nimport olivine.evaluate as package\nfrom olivine.evaluate import Metric\n"
        "assert evaluate is olivine.evaluate is package and callable(evaluate) and package.Metric is olivine.Metric\n"
    )
    said(code)


def test_run_gives_what_the_command_gives(config, capsys):
    plan = olivine.plan(config)
    assert (plan.problems, list(plan.to_pandas().index), plan.cached) == ((), ["int4"], frozenset())
    result = olivine.run(plan)
    assert isinstance(result, olivine.Result)
    assert result.status == "done"
    assert list(result.to_pandas().index) == ["base", "int4"]
    assert result.to_pandas().loc["int4", "loss"] == result.scores[1]["loss"]
    assert "<th>int4</th>" in result._repr_html_()
    assert repr(result) == str(result)
    assert str(result).splitlines()[0].startswith("| model |")
    assert str(result).splitlines()[-1] == f"model: {result.model}"
    assert (result.model / "config.json").is_file()
    assert {"report.html", "README.md", "metrics.json"} <= {file.name for file in result.model.parent.iterdir()}
    told = capsys.readouterr()
    assert told.out == ""
    assert "✓ int4" in told.err
    assert olivine.plan(config).cached >= {"int4"}


def test_listener_hears_events_in_place_of_lines(config, capsys):
    heard = []
    olivine.run(config, {"passes.int4.group_size": 64}, listen=heard.append)
    assert [event.step for event in heard if event.kind == "step_done" and event.pass_name] == ["int4"]
    assert [event.params["group_size"] for event in heard if event.kind == "step_started" and event.step == "int4"] == [
        64
    ]
    assert capsys.readouterr().err == ""


def test_missed_goal_is_an_exception_that_has_the_result(config, tmp_path):
    goals = {"metrics": [{"name": "fit", "type": "perplexity", "goal": {"type": "threshold", "value": 1.0}}]}
    with pytest.raises(GoalMissed, match=r"perplexity|fit") as missed:
        olivine.run({**config, "evaluators": {"mine": goals}, "evaluator": "mine"})
    assert isinstance(missed.value.result, olivine.Result)
    assert missed.value.result.missed
    assert "goal missed:" in missed.value.result._repr_html_()


def test_mistakes_in_a_mapping_are_told_by_their_keys(config):
    wrong = {**config, "passes": {"int4": {"type": "rtn", "group_siez": 32}}, "output_dri": "out"}
    with pytest.raises(ConfigError) as error:
        olivine.run(wrong)
    told = sorted(problem.where for problem in error.value.problems())
    assert told == ["output_dri", "passes.int4.group_siez"]
    with pytest.raises(ConfigError, match=r"output_dri: unknown key 'output_dri'.* did you mean 'output_dir'"):
        olivine.load_config(wrong)


def test_mistakes_in_a_file_are_told_by_their_lines(config, tmp_path):
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**config, "passes": {"int4": {"type": "rtn", "group_siez": 32}}}, indent=1))
    line = path.read_text().splitlines().index('   "group_siez": 32') + 1
    (problem,) = olivine.plan(olivine.load_config(path)).problems
    assert problem.where == f"{path}:{line}"


def test_workflow_is_changed_without_its_file(config, tmp_path):
    path = tmp_path / "config.json"
    path.write_text(json.dumps(config))
    workflow = olivine.load_config(path)
    other = workflow.changed({"passes.int4.group_size": 16, "quality.max_drop": "3pp"})
    assert workflow.config.passes["int4"].params["group_size"] == 32
    assert other.config.passes["int4"].params["group_size"] == 16
    assert olivine.plan(other).steps[0].params["group_size"] == 16
    saved = other.save(tmp_path / "saved.json")
    assert olivine.load_config(saved).to_dict() == other.to_dict()
    with pytest.raises(ConfigError, match=r"--set passes.int8.bits: the config has no 'int8'"):
        workflow.changed({"passes.int8.bits": 8})


def test_rows_of_a_mapping_lie_in_the_folder_that_is_named(config, tmp_path):
    config["data_configs"][0]["load_dataset_config"]["data_files"] = "rows.jsonl"
    assert "there is no data file" in olivine.plan(olivine.load_config(config)).problems[0].message
    assert olivine.plan(olivine.load_config(config, folder=tmp_path)).problems == ()


def test_translations_of_an_old_config_stay_told_when_it_is_changed(config):
    old = {**config, "engine": {"log_severity_level": 0}}
    workflow = olivine.load_config(old)
    (moved,) = (note for note in workflow.notes if note.startswith("engine"))
    assert moved in workflow.changed({"quality.max_samples": 4}).notes


@pytest.mark.slow
def test_evaluate_scores_an_adapter_as_the_command_does(config, tiny_llama, tmp_path):
    adapter = tiny_adapter(tiny_llama, tmp_path / "adapter")
    scored = olivine.evaluate(adapter, config)
    assert scored.degenerate is None
    assert scored.to_pandas().loc["adapter", "loss"] == scored.scores["loss"] > 0
    assert "<th>adapter</th>" in scored._repr_html_()
    assert "| adapter |" in repr(scored)
    base = olivine.evaluate(tiny_llama, config)
    assert base.scores["loss"] != scored.scores["loss"]
    with pytest.raises(RequestError, match="no rows to score"):
        olivine.evaluate(adapter, config, {"quality.enabled": False})


@pytest.mark.slow
def test_parity_is_a_record_with_a_verdict(tiny_llama, tmp_path):
    adapter = tiny_adapter(tiny_llama, tmp_path / "adapter")
    far = olivine.parity(tiny_llama, adapter, n_tokens=64, length=32, speed=False, max_kld=0.0)
    assert far.kl > 0
    assert far.missed[0].startswith("the mean KL divergence is")
    assert far.candidate.format == "adapter"
    assert "reference" in far.to_pandas().index
    assert far.verdict in far._repr_html_()
    assert str(far).startswith(f"{far.verdict}: KL ")


@pytest.mark.parametrize(
    ("named", "error", "told"),
    [
        ({"n_tokens": 1}, RequestError, "n_tokens"),
        ({"dtype": "int3"}, RequestError, "dtype"),
        ({"sep": ";"}, RequestError, "name the file"),
        ({"data": "nowhere.csv"}, DataError, "does not exist"),
    ],
)
def test_parity_refuses_before_it_starts(named, error, told, tiny_llama):
    with pytest.raises(error, match=told):
        olivine.parity(tiny_llama, tiny_llama, **named)


def test_offline_holds_for_the_call_alone(config, monkeypatch):
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    (problem,) = olivine.plan(config, {"input_model.model_path": "org/name"}, offline=True).problems
    assert problem.kind == "network"
    import os

    assert "HF_HUB_OFFLINE" not in os.environ


def test_texts_of_a_config_do_nothing_in_a_notebook(config):
    evil = "<script>alert(1)</script>"
    plan = olivine.plan({**config, "passes": {evil: {"type": "rtn"}}})
    assert evil in str(plan)
    assert "<script>" not in plan._repr_html_()


def test_error_is_shown_in_a_notebook_without_a_traceback():
    error = RequestError("the config names no rows to score")
    assert error._render_traceback_() == ["RequestError: the config names no rows to score"]


@pytest.mark.slow
def test_model_that_was_made_can_be_named_in_the_next_config(config):
    result = olivine.run(config)
    assert Model("hf", result.model).path.is_dir()
    assert olivine.evaluate(result.model, config).scores["loss"] == pytest.approx(result.scores[-1]["loss"], abs=1e-3)


def test_names_of_the_page_are_those_of_the_package():
    page = (SOURCE.parent.parent / "docs" / "api.md").read_text(encoding="utf-8")
    assert [name for name in olivine.__all__ if f"`{name}" not in page] == []
