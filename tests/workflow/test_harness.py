"""Tasks of lm-eval that a config asks for, as the plan checks them; nothing of the package is needed for that."""

import json

import pytest

from harness_tasks import write_tasks
from olivine.config import load
from olivine.systems import Importable, Probe
from olivine.workflow.plan import make_plan


@pytest.fixture
def problems(tiny_llama, tmp_path):
    """What the plan of a metric says, where the package is installed or is not."""

    def told(params, *sub_types, installed=True, **more):
        metric = {"name": "mine", "type": "lm_eval", "metric_config": params, "sub_types": list(sub_types)}
        content = {
            "input_model": {"type": "HfModel", "model_path": str(tiny_llama)},
            "passes": {},
            "evaluators": {"tasks": {"metrics": [metric | more]}},
            "evaluator": "tasks",
            "cache_dir": str(tmp_path / "cache"),
            "output_dir": str(tmp_path / "out"),
        }
        path = tmp_path / "config.json"
        path.write_text(json.dumps(content))
        modules = {*Importable()} - {"lm_eval"} | ({"lm_eval"} if installed else set())
        plan = make_plan(load(path), probe=Probe(2**34, 2, modules=modules))
        return [f"{problem.message} {problem.fix}".strip() for problem in plan.problems]

    return told


def test_package_that_is_missing_is_told_with_its_extra(problems):
    assert problems({"tasks": ["pick"]}, installed=False) == [
        "the package 'lm_eval' is not installed; run: pip install 'olivine[lm-eval]'."
    ]


def test_tasks_of_a_folder_are_planned(problems, tmp_path):
    write_tasks(tmp_path / "tasks")
    assert problems({"tasks": ["pick"], "include_path": "tasks"}, {"name": "acc"}) == []


@pytest.mark.parametrize(
    ("params", "sub_type", "more", "message"),
    [
        ({}, "pick.acc", {}, "metric 'lm_eval': tasks: field required."),
        ({"tasks": ["pick"], "limt": 3}, "acc", {}, "metric 'lm_eval': limt: extra inputs are not permitted."),
        ({"tasks": ["pick", "say"]}, "acc", {}, "'acc' does not tell of which of the tasks it is."),
        ({"tasks": ["pick"]}, None, {"priority": 1}, "mine has several numbers, and nothing tells which of them"),
        ({"tasks": ["pick"], "include_path": "nowhere"}, None, {}, "the folder of tasks '"),
        (
            {"tasks": ["pick"], "include_path": "empty"},
            None,
            {},
            "holds no task: a YAML file whose 'task' is its name.",
        ),
        ({"tasks": ["pick"], "include_path": "broken"}, None, {}, "is no YAML that can be read: "),
        ({"tasks": ["pick"], "include_path": "lacking"}, None, {}, "the data file 'rows.jsonl' does not exist."),
        ({"tasks": ["pick"]}, "pick.acc", {"goal": {"type": "threshold", "value": 60}}, "is a share of 1, and the"),
    ],
)
def test_what_cannot_be_asked_is_told(problems, tmp_path, params, sub_type, more, message):
    write_tasks(tmp_path / "lacking")
    (tmp_path / "lacking" / "rows.jsonl").unlink()
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "one.yaml").write_text("task: [\n")
    sub_types = [{"name": sub_type, **({"goal": more["goal"]} if "goal" in more else {})}] if sub_type else []
    told = problems(params, *sub_types, **({} if sub_types else more))
    assert message in told[0]


def test_python_of_tasks_outside_of_the_configs_folder_wants_consent(problems, tmp_path_factory, monkeypatch):
    folder = write_tasks(tmp_path_factory.mktemp("far") / "tasks")
    (told,) = problems({"tasks": ["pick"], "include_path": str(folder)})
    assert "own.py' lies outside of the folder of the config. Move it there, or let --trust allow it." in told
    monkeypatch.setenv("OLIVINE_SCRIPTS", "all")
    assert problems({"tasks": ["pick"], "include_path": str(folder)}) == []
    monkeypatch.setenv("OLIVINE_SCRIPTS", "none")
    (told,) = problems({"tasks": ["pick"], "include_path": str(folder)})
    assert "--no-scripts refuses it" in told


@pytest.mark.parametrize(
    ("name", "is_higher"), [("a.acc", True), ("a.perplexity", False), ("a.word_perplexity", False), ("a.chrf", True)]
)
def test_which_way_is_better_follows_from_the_name(name, is_higher):
    from olivine.evaluate import Evidence, number_of

    _, number = number_of("lm_eval", name, Evidence)
    assert (number.key, number.higher_is_better) == (name, is_higher)
