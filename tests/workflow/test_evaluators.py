"""Evaluators of a config: numbers that are asked for are measured, shown, and held to their goals on a plain run."""

import json
import re
import time

import numpy as np
import psutil
import pytest

from graphs import N_TOKENS, logits_of, text_classifier
from olivine.cli import exit_code
from olivine.config import load
from olivine.errors import GoalMissed, OlivineError
from olivine.evaluate import OutputEvidence, custom_numbers
from olivine.models.onnx_files import onnx_model
from olivine.work import Machine
from olivine.workflow.engine import run
from olivine.workflow.journal import read_journal
from olivine.workflow.plan import make_plan
from olivine.workflow.words import lines
from tiny import write_rows

pytestmark = pytest.mark.usefixtures("warm")

CACHE = {}


@pytest.fixture(autouse=True, scope="module")
def cache(tmp_path_factory):
    """One cache for all: what the tests measure is made once."""
    CACHE["folder"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture
def graph(tmp_path):
    """A text classifier of three classes, and rows whose labels it gives for all but every fifth."""
    graph = text_classifier(tmp_path / "given" / "classifier.onnx")
    ids = np.random.default_rng(0).integers(0, N_TOKENS, (20, 5))
    classes = logits_of(graph, ids).argmax(-1)
    labels = [int(one + (number % 5 == 0)) % 3 for number, one in enumerate(classes)]
    rows = [{"input_ids": row.tolist(), "label": label} for row, label in zip(ids, labels, strict=True)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return graph


def accuracy(*sub_types, **more):
    return {"name": "acc", "type": "accuracy", "data_config": "mine", "sub_types": list(sub_types)} | more


def goal(kind, value):
    return {"type": kind, "value": value}


def config_of(folder, model, metrics, **more):
    content = {
        "input_model": {"type": "ONNXModel", "model_path": str(model)},
        "data_configs": [{"name": "mine", "load_dataset_config": {"data_name": "json", "data_files": "rows.jsonl"}}],
        "passes": {"small": {"type": "OnnxBlockWiseRtnQuantization", "block_size": 32}},
        "evaluators": {"common": {"metrics": metrics}},
        "evaluator": "common",
        "cache_dir": CACHE["folder"],
        "output_dir": str(folder / "out"),
    }
    path = folder / "config.json"
    path.write_text(json.dumps(content | more, indent=1))
    return path


def planned(*args, **more):
    return make_plan(load(config_of(*args, **more)))


def problems(*args, **more):
    return [f"{problem.message} {problem.fix}".strip() for problem in planned(*args, **more).problems]


def test_numbers_that_are_asked_for_stand_beside_those_of_the_input_model(graph, tmp_path, capsys):
    size = {"name": "size", "type": "size_on_disk", "goal": goal("percent-min-improvement", 5)}
    scores = [{"name": "accuracy_score", "priority": 1}, {"name": "f1_score"}, {"name": "top_k"}, {"name": "auroc"}]
    scores[0]["goal"] = goal("max-degradation", 0.9)
    scores[2]["metric_config"] = {"k": 3}
    path = config_of(tmp_path, graph, [accuracy(*scores), size])
    assert exit_code(["run", "--config", str(path)]) == 0
    table = capsys.readouterr().out.partition("| asked for")[2].splitlines()
    names = [line.split("|")[1].strip() for line in table[2:7]]
    assert names == ["acc: accuracy_score", "acc: f1_score", "acc: top_k", "acc: auroc", "size"]
    last = json.loads((tmp_path / "out" / "journal.jsonl").read_text().splitlines()[-1])
    by_number = {row["number"]: row for row in last["measured"]}
    assert by_number["label_accuracy"]["baseline"] == 0.8
    assert by_number["label_accuracy"]["bound"] == pytest.approx(-0.1)
    assert by_number["label_accuracy"]["is_met"] is True
    assert by_number["top_k_accuracy"]["value"] == 1
    assert by_number["f1"]["goal"] is None
    assert by_number["size_bytes"]["value"] < by_number["size_bytes"]["baseline"]

    assert exit_code(["evaluate", str(tmp_path / "out" / "model"), "--config", str(path)]) == 0
    lines = [[cell.strip() for cell in line.split("|")] for line in capsys.readouterr().out.splitlines()]
    assert ["", "acc: f1_score", f"{by_number['f1']['value']:.1%}", ""] in lines


@pytest.mark.parametrize(
    ("kind", "met", "missed"),
    [
        ("threshold", 1e6, 10),
        ("min-improvement", 1, 1e6),
        ("percent-min-improvement", 1, 99.9),
        ("max-degradation", 1, None),
        ("percent-max-degradation", 1, None),
    ],
)
def test_each_type_of_goal_on_the_size_is_met_and_missed(graph, tmp_path, kind, met, missed):
    """The quantized graph is smaller, so that it keeps every goal that lets the size grow."""
    size = {"name": "size", "type": "size_on_disk"}
    result = run(planned(tmp_path, graph, [size | {"goal": goal(kind, met)}]))
    assert result.measured[0]["is_met"] is True
    if missed is None:
        return
    with pytest.raises(GoalMissed, match=r"size of 'small' is .* but evaluator 'common' asks for at most") as caught:
        run(planned(tmp_path, graph, [size | {"goal": goal(kind, missed)}]))
    (row,) = caught.value.result.measured
    assert row["margin"] == pytest.approx(row["bound"] - row["value"])
    assert (caught.value.result.model / "classifier.onnx").is_file()


def test_missed_threshold_is_exit_code_1_and_says_by_how_much(graph, tmp_path, capsys):
    path = config_of(tmp_path, graph, [accuracy({"name": "f1_score", "goal": goal("threshold", 0.999)})])
    assert exit_code(["run", "--config", str(path)]) == 1
    told = " ".join(capsys.readouterr().err.split())
    assert "acc: f1_score of 'small' is" in told
    assert "but evaluator 'common' asks for at least 99.9%, which is missed by" in told
    assert exit_code(["evaluate", str(graph), "--config", str(path)]) == 1
    assert "acc: f1_score misses its goal" in capsys.readouterr().err


def test_sizes_of_batches_and_the_gpu_are_planned(graph, tmp_path):
    def rate(n_rows, **more):
        return {"name": "rate", "type": "throughput", "metric_config": {"batch_size": n_rows}, **more}

    assert [one.number for one in planned(tmp_path, graph, [rate(4, sub_types=[{"name": "rows"}])]).asked] == [
        "rows_per_second"
    ]
    plan = planned(tmp_path, graph, [rate(1), rate(4, goal=goal("threshold", 9)), {"name": "room", "type": "memory"}])
    assert plan.problems == ()
    assert [(one.name, one.number) for one in plan.asked] == [
        ("rate, 1 at once", "throughput_avg"),
        ("rate, 4 at once", "throughput_avg_batch_4"),
        ("room, 1 at once", "peak_memory_bytes"),
    ]
    on_gpu = {"name": "room", "type": "memory", "sub_types": [{"name": "gpu_peak"}]}
    assert problems(tmp_path, graph, [on_gpu]) == [
        "room: gpu_peak is asked for, but models are measured on the CPU. Name a target with a GPU, or ask for peak_rss."
    ]


def test_times_and_memory_stand_beside_those_of_the_input_model(graph, tmp_path, capsys):
    few = {"warmup_num": 1, "repeat_test_num": 3, "max_requests": 3}
    speed = {"name": "speed", "type": "latency", "user_config": {"batch_size": 2, "io_bind": False}}
    speed |= {"metric_config": few, "sub_types": [{"name": "avg", "goal": goal("threshold", 1e9)}, {"name": "p90"}]}
    rate = {"name": "rate", "type": "throughput", "sub_types": [{"name": "rows", "goal": goal("threshold", 1e9)}]}
    room = {"name": "room", "type": "memory", "goal": goal("max-degradation", 1e12)}
    path = config_of(tmp_path, graph, [speed, rate, room])
    assert exit_code(["run", "--config", str(path)]) == 1
    assert "rate: rows of 'small' is" in capsys.readouterr().err
    events = read_journal(tmp_path / "out")
    (timing,) = [event for event in events if event.kind == "timing"]
    assert (timing.model, timing.n_requests, timing.together) == ("small", 3, True)
    assert timing.numbers.keys() == {"base", "small"}
    rows = {row["name"]: row for row in events[-1].measured}
    assert [rows[name]["is_met"] for name in ("speed: avg", "rate: rows", "room")] == [True, False, True]
    assert rows["speed: p90"]["baseline"] == timing.numbers["base"]["latency_p90"] > 0
    assert rows["room"]["value"] > 10e6
    again = make_plan(load(path))
    assert again.cached == {"small", "score:base", "score:small", "time:small"}
    with pytest.raises(GoalMissed) as caught:
        run(again)
    assert caught.value.result.measured == list(events[-1].measured)
    told = problems(tmp_path, graph, [speed | {"sub_types": [{"name": "p91"}]}, rate | {"type": "thruput"}])
    assert "'p91' is no sub type of latency; did you mean 'p" in told[0]
    assert "did you mean 'throughput'?" in told[1]
    (told,) = problems(tmp_path, graph, [speed, rate | {"metric_config": {"warmup_num": 7}}])
    assert "the params of rate: rows are others than those of speed: avg" in told


SCRIPT = """
import time
print("said by the script")
from helper import longest

def share(outputs, targets, scale=1):
    hits = [int(row["logits"].argmax()) == target for row, target in zip(outputs, targets, strict=True)]
    return {"hits": scale * sum(hits), "longest": longest(targets)}

def size(model, device, execution_providers):
    assert (device, execution_providers) == ("cpu", ["CPUExecutionProvider"])
    session = model.prepare_session()
    assert session is not None
    return len(open(model.model_path + "/classifier.onnx", "rb").read())

def bad(outputs, targets, how):
    return {"hang": lambda: time.sleep(600), "exit": exit, "raise": lambda: {}["gone"], "nothing": lambda: None, "other": lambda: {"a": 1},
            "text": lambda: "3", "nan": lambda: float("nan"), "pair": lambda: (1, 2)}[how]()
"""


@pytest.fixture
def script(tmp_path):
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "helper.py").write_text("def longest(values):\n    return len(values)\n")
    (tmp_path / "mine.py").write_text(SCRIPT)
    return {"user_script": "mine.py", "script_dir": "lib"}


def custom(settings, *sub_types, **more):
    subs = [one if isinstance(one, dict) else {"name": one} for one in sub_types]
    return {"name": "own", "type": "custom", "data_config": "mine", "user_config": settings, "sub_types": subs} | more


@pytest.mark.parametrize(
    ("kind", "met", "missed", "told"),
    [("max-degradation", 2, 1, "allows 1"), ("percent-max-degradation", 7, 6, "asks for at least 30.08")],
)
def test_goal_on_what_may_be_lost_is_met_and_missed(graph, tmp_path, script, kind, met, missed, told):
    """The input model hits 32 times, the quantized one 30 times."""
    settings = script | {"metric_func": "share", "metric_func_kwargs": {"scale": 2}}
    hits = {"name": "hits", "higher_is_better": True}
    (row,) = run(planned(tmp_path, graph, [custom(settings, hits | {"goal": goal(kind, met)})])).measured
    assert (row["baseline"], row["value"], row["is_met"]) == (32, 30, True)
    with pytest.raises(GoalMissed, match=f"'small'.* but evaluator 'common' {told}") as caught:
        run(planned(tmp_path, graph, [custom(settings, hits | {"goal": goal(kind, missed)})]))
    (row,) = caught.value.result.measured
    assert row["is_met"] is False
    assert row["margin"] == pytest.approx(row["value"] - row["bound"])
    assert (caught.value.result.model / "classifier.onnx").is_file()


def test_numbers_of_a_script_are_measured_and_held_to_goals(graph, tmp_path, script, capsys, monkeypatch):
    hits = {"name": "hits", "higher_is_better": True, "goal": goal("threshold", 29)}
    settings = script | {"metric_func": "share", "metric_func_kwargs": {"scale": 2}}
    weighs = custom(script | {"evaluate_func": "size"}, name="weighs", data_config=None)
    plan = planned(tmp_path, graph, [custom(settings, hits, "longest"), weighs])
    result = run(plan)
    assert "said by the script" not in "".join(capsys.readouterr())
    rows = {row["number"]: row for row in result.measured}
    assert (rows["own.hits"]["baseline"], rows["own.hits"]["value"], rows["own.hits"]["is_met"]) == (32, 30, True)
    assert rows["own.longest"]["value"] == 20
    assert rows["weighs.weighs"]["baseline"] == graph.stat().st_size
    assert "lies outside of the folder" in make_plan(load(tmp_path / "out" / "workflow.json")).problems[0].message
    monkeypatch.setenv("OLIVINE_SCRIPTS", "all")  # as --trust does
    again = make_plan(load(tmp_path / "out" / "workflow.json"))
    assert again.cached == {"small", "score:base", "score:small"}
    (tmp_path / "lib" / "helper.py").write_text("def longest(values):\n    return 7\n")
    assert make_plan(load(tmp_path / "config.json")).cached == {"small"}


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ("exit", "failed: SystemExit: None"),
        ("raise", "failed: KeyError: 'gone'"),
        ("nothing", "gave NoneType None as x, which is no finite number"),
        ("other", "gave a, but no x"),
        ("text", "gave str '3' as x, which is no finite number"),
        ("nan", "gave float nan as x, which is no finite number"),
        ("pair", "gave tuple (1, 2) as x, which is no finite number"),
    ],
)
def test_script_that_fails_at_work_is_one_sentence(graph, tmp_path, script, how, says):
    evidence = OutputEvidence([{"logits": np.ones((1, 3))}], None, ["logits"], [1])
    places = {"user_script": str(tmp_path / "mine.py"), "script_dir": str(tmp_path / "lib")}
    one = {"name": "own", "function": "bad", "on_outputs": True, "kwargs": {"how": how}, "numbers": ["x"], **places}
    one["max_seconds"] = 60
    machine = Machine("cpu", "CPUExecutionProvider", 8 * 10**9, 10**12, 2)
    with pytest.raises(OlivineError, match=re.escape(f"bad of {tmp_path / 'mine.py'} {says}")):
        custom_numbers([one], onnx_model(graph), evidence, machine)


def test_script_that_hangs_is_ended_with_its_process(graph, tmp_path, script, capsys):
    settings = script | {"metric_func": "bad", "metric_func_kwargs": {"how": "hang"}, "max_seconds": 3}
    path = config_of(tmp_path, graph, [custom(settings, "x")])
    before = {child.pid for child in psutil.Process().children(recursive=True)}
    assert exit_code(["run", "--config", str(path)]) == 1
    told = " ".join(capsys.readouterr().err.split())
    assert "took longer than 3 seconds (max_seconds in its user_config), and is still at work" in told
    give_up = time.monotonic() + 60
    while left := {child.pid for child in psutil.Process().children(recursive=True)} - before:
        assert time.monotonic() < give_up, left
        time.sleep(0.01)
    (problem,) = problems(tmp_path, graph, [custom(settings | {"max_seconds": -1}, "x")])
    assert "max_seconds of 'own' must be a number above 0, but is -1." in problem


def test_script_that_raises_ends_the_run_with_1(graph, tmp_path, script, capsys):
    settings = script | {"metric_func": "bad", "metric_func_kwargs": {"how": "raise"}}
    path = config_of(tmp_path, graph, [custom(settings, "x")])
    assert exit_code(["run", "--config", str(path)]) == 1
    told = " ".join(capsys.readouterr().err.split())
    assert "bad of" in told
    assert "failed: KeyError: 'gone'" in told
    assert "Traceback" not in told


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"metric_func": "shar"}, "has no function 'shar'. Did you mean 'share'?"),
        ({"metric_func": "share", "user_script": "gone.py"}, "gone.py' does not exist."),
        ({"metric_func": "share", "script_dir": "gone"}, "gone' does not exist."),
        ({"metric_func": "None"}, "and either evaluate_func or metric_func."),
        ({}, "and either evaluate_func or metric_func."),
        ({"metric_fun": "share"}, "unknown key 'metric_fun' in the user_config of 'own'; did you mean 'metric_func'?"),
        ({"metric_func": "share", "metric_func_kwargs": [1]}, "the arguments of 'share' are no mapping."),
    ],
)
def test_wrong_script_is_one_sentence_while_planning(graph, tmp_path, script, settings, says):
    (told,) = problems(tmp_path, graph, [custom(script | settings, "hits")])
    assert says in told


def test_script_is_parsed_and_never_run_while_planning(graph, tmp_path, script):
    (tmp_path / "mine.py").write_text("raise SystemExit(9)\ndef share(outputs, targets): ...\n")
    assert not problems(tmp_path, graph, [custom(script | {"metric_func": "share"}, "hits")])
    (tmp_path / "mine.py").write_text("def share(:\n")
    (told,) = problems(tmp_path, graph, [custom(script | {"metric_func": "share"}, "hits")])
    assert "mine.py:1 is no Python" in told
    loaded = load(config_of(tmp_path, graph, [accuracy(user_config={"post_processing_func": "f"})]))
    (note,) = [note for note in loaded.notes if note.warning]
    assert note.message.startswith("'post_processing_func' of a metric is dropped")


def test_search_chooses_by_priority_among_those_that_meet_the_goals(graph, tmp_path):
    passes = {"small": {"type": "OnnxBlockWiseRtnQuantization", "block_size": [16, 32]}}
    more = {"passes": passes, "search_strategy": {"sampler": "sequential"}}
    far = {"name": "far", "type": "output_agreement", "priority": 1}
    size = {"name": "size", "type": "size_on_disk", "priority": 2}
    closest = run(planned(tmp_path, graph, [far, size], **more))
    trials = [event for event in read_journal(tmp_path / "out") if event.kind == "trial_done"]
    by_size = sorted(trials, key=lambda trial: trial.values["size_bytes"])
    assert closest.search["point"] == max(trials, key=lambda trial: trial.values["cosine"]).point
    smallest = run(planned(tmp_path, graph, [far | {"priority": 2}, size | {"priority": 1}], **more))
    assert smallest.search["point"] == by_size[0].point
    bound = size | {"goal": goal("threshold", by_size[1].values["size_bytes"] - 1)}
    assert run(planned(tmp_path, graph, [far, bound], **more)).search["point"] == by_size[0].point
    bound = size | {"goal": goal("threshold", by_size[0].values["size_bytes"] - 1)}
    with pytest.raises(GoalMissed, match="size of 'small' is") as caught:
        run(planned(tmp_path, graph, [far, bound], **more))
    assert caught.value.result.search["point"] == by_size[0].point
    assert [one["trial"] for one in caught.value.result.search["near_misses"]] == [trial.trial for trial in by_size]


def test_plan_says_what_is_measured_and_old_settings_of_rows_are_dropped(graph, tmp_path):
    speed = {"name": "speed", "type": "latency", "data_config": "mine", "sub_types": [{"name": "avg"}, {"name": "p99"}]}
    speed["user_config"] = {"user_script": "gone.py", "dataloader_func": "make", "batch_size": 1, "data_dir": "rows"}
    speed["sub_types"][0] |= {"goal": goal("percent-min-improvement", 20), "metric_config": {"warmup_num": 10}}
    plan = planned(tmp_path, graph, [accuracy({"name": "f1"}), speed])
    assert not plan.problems
    told = lines(plan)
    assert "measure acc: f1" in told
    assert "measure speed: avg: at least 20 % less than the input model's" in told


def test_goal_on_a_distance_to_the_model_before_holds_for_the_step(graph, tmp_path):
    far = {"name": "far", "type": "output_agreement", "goal": goal("threshold", 0.9999999)}
    with pytest.raises(GoalMissed, match=r"far of 'small' is 0\.9\d+,"):
        run(planned(tmp_path, graph, [far]))
    path = config_of(tmp_path, graph, [far])
    assert exit_code(["evaluate", str(graph), "--config", str(path)]) == 0  # one model is far from none
    relative = far | {"goal": goal("max-degradation", 0.1)}
    assert "compares with the model before" in problems(tmp_path, graph, [relative])[0]


@pytest.mark.parametrize(
    ("metric", "says"),
    [
        ({"name": "m", "type": "acuracy"}, "there is no metric of type 'acuracy'; did you mean 'accuracy'?"),
        (accuracy({"name": "f1_scor"}), "'f1_scor' is no sub type of accuracy; did you mean 'f1_score'?"),
        ({"name": "m", "type": "perplexity"}, "there is no perplexity of a graph that writes no text."),
        (accuracy({"name": "exact_match"}), "it writes no text."),
        (accuracy({"name": "f1"}, data_config="min"), "no data config is named 'min'. Did you mean 'mine'?"),
        (accuracy({"name": "f1", "goal": goal("threshold", 90)}), "is a share of 1, and the goal is 90. Write 0.9"),
        (accuracy({"name": "f1", "goal": goal("max-degradation", -1)}), "takes a number from 0 on"),
        (accuracy({"name": "f1", "higher_is_better": False}), "higher_is_better is false, but of acc: f1 higher"),
        (accuracy({"name": "top_k", "metric_config": {"k": 0}}), "k: input should be greater than 0"),
        (accuracy({"name": "f1", "metric_config": {"averag": "macro"}}), "averag: extra inputs are not permitted"),
        (accuracy({"name": "f1", "priority": 1}, {"name": "auroc", "priority": 1}), "both have the priority 1"),
        (
            accuracy(
                {"name": "f1", "goal": goal("threshold", 0.9)}, {"name": "f1_score", "goal": goal("threshold", 1)}
            ),
            "two goals of acc: f1_score differ: 0.9 and 1. Keep one of them.",
        ),
        (
            accuracy({"name": "f1"}, {"name": "recall", "metric_config": {"average": "micro"}}),
            "the params of acc: recall are others than those of acc: f1, and one metric gives both.",
        ),
        (
            {"name": "s", "type": "size_on_disk", "goal": goal("percent-min-improvement", 100)},
            "no s is 100 % lower than that of the input model. Less than 100 % are possible.",
        ),
        ({"name": "s", "type": "size_on_disk", "goal": goal("threshold", 0)}, "no s is 0: 0 is the best"),
        (
            {"name": "a", "type": "output_agreement", "sub_types": [{"name": "cosine", "goal": goal("threshold", 2)}]},
            "no a: cosine is 2: 1 is the best that there could be.",
        ),
        (
            {"name": "r", "type": "throughput", "sub_types": [{"name": "prefill"}]},
            "there is no prefill of a graph that writes no text.",
        ),
        (
            {"name": "l", "type": "latency", "sub_types": [{"name": "time_to_first_token"}]},
            "there is no time_to_first_token of a graph that writes no text.",
        ),
        (accuracy({"name": "wer"}), "there is no wer of an ONNX graph (tiny): it hears no speech."),
    ],
)
def test_wrong_wish_is_one_sentence_while_planning(graph, tmp_path, metric, says):
    (told,) = problems(tmp_path, graph, [metric])
    assert says in told
    assert not (tmp_path / "out").exists()


def test_priority_0_comes_first_and_that_of_minus_1_does_not_decide(graph, tmp_path):
    size = {"name": "s", "type": "size_on_disk", "priority": 0}
    asked = planned(tmp_path, graph, [size, accuracy({"name": "f1", "priority": -1})]).asked
    assert [one.priority for one in asked] == [0, None]


def test_accuracy_needs_labels_and_one_set_of_rows(graph, tmp_path):
    (told,) = problems(tmp_path, graph, [accuracy(data_config=None)])
    assert told.startswith("acc is asked for, but there are no rows to compute it from.")
    (tmp_path / "rows.jsonl").write_text('{"input_ids": [1, 2]}\n')
    (told,) = problems(tmp_path, graph, [accuracy()])
    assert told.startswith("acc is asked for, but there are no labels to compute it from.")
    (told,) = problems(tmp_path, graph, [accuracy()], quality={"enabled": False})
    assert told.startswith("the evaluator asks for numbers, but enabled: false scores nothing.")
    more = [{"name": name, "load_dataset_config": {"data_files": "rows.jsonl"}} for name in ("mine", "other")]
    told = problems(tmp_path, graph, [accuracy()], quality={"data_config": "other"}, data_configs=more)
    assert any("acc asks for the rows of 'mine', but every model is scored on those of 'other'." in one for one in told)


def test_evaluator_that_nothing_names_measures_nothing(graph, tmp_path):
    plan = planned(tmp_path, graph, [{"name": "m", "type": "nonsense"}], evaluator=None)
    assert not plan.problems
    assert plan.asked == ()
    assert any("the evaluator 'common' is used by nothing" in note for note in plan.translated)


def test_resolved_config_asks_for_the_same(graph, tmp_path):
    plan = planned(tmp_path, graph, [accuracy({"name": "f1", "goal": goal("threshold", 0.1)})])
    run(plan)
    again = make_plan(load(tmp_path / "out" / "workflow.json"))
    assert not again.problems
    assert again.asked == plan.asked
    assert again.cached == {"small", "score:base", "score:small"}


def test_text_is_held_to_perplexity_and_divergence(tiny_llama, tmp_path):
    """The baseline counts for perplexity, the model before for divergence; exact match is text alone."""
    write_rows(tmp_path / "rows.jsonl", 8)
    text = {"text_template": "{phrase} is {tone}", "strategy": "line-by-line", "max_seq_len": 128}
    load_rows = {"data_name": "json", "data_files": "rows.jsonl"}
    metrics = [
        {"name": "perplexity", "type": "perplexity", "goal": goal("percent-max-degradation", 50)},
        {"name": "kl", "type": "kl_divergence", "goal": goal("threshold", 1e-9)},
        accuracy({"name": "exact_match"}, {"name": "f1_score"}, {"name": "auroc"}),
    ]
    more = {
        "input_model": {"model_path": str(tiny_llama)},
        "data_configs": [{"name": "mine", "load_dataset_config": load_rows, "pre_process_data_config": text}],
        "passes": {"small": {"type": "rtn", "bits": 4, "group_size": 32}},
    }
    (told,) = problems(tmp_path, None, metrics, **more)
    assert told == "there is no auroc of a model that writes text."
    metrics[2]["sub_types"].pop()
    (told,) = problems(tmp_path, None, [metrics[2] | {"data_config": None}], **more)
    assert told.startswith("acc: exact_match is asked for, but there are no rows to compute it from.")
    with pytest.raises(GoalMissed, match=r"^kl of 'small' is [0-9.e-]+, but evaluator 'common' asks for at most 1e-09"):
        run(planned(tmp_path, None, metrics, **more))
    end = json.loads((tmp_path / "out" / "journal.jsonl").read_text().splitlines()[-1])
    assert [row["is_met"] for row in end["measured"]] == [True, False, None, None]
    assert end["measured"][1]["baseline"] is None
    assert end["measured"][0]["bound"] == pytest.approx(1.5 * end["measured"][0]["baseline"])
