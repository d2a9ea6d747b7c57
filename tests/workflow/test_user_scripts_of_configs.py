"""Scripts that a config names: planned without running them, with consent, and run by the worker for graphs."""

import json

import numpy as np
import pytest

from graphs import N_TOKENS, logits_of, text_classifier
from olivine.config import load
from olivine.workflow.engine import run
from olivine.workflow.plan import make_plan

SCRIPT = """
import numpy as np
from olive.data.registry import Registry

@Registry.register_dataset()
def my_rows(count):
    rows = np.random.default_rng(0).integers(0, {n_tokens}, (count, 5))
    return [({{"input_ids": row, "attention_mask": np.ones(5, int)}}, {labels}[index]) for index, row in enumerate(rows)]

open({marker!r}, "a").close()
"""


@pytest.fixture
def folder(tmp_path):
    graph = text_classifier(tmp_path / "given" / "model.onnx")
    ids = np.random.default_rng(0).integers(0, N_TOKENS, (6, 5))
    labels = logits_of(graph, ids).argmax(-1).tolist()
    marker = str(tmp_path / "ran")
    (tmp_path / "rows.py").write_text(SCRIPT.format(n_tokens=N_TOKENS, labels=labels, marker=marker))
    return tmp_path


def planned(folder, where=None, **changes):
    config = {
        "input_model": {"type": "ONNXModel", "model_path": str(folder / "given" / "model.onnx")},
        "data_configs": [
            {
                "name": "mine",
                "user_script": "rows.py",
                "load_dataset_config": {"type": "my_rows", "count": 6},
                "pre_process_data_config": {"type": "skip_pre_process"},
            }
        ],
        "evaluators": {
            "e": {"metrics": [{"name": "acc", "type": "accuracy", "data_config": "mine", "goal": GOAL}]},
        },
        "evaluator": "e",
        "passes": {"small": {"type": "OnnxBlockWiseRtnQuantization"}},
        "cache_dir": str(folder / "cache"),
        "output_dir": str(folder / "out"),
    } | changes
    path = (where or folder) / "config.json"
    path.write_text(json.dumps(config, indent=1))
    return make_plan(load(path))


GOAL = {"type": "threshold", "value": 0.1}


def problem_of(folder, **changes):
    (problem,) = planned(folder, **changes).problems
    return f"{problem.kind}: {problem.message}"


def test_graph_is_scored_on_the_rows_of_a_script_that_the_plan_does_not_run(folder):
    plan = planned(folder)
    assert plan.problems == ()
    assert not (folder / "ran").exists()
    result = run(plan)
    assert (folder / "ran").exists()
    base, small = result.scores
    assert (base["n_rows"], base["label_accuracy"]) == (6, 1)
    assert small["cosine"] > 0.9
    again = planned(folder)
    assert again.cached == {"small", "score:base", "score:small"}
    (folder / "rows.py").write_text((folder / "rows.py").read_text() + "# another\n")
    assert planned(folder).cached == {"small"}


def test_component_that_a_script_lacks_is_told_with_the_nearest(folder):
    data = [{"name": "mine", "user_script": "rows.py", "load_dataset_config": {"type": "my_row"}}]
    assert problem_of(folder, data_configs=data).startswith("invalid-value: ")
    plan = planned(folder, data_configs=data)
    assert plan.problems[0].message.endswith("rows.py registers no load_dataset 'my_row'.")
    assert plan.problems[0].fix == "Did you mean 'my_rows'?"
    data[0]["user_script"] = "gone.py"
    assert problem_of(folder, data_configs=data).startswith("missing-file: the script '")


def test_script_outside_of_the_folder_of_the_config_needs_trust(folder, monkeypatch):
    (folder / "configs").mkdir()
    data = [{"name": "mine", "user_script": "../rows.py", "load_dataset_config": {"type": "my_rows", "count": 6}}]
    told = problem_of(folder, where=folder / "configs", data_configs=data)
    assert told.startswith("unsupported: the script '")
    assert told.endswith("lies outside of the folder of the config.")
    monkeypatch.setenv("OLIVINE_SCRIPTS", "all")
    assert planned(folder, where=folder / "configs", data_configs=data).problems == ()


@pytest.mark.parametrize("how", ["script_dir", "link"])
def test_modules_outside_of_the_folder_of_the_config_need_trust(folder, monkeypatch, how):
    home = folder / "home"
    home.mkdir()
    (folder / "rows.py").rename(home / "rows.py")
    (folder / "elsewhere").mkdir()
    (folder / "elsewhere" / "helper.py").write_text("")
    entry = {"name": "mine", "user_script": "rows.py", "load_dataset_config": {"type": "my_rows", "count": 6}}
    if how == "link":
        (home / "helper.py").symlink_to(folder / "elsewhere" / "helper.py")
    else:
        entry["script_dir"] = "../elsewhere"
    (problem,) = planned(folder, home, data_configs=[entry]).problems
    assert "elsewhere/helper.py' lies outside of the folder of the config" in problem.message or how == "link"
    assert problem.message.startswith("the module of a script '")
    monkeypatch.setenv("OLIVINE_SCRIPTS", "all")
    assert not planned(folder, home, data_configs=[entry]).problems


def test_no_script_runs_where_scripts_are_refused(folder, monkeypatch):
    monkeypatch.setenv("OLIVINE_SCRIPTS", "none")
    assert "--no-scripts refuses it" in problem_of(folder)


def test_functions_of_a_model_script_must_be_there(folder):
    model = {"type": "PyTorchModel", "model_loader": "load_it", "model_script": "rows.py"}
    plan = planned(folder, input_model=model, evaluator=None, passes={"q": {"type": "Rtn"}})
    assert "rows.py has no function 'load_it'." in plan.problems[0].message


def test_rows_of_a_script_are_no_text_to_train_on(folder):
    passes = {"lora": {"type": "LoRA", "train_data_config": "mine"}}
    model = {"type": "HfModel", "model_path": str(folder / "gone")}
    messages = [one.message for one in planned(folder, passes=passes, input_model=model, evaluator=None).problems]
    assert "the rows of 'mine' are inputs of a graph, and text is wanted of them." in messages
