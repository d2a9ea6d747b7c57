"""A search of a config: what it tries, shares, chooses and survives. Passes are fakes; sizes stand for what is measured."""

import json
import shutil
import signal
import threading
from pathlib import Path
from typing import get_args

import pytest

from graphs import text_classifier
from olivine.config import load
from olivine.errors import GoalMissed, Interrupted, StepFailed
from olivine.passes import passes
from olivine.search.objectives import GoalKind
from olivine.systems import Worker
from olivine.workflow.choices import Choices, values_of
from olivine.workflow.engine import run
from olivine.workflow.events import Scored, SearchDone, StepStarted, TrialDone, Warned
from olivine.workflow.journal import read_journal
from olivine.workflow.plan import make_plan
from olivine.workflow.words import lines
from olivine.workflow.workers import Pool, Workers
from tiny import write_rows

pytestmark = pytest.mark.usefixtures("warm")


@pytest.fixture
def searched(fakes, tiny_llama, tmp_path):
    """The plan of a search over passes; nothing is scored, so the smallest model is the best."""

    def plan(passes, quality=None, data_configs=(), **strategy):
        config = {
            "input_model": {"type": "HfModel", "model_path": str(tiny_llama)},
            "passes": passes,
            "data_configs": list(data_configs),
            "quality": quality or {"enabled": False},
            "search_strategy": {"sampler": "sequential", **strategy},
            "cache_dir": str(tmp_path / "cache"),
            "output_dir": str(tmp_path / "out"),
        }
        path = tmp_path / "config.json"
        path.write_text(json.dumps(config, indent=1))
        return make_plan(load(path))

    return plan


def trials(tmp_path):
    return [event for event in read_journal(tmp_path / "out", last_run=True) if isinstance(event, TrialDone)]


def outcome(tmp_path):
    return next(event for event in read_journal(tmp_path / "out", last_run=True) if isinstance(event, SearchDone))


def test_best_of_all_points_is_delivered_as_a_plain_run_delivers(searched, tmp_path):
    plan = searched({"one": {"type": "write", "n_bytes": [300, 100, 200]}})
    assert plan.problems == ()
    result = run(plan)
    assert result.search["point"] == {"one.n_bytes": 100}
    assert (result.model / "part0.safetensors").read_bytes() == b"a" * 100
    workflow = json.loads((tmp_path / "out" / "workflow.json").read_text())
    assert workflow["passes"]["one"]["n_bytes"] == 100
    assert "search_strategy" not in workflow
    assert "alternatives" not in workflow["passes"]["one"]
    assert [step["name"] for step in result.steps] == ["one"]
    again = make_plan(load(tmp_path / "out" / "workflow.json"))
    assert again.problems == ()
    assert "one" in again.cached


def test_steps_that_trials_share_run_once(searched, tmp_path):
    counter = tmp_path / "counted"
    plan = searched(
        {
            "first": {"type": "write", "text": "x", "counter": str(counter)},
            "second": {"type": "write", "n_bytes": [100, 200], "text": ["a", "b"]},
        }
    )
    assert (plan.search.n_steps, plan.search.n_own) == (8, 5)
    run(plan)
    assert len(counter.read_text().splitlines()) == 1
    started = [event for event in read_journal(tmp_path / "out") if isinstance(event, StepStarted)]
    assert [event.step for event in started].count("first") == 1
    assert [event.step for event in started].count("second") == 4
    assert [step["cached"] for step in trials(tmp_path)[-1].steps] == [True, False]


def test_alternatives_have_params_of_their_own_and_none_is_one(searched, tmp_path):
    plan = searched(
        {
            "first": {"type": "write"},
            "second": [{"type": "write", "n_bytes": [50, 60]}, {"type": "fail", "how": "warn"}, None],
        }
    )
    assert plan.problems == ()
    run(plan)
    points = [event.point for event in trials(tmp_path)]
    assert points == [
        {"second": "write", "second.write.n_bytes": 50},
        {"second": "write", "second.write.n_bytes": 60},
        {"second": "fail"},
        {"second": "none"},
    ]


@pytest.mark.parametrize(("how", "cause"), [("raise", "flux capacitor"), ("kill", "SIGKILL"), ("exit", "exit code 3")])
def test_failing_trial_is_recorded_and_never_the_end(searched, tmp_path, how, cause):
    result = run(searched({"one": {"type": "fail", "how": [how, "note"]}}))
    failed, good = trials(tmp_path)
    assert (failed.outcome, good.outcome) == ("failed", "measured")
    assert cause in failed.cause
    assert "about to fail" in Path(failed.log).read_text()
    assert result.search["chosen"] == good.trial
    assert outcome(tmp_path).n_failed == 1


@pytest.mark.slow
def test_hanging_trial_is_ended_after_its_time(searched, tmp_path):
    result = run(searched({"one": {"type": "fail", "how": ["hang", "note"]}}, max_trial_time=15))
    hung, good = trials(tmp_path)
    assert "max_trial_time" in hung.cause
    assert result.search["chosen"] == good.trial


@pytest.mark.slow
def test_trial_at_work_when_the_time_of_a_search_is_over_is_ended(searched, tmp_path):
    passes = {"one": {"type": "fail", "how": ["note", "hang", "warn"]}}
    result = run(searched(passes, max_time=15, end_at_max_time=True))
    good, hung = trials(tmp_path)  # and no third is begun
    assert "(max_time)" in hung.cause
    assert result.search["chosen"] == good.trial


def test_all_trials_failing_is_an_error_that_says_why(searched, tmp_path):
    with pytest.raises(StepFailed, match=r"no trial gave a model.*flux capacitor") as caught:
        run(searched({"one": {"type": "fail", "how": ["raise", "exit"]}}))
    assert caught.value.exit_code == 1
    assert outcome(tmp_path).chosen is None
    assert not (tmp_path / "out" / "model").exists()


def test_missed_goals_rank_near_misses_and_keep_the_best(searched, tmp_path):
    with pytest.raises(GoalMissed, match="the check says no") as caught:
        run(searched({"one": {"type": "fail", "how": "miss"}, "two": {"type": "write", "n_bytes": [90, 70]}}))
    near = outcome(tmp_path).near_misses
    assert [one["trial"] for one in near] == [2, 1]
    assert near[0]["missed"] == ["'one': the check says no"]
    assert (caught.value.result.model / "part0.safetensors").stat().st_size == 70


def test_trial_that_meets_its_goals_goes_before_a_better_one_that_does_not(searched):
    result = run(searched({"one": {"type": "write"}, "two": [{"type": "fail", "how": "miss"}, {"type": "write"}]}))
    assert result.search["point"] == {"two": "write"}


@pytest.mark.parametrize("sampler", ["sequential", "random", "tpe", "nsga2"])
def test_max_samples_is_kept_and_the_same_seed_gives_the_same_trials(searched, tmp_path, sampler):
    passes = {"one": {"type": "write", "n_bytes": [10, 20, 30, 40, 50], "n_files": [1, 2, 3]}}
    points = []
    for _ in range(2):
        run(searched(passes, sampler=sampler, sampler_config={"max_samples": 4, "seed": 3}))
        points.append([event.point for event in trials(tmp_path)])
    assert points[0] == points[1]
    assert len(points[0]) == 4


def test_search_that_was_killed_goes_on_with_the_same_trials(searched, tmp_path):
    counter = tmp_path / "counted"
    passes = {"one": {"type": "write", "n_bytes": [10, 20, 30, 40], "n_files": [1, 2, 3], "counter": str(counter)}}
    strategy = {"sampler": "tpe", "sampler_config": {"max_samples": 6, "seed": 5}}

    def stop(event):
        if isinstance(event, TrialDone) and event.trial == 3:
            raise KeyboardInterrupt

    with pytest.raises(BaseException, match="go"):
        run(searched(passes, **strategy), stop)
    begun = trials(tmp_path)
    assert len(begun) == 3
    run(searched(passes, **strategy))
    again = trials(tmp_path)
    assert [one.point for one in again[:3]] == [one.point for one in begun]
    assert len(again) == 6
    assert len(counter.read_text().splitlines()) == 6


def test_failed_trial_of_an_interrupted_search_is_not_tried_again(searched, tmp_path):
    once = str(tmp_path / "once")
    passes = {"one": {"type": "fail", "how": ["raise", "warn", "note"], "once": [once]}}

    def stop(event):
        if isinstance(event, TrialDone) and event.trial == 2:
            raise KeyboardInterrupt

    with pytest.raises(BaseException, match="go"):
        run(searched(passes), stop)
    run(searched(passes))
    assert [one.outcome for one in trials(tmp_path)] == ["failed", "measured", "measured"]
    run(searched(passes))  # a search that has ended begins anew: what failed once may not fail now
    assert [one.outcome for one in trials(tmp_path)] == ["measured"] * 3


def problems(plan):
    return [str(problem) for problem in plan.problems]


def test_combination_that_cannot_run_is_left_out_and_counted(searched, tmp_path):
    plan = searched({"one": [{"type": "adapt"}, None], "two": [{"type": "scale"}, {"type": "write"}]})
    assert plan.problems == ()
    assert (plan.search.n_looked_at, plan.search.n_valid) == (4, 3)
    (reason,) = plan.search.refused
    assert "takes adapter, but what reaches it is hf" in reason
    assert any("1 combinations cannot run" in line for line in lines(plan))
    run(plan)
    assert len(trials(tmp_path)) == 3
    assert outcome(tmp_path).n_refused == 1


def test_value_that_runs_in_no_combination_is_a_problem_with_its_line(searched, tmp_path):
    (problem,) = problems(searched({"one": {"type": "write", "n_bytes": [10, "many"], "text": ["a", "b"]}}))
    line = next(n for n, text in enumerate((tmp_path / "config.json").read_text().splitlines(), 1) if '"many"' in text)
    assert problem.startswith(f"{tmp_path / 'config.json'}:{line}: ")
    assert "n_bytes" in problem


def test_alternative_that_does_not_exist_is_a_problem(searched):
    (problem,) = problems(searched({"one": [{"type": "write"}, {"type": "wriet"}]}))
    assert "there is no pass 'wriet'. Did you mean 'write'?" in problem


@pytest.mark.parametrize(
    ("strategy", "said"),
    [
        ({"sampler_config": {"max_samples": 0}}, "max_samples"),
        ({"sampler_config": {"max_sampels": 3}}, "did you mean 'max_samples'?"),
        ({"sampler_config": {"population_size": 3}}, "population_size"),
        ({"max_time": 0}, "'search_strategy.max_time' must be greater than 0"),
        ({"max_iter": 0}, "'search_strategy.max_iter' must be greater than 0"),
        ({"max_parallel": 0}, "'search_strategy.max_parallel' must be greater than 0"),
        ({"sampler": "tpee"}, "did you mean 'tpe'?"),
        ({"stop_when_goals_met": True}, "waits for goals, and the config sets none"),
    ],
)
def test_settings_that_do_not_hold_are_problems(searched, strategy, said):
    (problem,) = problems(searched({"one": {"type": "write", "n_bytes": [1, 2]}}, **strategy))
    assert said in problem


def test_search_of_nothing_is_a_plain_run_and_said(searched):
    plan = searched({"one": {"type": "write"}})
    assert (plan.problems, plan.search) == ((), None)
    assert "'search_strategy' has nothing to choose" in " ".join(plan.translated)


def test_many_points_are_planned_in_part_and_each_value_once(searched):
    sizes = list(range(1, 16))
    plan = searched({name: {"type": "write", "n_bytes": sizes} for name in ("one", "two", "three")})
    assert plan.problems == ()
    assert plan.search.choices.space.size == 15**3
    assert 50 <= plan.search.n_looked_at <= 95
    assert plan.search.n_trials == 15**3


def test_value_that_never_runs_is_found_among_many_points(searched):
    sizes = [*range(1, 16), "many"]
    plan = searched(
        {"one": {"type": "write", "n_bytes": sizes}, "two": {"type": "write", "n_bytes": list(range(1, 12))}}
    )
    assert ["many" in problem for problem in problems(plan)] == [True]


def test_first_trial_that_meets_the_goals_ends_a_search_that_waits_for_them(searched, tmp_path):
    rows = {
        "name": "rows",
        "load_dataset_config": {"data_name": "json", "data_files": str(write_rows(tmp_path / "rows.jsonl"))},
        "pre_process_data_config": {"text_template": "{phrase} {tone}", "max_seq_len": 64},
    }
    quality = {"max_drop": 1.0, "data_config": "rows", "max_samples": 8}
    passes = {"quantize": {"type": "rtn", "bits": [8, 4], "group_size": [32, 64]}}
    result = run(searched(passes, quality=quality, data_configs=[rows], stop_when_goals_met=True))
    (trial,) = trials(tmp_path)
    assert trial.values.keys() == {"label_accuracy", "loss", "size_bytes", "drop", "broken"}
    assert [row["model"] for row in result.scores] == ["base", "quantize"]
    assert result.scores[-1]["loss"] == trial.values["loss"]


def test_a_list_that_a_param_takes_is_no_choice_and_arguments_of_training_are(tiny_llama, tmp_path):
    passes = {
        "lora": {
            "type": "LoRA",
            "train_data_config": "rows",
            "target_modules": ["q_proj", "v_proj"],
            "r": [4, 8],
            "training_args": {"learning_rate": [0.1, 0.2], "report_to": ["none"], "warmup_ratio": [0.0, 0.1]},
        },
    }
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"input_model": {"model_path": str(tiny_llama)}, "passes": passes}))
    names = list(Choices.of(load(path)).space.dimensions)
    assert names == ["lora.r", "lora.training_args.learning_rate", "lora.training_args.warmup_ratio"]


def test_pass_by_pass_goes_on_from_the_best_of_each_pass(searched, tmp_path):
    passes = {
        "first": {"type": "write", "n_bytes": [30, 10, 20]},
        "second": {"type": "write", "text": ["a", "b"], "n_bytes": [7, 5]},
        "third": {"type": "write", "n_bytes": 3},
    }
    plan = searched(passes, execution_order="pass-by-pass")
    assert plan.search.n_trials == 3 + 4
    result = run(plan)
    done = trials(tmp_path)
    assert [one.trial for one in done] == [1, 2, 3, 4, 5, 6, 7]
    assert [[step["step"] for step in one.steps] for one in (done[0], done[-1])] == [
        ["first"],
        ["first", "second", "third"],
    ]
    assert {one.point["first.n_bytes"] for one in done[3:]} == {10}
    assert result.search["chosen"] == 4
    assert [step["name"] for step in result.steps] == ["first", "second", "third"]


def names_of(tmp_path, model, passes, strategy=True):
    path = tmp_path / "config.json"
    config = {"input_model": {"model_path": str(model)}, "passes": passes, "search_strategy": strategy}
    path.write_text(json.dumps(config))
    loaded = load(path)
    assert [problem for problem in loaded.problems if problem.kind != "missing-data"] == []
    space = Choices.of(loaded).space
    return {name: list(one.choices) for name, one in space.dimensions.items()}


def test_values_that_a_pass_has_itself_are_searched_where_they_are_not_set(tiny_llama, tmp_path):
    lora = {"type": "LoRA", "train_data_config": "rows"}
    own = {"lora.r": [16, 32, 64]}
    assert names_of(tmp_path, tiny_llama, {"lora": lora}) == own
    assert names_of(tmp_path, tiny_llama, {"lora": lora | {"r": "SEARCHABLE_VALUES"}}) == own
    assert names_of(tmp_path, tiny_llama, {"lora": lora | {"lora_r": 8}}) == {}
    assert names_of(tmp_path, tiny_llama, {"lora": lora | {"disable_search": True}}) == {}
    assert names_of(tmp_path, tiny_llama, {"lora": lora}, {"include_pass_params": False}) == {}


def test_every_value_of_a_param_is_searched_where_a_config_asks_for_it(tiny_llama, tmp_path):
    old = {"type": "rtn", "bits": "SEARCHABLE_VALUES", "sym": "SEARCHABLE_VALUES", "group_size": 32}
    spaces = {"quantize.bits": values_of(passes["rtn"], "bits"), "quantize.sym": [False, True]}
    assert {4, 8} <= set(spaces["quantize.bits"])
    assert names_of(tmp_path, tiny_llama, {"quantize": old}) == spaces
    today = {"type": "rtn", "searched": ["bits", "sym"], "group_size": 32}
    assert names_of(tmp_path, tiny_llama, {"quantize": today}) == spaces
    plan = make_plan(load(tmp_path / "config.json"))
    assert plan.problems == ()
    assert "searched" not in plan.workflow["passes"]["quantize"]


def test_param_without_a_list_of_values_is_told(tiny_llama, tmp_path):
    names_of(tmp_path, tiny_llama, {"quantize": {"type": "gptq", "bits": [4, 8], "damp_percent": "SEARCHABLE_VALUES"}})
    told = make_plan(load(tmp_path / "config.json")).translated
    assert any("the pass 'quantize' has no list of values for 'damp_percent'" in one for one in told)


def test_records_of_values_in_old_configs_are_lists(tiny_llama, tmp_path):
    record = {"olive_parameter_type": "SearchParameter", "type": "Categorical", "support": [4, 8]}
    truth = {"olive_parameter_type": "SearchParameter", "type": "Boolean"}
    passes = {"quantize": {"type": "rtn", "config": {"bits": record, "sym": truth}}}
    assert names_of(tmp_path, tiny_llama, passes) == {"quantize.bits": [4, 8], "quantize.sym": [True, False]}


@pytest.fixture
def graph_search(tmp_path, monkeypatch):
    """Plans of searches over the bits of a graph, with the goal on its size and the accuracy beside it."""
    monkeypatch.chdir(tmp_path)
    graph = text_classifier(tmp_path / "given" / "classifier.onnx")
    rows = [{"input_ids": [number, 2, 3, 4, 5], "label": number % 3} for number in range(20)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def plan(goal=None, *others, max_parallel=1, **quality):
        size = {"name": "size", "type": "size_on_disk", "priority": 1} | ({"goal": goal} if goal else {})
        accuracy = {"name": "acc", "type": "accuracy", "data_config": "mine", "priority": 2}
        config = {
            "input_model": {"type": "ONNXModel", "model_path": str(graph)},
            "data_configs": [
                {"name": "mine", "load_dataset_config": {"data_name": "json", "data_files": "rows.jsonl"}}
            ],
            "passes": {"small": {"type": "OnnxBlockWiseRtnQuantization", "bits": [8, 4]}},
            "evaluators": {"common": {"metrics": [size, accuracy, *others]}},
            "evaluator": "common",
            "search_strategy": {"sampler": "sequential", "max_parallel": max_parallel},
            "quality": quality,
            "cache_dir": "cache",
            "output_dir": "out",
        }
        (tmp_path / "config.json").write_text(json.dumps(config, indent=1))
        planned = make_plan(load(tmp_path / "config.json"))
        assert planned.problems == ()
        return planned

    return plan


def test_one_trial_at_a_time_where_times_are_asked_for(graph_search):
    latency = {"name": "latency", "type": "latency", "sub_types": [{"name": "p50"}]}
    assert graph_search(max_parallel=2).search.n_parallel == 2
    assert graph_search(None, latency, max_parallel=2).search.n_parallel == 1


def test_priorities_and_goals_of_an_evaluator_choose(graph_search, tmp_path):
    run(graph_search())
    large, small = (one.values["size_bytes"] for one in trials(tmp_path))
    assert large > small
    assert outcome(tmp_path).chosen == 2  # the size has the first priority
    run(graph_search({"type": "threshold", "value": (large + small) / 2}))
    cut, measured = trials(tmp_path)
    assert (cut.outcome, measured.outcome) == ("cut", "measured")
    assert cut.values == {"size_bytes": large}
    assert "size" in cut.missed[0]
    assert not [step for step in cut.steps if step["step"] == "score:small"]
    assert {"size_bytes", "broken"} < measured.values.keys()


def test_goal_that_no_trial_meets_ends_with_the_nearest(graph_search, tmp_path):
    with pytest.raises(GoalMissed, match="size"):
        run(graph_search({"type": "threshold", "value": 1}))
    near = outcome(tmp_path).near_misses
    assert [one["trial"] for one in near] == [2, 1]
    assert near[0]["shortfall"] < near[1]["shortfall"]
    assert (tmp_path / "out" / "model").is_dir()


def of_all_types(on_size, on_script):
    """Metrics with a goal of each type: on the size, of which less is better, and on what a script says of it, more."""
    kinds = ("threshold", "min-improvement", "percent-min-improvement")
    own_kinds = ("max-degradation", "percent-max-degradation")
    sized = [
        {"name": "bytes", "goal": {"type": kind, "value": value}} for kind, value in zip(kinds, on_size, strict=True)
    ]
    scripted = [
        {"name": "n", "higher_is_better": True, "goal": {"type": kind, "value": value}}
        for kind, value in zip(own_kinds, on_script, strict=True)
    ]
    script = {"user_script": "sizes.py", "evaluate_func": "of"}
    return [
        {"name": "bytes", "type": "size_on_disk", "sub_types": sized},
        {"name": "own", "type": "custom", "user_config": script, "sub_types": scripted},
    ]


@pytest.fixture
def sizes_script(tmp_path):
    (tmp_path / "sizes.py").write_text(
        "import os\n\n\ndef of(model, device, providers):\n"
        "    path = model.model_path\n"
        "    files = [path] if os.path.isfile(path) else [os.path.join(path, name) for name in os.listdir(path)]\n"
        "    return {'n': sum(os.path.getsize(one) for one in files if one.endswith('.onnx'))}\n"
    )


@pytest.mark.usefixtures("sizes_script")
def test_goals_of_each_type_are_met_in_a_search(graph_search, tmp_path):
    wide = of_all_types((10**9, 100, 1), (10**9, 99))
    result = run(graph_search(None, *wide))
    assert {row["goal"]["type"] for row in result.measured if row["goal"]} == set(get_args(GoalKind))
    assert {row["is_met"] for row in result.measured if row["goal"]} == {True}
    assert [one.missed for one in trials(tmp_path) if one.trial == result.search["chosen"]] == [()]


@pytest.mark.usefixtures("sizes_script")
def test_goals_of_each_type_are_missed_in_a_search(graph_search, tmp_path):
    narrow = of_all_types((1, 10**9, 99), (0, 0))
    with pytest.raises(GoalMissed) as missed:
        run(graph_search(None, *narrow))
    on_size = outcome(tmp_path).near_misses[0]["missed"]
    assert len(on_size) == 3  # of what is too large, nothing else is looked at
    measured = [row for row in missed.value.result.measured if row["goal"]]
    assert {row["goal"]["type"] for row in measured} == set(get_args(GoalKind))
    assert {row["is_met"] for row in measured} == {False}
    assert min(row["margin"] for row in measured) < 0


@pytest.mark.usefixtures("sizes_script")
def test_trial_that_misses_a_goal_is_not_timed_and_told_of_no_times(graph_search, tmp_path):
    script = {"user_script": "sizes.py", "evaluate_func": "of"}
    never = {"name": "n", "higher_is_better": True, "goal": {"type": "threshold", "value": 10**12}}
    own = {"name": "own", "type": "custom", "user_config": script, "sub_types": [never]}
    fast = {"name": "speed", "type": "latency", "goal": {"type": "threshold", "value": 10**6}}
    with pytest.raises(GoalMissed):
        run(graph_search(None, own, fast))
    for one in trials(tmp_path):
        (sentence,) = one.missed
        assert "own: n of" in sentence
        assert "latency_avg" not in one.values


def test_trial_that_surely_misses_its_accuracy_is_given_up_after_a_few_rows(graph_search, tmp_path):
    rows = [{"input_ids": [number % 40, 2, 3, 4, 5], "label": number % 3} for number in range(160)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    accuracy = {"name": "more", "type": "accuracy", "data_config": "mine", "goal": {"type": "threshold", "value": 0.95}}
    with pytest.raises(GoalMissed):
        run(graph_search(None, accuracy))
    given_up = trials(tmp_path)
    assert [one.outcome for one in given_up] == ["cut", "cut"]
    assert "on 32 of 160 rows" in given_up[0].missed[0]
    assert "1.0% at most are given up" in given_up[0].missed[0]
    scored = [event for event in read_journal(tmp_path / "out", last_run=True) if isinstance(event, Scored)]
    assert {(event.model, event.scores["n_rows"]) for event in scored} == {("base", 160), ("small", 160)}  # that ships


def test_results_of_trials_stay_within_their_bytes(searched, tmp_path):
    result = run(searched({"one": {"type": "write", "n_files": 1, "n_bytes": [3000, 1000, 2000]}}, max_cost_bytes=3500))
    assert [one.point["one.n_bytes"] for one in trials(tmp_path)] == [3000, 1000]
    assert outcome(tmp_path).n_refused == 1
    assert result.search["point"] == {"one.n_bytes": 1000}
    warned = [event.message for event in read_journal(tmp_path / "out") if isinstance(event, Warned)]
    assert "trials are left out that would take all results above the 3,500 bytes of max_cost_bytes" in warned


def test_plan_foresees_what_a_search_takes_by_what_its_steps_took(searched):
    plan = searched({"one": {"type": "write", "pause_seconds": 0.2, "n_bytes": [10, 20]}})
    assert plan.search.seconds is None
    assert "how long it takes is not known: none of its steps ran here before" in lines(plan)
    run(plan)
    assert searched({"one": {"type": "write", "pause_seconds": 0.2, "n_bytes": [10, 20]}}).search.seconds == 0
    more = searched({"one": [{"type": "write", "pause_seconds": 0.2, "n_bytes": [30, 40, 50]}, {"type": "scale"}]})
    assert more.search.seconds >= 3 * 2 * 0.2
    assert any("which never ran here" in line for line in lines(more)) == bool(more.search.unknown)
    capped = searched({"one": {"type": "write", "pause_seconds": 0.2, "n_bytes": [30, 40, 50]}}, max_time=0.5)
    assert "takes about 0.5 s at most by what such steps took here before" in lines(capped)


def test_first_trial_that_is_too_large_is_a_problem_of_the_plan(graph_search, tmp_path):
    config = json.loads((graph_search() and tmp_path / "config.json").read_text())
    config["search_strategy"]["max_cost_bytes"] = 10
    (tmp_path / "config.json").write_text(json.dumps(config))
    (problem,) = make_plan(load(tmp_path / "config.json")).problems
    assert "max_cost_bytes is 10, and the first trial alone may write" in problem.message


def test_trials_that_run_at_once_give_what_they_give_alone(searched, tmp_path):
    passes = {
        "first": {"type": "write", "n_bytes": 90, "counter": str(tmp_path / "counted")},
        "second": [{"type": "write", "n_bytes": [40, 20, 30]}, {"type": "fail", "how": "kill"}],
    }
    strategy = {"sampler": "tpe", "sampler_config": {"seed": 4}}
    told = []
    for n in (1, 2):
        plan = searched(passes, **strategy, max_parallel=n)
        assert plan.search.n_parallel == n
        result = run(plan)
        done = sorted(trials(tmp_path), key=lambda one: one.trial)
        told.append((result.search, {str(one.point): (one.values, one.outcome, one.key) for one in done}))
        shutil.rmtree(tmp_path / "cache")
        (tmp_path / "out" / "journal.jsonl").unlink()
    assert told[0][1] == told[1][1]
    assert [one["point"] for one, _ in told] == [{"second": "write", "second.write.n_bytes": 20}] * 2
    assert len((tmp_path / "counted").read_text().splitlines()) == 2  # once for each of the two searches


class Waiting(Worker):
    """A worker whose jobs last until it is killed."""

    at_work = threading.Semaphore(0)

    def __init__(self):
        self.killed = threading.Event()

    def run(self, job, listen):
        self.at_work.release()
        self.killed.wait()
        return {}

    def close(self):
        self.kill()

    def kill(self):
        self.killed.set()


def test_time_of_one_trial_ends_no_other_that_runs_beside_it():
    with Workers({None: Pool(Waiting, 2)}) as workers:
        threads = [threading.Thread(target=workers.run, args=(None, None), daemon=True) for _ in range(2)]
        for thread in threads:
            thread.start()
            assert Waiting.at_work.acquire(timeout=300)
        workers.kill(threads[0].ident)
        threads[0].join(timeout=300)
        assert [thread.is_alive() for thread in threads] == [False, True]
        workers.kill()
        threads[1].join(timeout=300)
        assert not threads[1].is_alive()


def test_interruption_of_trials_that_run_at_once_fails_none_of_them(searched, tmp_path):
    def stop(event):
        if isinstance(event, StepStarted) and event.step == "one":
            signal.raise_signal(signal.SIGINT)

    passes = {"one": {"type": "write", "n_bytes": [10, 20], "pause_seconds": 1}}
    with pytest.raises(Interrupted):
        run(searched(passes, max_parallel=2), stop)
    assert [one.outcome for one in trials(tmp_path) if one.outcome == "failed"] == []
    assert run(searched(passes, max_parallel=2)).search["n_failed"] == 0
