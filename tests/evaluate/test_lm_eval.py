"""Tasks of lm-eval, by the package itself: `make test-lm-eval`, in an environment that has the extra `lm-eval`."""

import json
import shutil

import pytest

from harness_tasks import write_tasks
from olivine.cli import exit_code
from olivine.config import load
from olivine.config.schema import DataConfig
from olivine.errors import OlivineError
from olivine.evaluate import score
from olivine.models import Model
from olivine.work import Machine
from olivine.workflow.keys import plan_keys
from olivine.workflow.plan import make_plan
from tiny import write_rows

pytest.importorskip("lm_eval", reason="needs the extra lm-eval: make test-lm-eval")

from lm_eval import simple_evaluate
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager

HERE = Machine("cpu", "CPUExecutionProvider", 8 * 10**9, 10**12, 2)


class Report:
    def progress(self, *_):
        pass

    warn = record = note = progress


@pytest.fixture
def tasks(tmp_path):
    return write_tasks(tmp_path / "tasks")


def asked(names, tasks, **more):
    return {"tasks": names, "include_path": str(tasks), **more}


def scores(model, folder, params):
    """Of two rows, and of the tasks."""
    folder.mkdir(exist_ok=True)
    text = {"text_template": "{phrase}: {tone}"}
    rows = str(write_rows(folder / "rows.jsonl", 2))
    data = {"name": "rows", "load_dataset_config": {"data_name": "json", "data_files": rows}}
    record = DataConfig.model_validate({**data, "pre_process_data_config": text}).model_dump(mode="json")
    given = {"data": record, "part": "all", "eval_size": None, "seed": 0, "target": "tone", "max_rows": 8}
    return score(model, {**given, "metrics": {"lm_eval": params}}, folder, HERE, Report())["scores"]


def test_numbers_are_those_of_the_packages_own_model(tiny_llama, tasks, tmp_path, monkeypatch):
    names = ["pick", "fluent"]
    ours = scores(Model("hf", tiny_llama), tmp_path / "ours", asked(names, tasks, batch_size=4))
    monkeypatch.chdir(tasks)
    manager = TaskManager(include_path=str(tasks), include_defaults=False)
    model = HFLM(pretrained=str(tiny_llama), device="cpu", dtype="float32", batch_size=3)
    theirs = simple_evaluate(model, tasks=names, task_manager=manager, log_samples=False)["results"]
    assert ours["of_tasks"][:1] == ["pick.acc"]
    for name in ("pick.acc", "pick.acc_norm", "fluent.bits_per_byte"):
        task, metric = name.split(".")
        assert ours[name] == pytest.approx(theirs[task][f"{metric},none"], rel=1e-5)
    assert ours["pick.acc_standard_error"] == pytest.approx(theirs["pick"]["acc_stderr,none"])


def test_text_ends_at_the_first_stop_as_the_packages_own_does(tiny_llama, tasks, tmp_path, monkeypatch):
    ours = scores(Model("hf", tiny_llama), tmp_path / "ours", asked(["say"], tasks, limit=6))
    monkeypatch.chdir(tasks)
    manager = TaskManager(include_path=str(tasks), include_defaults=False)
    model = HFLM(pretrained=str(tiny_llama), device="cpu", dtype="float32", batch_size=2)
    theirs = simple_evaluate(model, tasks=["say"], task_manager=manager, limit=6, log_samples=False)["results"]["say"]
    assert ours["say.length"] == theirs["length,none"] > 0
    assert ours["say.exact_match"] == theirs["exact_match,none"]


def test_contexts_that_are_too_long_keep_their_end(tiny_llama, tasks, tmp_path, monkeypatch):
    ours = scores(Model("hf", tiny_llama), tmp_path / "ours", asked(["pick", "fluent"], tasks, max_length=8))
    monkeypatch.chdir(tasks)
    manager = TaskManager(include_path=str(tasks), include_defaults=False)
    model = HFLM(pretrained=str(tiny_llama), device="cpu", dtype="float32", batch_size=1, max_length=8)
    theirs = simple_evaluate(model, tasks=["pick", "fluent"], task_manager=manager, log_samples=False)["results"]
    assert ours["pick.acc_norm"] == theirs["pick"]["acc_norm,none"]
    assert ours["fluent.bits_per_byte"] == pytest.approx(theirs["fluent"]["bits_per_byte,none"], rel=1e-5)


def test_task_that_fails_is_one_sentence(tiny_llama, tasks, tmp_path):
    (tasks / "own.py").write_text("def length(**_):\n    raise ValueError('not today')\n")
    with pytest.raises(OlivineError, match=r"lm-eval: say: ValueError: not today"):
        scores(Model("hf", tiny_llama), tmp_path / "ours", asked(["say"], tasks))


def config_of(folder, model, evaluator, **more):
    build = {"type": "ModelBuilder", "precision": "int4", "int4_algo_config": "default"}
    content = {
        "input_model": {"type": "HfModel", "model_path": str(model)},
        "passes": {"build": build},
        "evaluators": {"tasks": evaluator},
        "evaluator": "tasks",
        "cache_dir": str(folder / "cache"),
        "output_dir": str(folder / "out"),
    }
    path = folder / "config.json"
    path.write_text(json.dumps(content | more))
    return path


def test_goals_on_tasks_hold_for_the_onnx_model_beside_the_input_model(tiny_llama, tasks, tmp_path, capsys):
    goal = {"type": "max-degradation", "value": 1}
    never = {"type": "threshold", "value": 0.01}
    metric = {"name": "mine", "type": "lm_eval", "metric_config": asked(["pick", "fluent"], "tasks", limit=4)}
    sub_types = [{"name": "pick.acc", "priority": 1, "goal": goal}, {"name": "fluent.bits_per_byte", "goal": never}]
    path = config_of(tmp_path, tiny_llama, {"metrics": [metric | {"sub_types": sub_types}]})
    assert exit_code(["run", "--config", str(path)]) == 1
    printed = capsys.readouterr()
    assert "mine: fluent.bits_per_byte of 'build' is" in " ".join(printed.err.split())
    last = json.loads((tmp_path / "out" / "journal.jsonl").read_text().splitlines()[-1])
    rows = {row["name"]: row for row in last["measured"]}
    assert rows["mine: pick.acc"]["is_met"] is True
    assert rows["mine: fluent.bits_per_byte"]["baseline"] != rows["mine: fluent.bits_per_byte"]["value"]
    assert json.loads((tmp_path / "out" / "workflow.json").read_text())["evaluators"]["tasks"]["metrics"][0][
        "metric_config"
    ]["include_path"] == str(tasks)


def test_lm_evaluator_of_olive_gives_every_number_of_its_tasks(tiny_llama, tasks, tmp_path, capsys):
    evaluator = {"type": "LMEvaluator", "tasks": ["pick", "size_on_disk"], "limit": 4, "model_class": "ortgenai"}
    path = config_of(tmp_path, tiny_llama, {**evaluator, "include_path": "tasks"}, passes={})
    assert exit_code(["evaluate", str(tiny_llama), "--config", str(path)]) == 0
    table = capsys.readouterr().out
    assert [name in table for name in ("lm_eval: pick.acc ", "lm_eval: pick.acc_norm", "size_on_disk")] == [True] * 3


def test_scores_are_kept_by_the_content_of_tasks_and_not_by_their_place(tiny_llama, tasks, tmp_path):
    def key(folder):
        metric = {"name": "mine", "type": "lm_eval", "metric_config": asked(["pick"], "tasks")}
        plan = make_plan(load(config_of(folder, tiny_llama, {"metrics": [metric]})))
        assert plan.problems == ()
        from olivine.store.hashes import Hashes

        return plan_keys(plan, plan.input_model, Hashes(folder / "hashes.jsonl")).scores[None]

    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    shutil.copytree(tasks, elsewhere / "tasks")
    first = key(tmp_path)
    assert key(elsewhere) == first
    with (elsewhere / "tasks" / "rows.jsonl").open("a") as file:
        file.write('{"question": "one more", "choices": ["a", "b"], "gold": 0}\n')
    assert key(elsewhere) != first


def test_task_of_the_package_is_known_and_a_misspelt_one_is_told(tiny_llama, tasks, tmp_path):
    metric = {"name": "mine", "type": "lm_eval", "metric_config": {"tasks": ["arc_easy", "hellaswga"]}}
    (problem,) = make_plan(load(config_of(tmp_path, tiny_llama, {"metrics": [metric]}))).problems
    assert f"{problem.message} {problem.fix}" == "lm-eval has no task 'hellaswga'. Did you mean 'hellaswag'?"
