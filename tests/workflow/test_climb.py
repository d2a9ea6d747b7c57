"""The ladder of optimize: which rungs there are for a model, and that the config which climbs them is a plain search."""

import json

import pytest

from encoders import tiny_encoder
from graphs import text_classifier
from olivine.config import load
from olivine.errors import GoalMissed, RequestError
from olivine.search import Goal, Objective, Space
from olivine.search.samplers import samplers
from olivine.search.space import Categorical, Trial
from olivine.workflow.climb import Aim, ladder
from olivine.workflow.engine import run
from olivine.workflow.events import TrialDone
from olivine.workflow.journal import read_journal
from olivine.workflow.plan import make_plan
from tiny import tiny_model, write_rows


@pytest.fixture
def planned(tmp_path, monkeypatch):
    """The plan of a config, and the one with the ladder for it."""
    monkeypatch.chdir(tmp_path)

    def plan(content, aim=None):
        def read(sections):
            (tmp_path / "config.json").write_text(
                json.dumps({"passes": {}, "output_dir": "out", **content, **sections})
            )
            return make_plan(load(tmp_path / "config.json"))

        bare = read({})
        return bare if aim is None else read(ladder(bare, aim).sections)

    return plan


def with_rows(folder, model):
    config = {
        "name": "rows",
        "load_dataset_config": {"data_name": "json", "data_files": str(write_rows(folder / "rows.jsonl"))},
        "pre_process_data_config": {"text_template": "{phrase} {tone}", "max_seq_len": 64},
    }
    return {
        "input_model": {"model_path": str(model)},
        "data_configs": [config],
        "quality": {"data_config": "rows", "max_samples": 8},
    }


def test_every_rung_for_a_decoder_can_run_and_the_cheapest_come_first(planned, tiny_llama, tmp_path):
    plan = planned(with_rows(tmp_path, tiny_llama), Aim(max_drop=0.01))
    assert plan.problems == ()
    assert plan.search.refused == {}
    first, down = plan.search.rungs[:6], plan.search.rungs[6:-2]
    assert first == ("rtn-32", "search-32", "mixed-32", "gptq-32", "gptq-mixed-32", "best-32")
    assert down == ("search-64", "mixed-64", "gptq-64", "best-64")  # 128 do not divide the layers of this model
    assert plan.search.rungs[-2:] == ("6-bits", "int8")
    assert plan.search.n_trials == len(plan.search.rungs)
    (goal,) = [one for one in plan.asked if one.goal is not None]
    assert (goal.number, goal.goal) == ("label_accuracy", Goal("max-degradation", 0.01))


def test_goals_become_those_of_an_evaluator(planned, tiny_llama, tmp_path):
    aim = Aim(0.02, 20, 2.0, 50, 90e6, 2e9, precision="int4", budget_seconds=60)
    plan = planned(with_rows(tmp_path, tiny_llama), aim)
    assert plan.problems == ()
    assert {(one.number, one.goal.kind, one.goal.value) for one in plan.asked if one.goal is not None} == {
        ("label_accuracy", "max-degradation", 0.02),
        ("size_bytes", "threshold", 90e6),
        ("decode_tokens_per_second", "threshold", 20),
        ("decode_tokens_per_second", "percent-min-improvement", 100),
        ("latency_p50", "threshold", 50),
        ("peak_memory_bytes", "threshold", 2e9),
    }
    assert "int8" not in plan.search.rungs
    assert (plan.search.strategy.max_time, plan.search.strategy.end_at_max_time) == (60, True)


def test_without_rows_a_decoder_is_held_to_its_perplexity(planned, tiny_llama):
    plan = planned({"input_model": {"model_path": str(tiny_llama)}}, Aim(max_drop=0.03))
    assert plan.problems == ()
    (goal,) = [one for one in plan.asked if one.goal is not None]
    assert (goal.number, goal.goal) == ("perplexity", Goal("percent-max-degradation", 3))


def test_groups_are_those_that_divide_the_layers(planned, tmp_path):
    model = tiny_model(tmp_path / "narrow", "llama", head_dim=16, hidden_size=48, intermediate_size=80)
    plan = planned({"input_model": {"model_path": str(model)}}, Aim(0.01, precision="int4"))
    assert plan.problems == ()
    assert {name.rpartition("-")[2] for name in plan.search.rungs} == {"16", "bits"}


def test_one_precision_alone_is_a_plain_run(planned, tiny_llama, tmp_path):
    plan = planned(with_rows(tmp_path, tiny_llama), Aim(0.01, precision="fp32"))
    assert plan.problems == ()
    assert plan.search is None
    assert [step.pass_name for step in plan.steps] == ["build"]


def test_adapter_is_merged_first(planned, tiny_llama, llama_adapter):
    model = {"input_model": {"model_path": str(tiny_llama), "adapter_path": str(llama_adapter)}}
    plan = planned(model, Aim(0.01, precision="int8"))
    assert plan.problems == ()
    assert [step.pass_name for step in plan.steps] == ["merge", "build"]


def graph_with_labels(folder):
    graph = text_classifier(folder / "classifier.onnx")
    rows = [{"input_ids": [number, 2, 3, 4, 5], "label": number % 3} for number in range(20)]
    (folder / "labelled.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = {"name": "rows", "load_dataset_config": {"data_name": "json", "data_files": "labelled.jsonl"}}
    return {
        "input_model": {"model_path": str(graph)},
        "data_configs": [data],
        "quality": {"data_config": "rows"},
    }


def rungs_of(tmp_path):
    return [event for event in read_journal(tmp_path / "out", last_run=True) if isinstance(event, TrialDone)]


def test_first_rung_that_meets_the_goals_ends_the_climb_and_its_config_repeats_it(planned, tmp_path):
    result = run(planned(graph_with_labels(tmp_path), Aim(max_drop=1.0)))
    (rung,) = rungs_of(tmp_path)
    assert (rung.name, rung.missed) == ("rtn-32", ())
    assert result.search["trials"] == [rung.record]
    again = make_plan(load(tmp_path / "out" / "workflow.json"))
    assert again.problems == ()
    assert again.search is None
    assert "quantize" in again.cached


def test_no_rung_that_meets_the_goals_leaves_the_nearest_and_rungs_in_vain_are_not_climbed(planned, tmp_path):
    with pytest.raises(GoalMissed, match="size") as missed:
        run(planned(graph_with_labels(tmp_path), Aim(max_drop=1.0, max_size_bytes=5000)))
    rungs = rungs_of(tmp_path)
    assert [rung.name for rung in rungs] == ["rtn-32"]  # nothing later is half as large
    assert "missed by" in rungs[0].missed[0]
    assert (missed.value.result.model / "classifier.onnx").is_file()


RUNGS = {
    "rtn": {"point": {"way": "rtn"}, "bits": 4.5, "effort": 0},
    "search": {"point": {"way": "search"}, "bits": 4.5, "effort": 1, "size": 90},
    "gptq": {"point": {"way": "gptq"}, "bits": 4.5, "effort": 2, "size": 90},
    "search-64": {"point": {"way": "search-64"}, "bits": 4.3, "effort": 1, "size": 86},
    "gptq-64": {"point": {"way": "gptq-64"}, "bits": 4.3, "effort": 2, "size": 86},
    "int8": {"point": {"way": "int8"}, "bits": 8.5, "effort": 3, "size": 160},
}


def climbed(accuracy, size, most_bytes=1e9):
    """The rungs that are asked for when models have these numbers, by the names of rungs."""
    objectives = (
        Objective("accuracy", higher_is_better=True, goal=Goal("threshold", 0.9)),
        Objective("size_bytes", higher_is_better=False, goal=Goal("threshold", most_bytes)),
    )
    sampler = samplers.classes["ladder"]
    params = sampler.Params.model_validate({"rungs": RUNGS})
    asker, names = sampler(Space({"way": Categorical(tuple(RUNGS))}), objectives, params), []
    while (point := asker.ask()) is not None:
        names.append(point["way"])
        bytes_ = size[point["way"]]
        cut = bytes_ > most_bytes  # what is too large is not scored
        asker.tell(Trial(point, {"size_bytes": bytes_} | ({} if cut else {"accuracy": accuracy[point["way"]]})))
    return names


SIZES = {"rtn": 120, "search": 90, "gptq": 90, "search-64": 86, "gptq-64": 86, "int8": 160}


def test_rung_that_lost_too_much_rules_out_those_with_no_more_bits_and_effort():
    assert climbed(dict.fromkeys(RUNGS, 0.5), SIZES) == ["rtn", "search", "gptq", "int8"]


def test_rung_that_is_too_large_rules_out_what_is_as_large_and_lets_larger_groups_be_tried():
    good = dict.fromkeys(RUNGS, 0.95)
    assert climbed(good, SIZES, most_bytes=87) == ["rtn", "search", "search-64", "gptq-64"]
    assert climbed(good, SIZES, most_bytes=89) == ["rtn", "search", "gptq", "search-64", "gptq-64"]  # 1 % may be chance
    assert climbed(good, SIZES, most_bytes=50) == ["rtn", "search"]


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"rungs": {"a": {"point": {"wey": 1}}}}, "the rung 'a' is no point of the search"),
        ({"rungs": {"a": {"pointt": {}}}}, "did you mean 'point'?"),
        ({"rungs": {"a": {"point": {"quantize.bits": 4}, "size": 0}}}, "must be greater than 0"),
    ],
)
def test_rungs_that_do_not_hold_are_problems(planned, tiny_llama, config, said):
    strategy = {"sampler": "ladder", "sampler_config": config}
    passes = {"quantize": {"type": "rtn", "bits": [4, 8]}}
    content = {"input_model": {"model_path": str(tiny_llama)}, "passes": passes, "search_strategy": strategy}
    plan = planned(content)
    assert said in str(plan.problems[0])


def test_label_is_what_a_search_calls_an_alternative(planned, tiny_llama):
    ways = [{"type": "rtn", "label": "plain"}, {"type": "rtn", "bits": 8, "label": "eight"}, {"type": "kquant"}]
    content = {
        "input_model": {"model_path": str(tiny_llama)},
        "passes": {"quantize": ways},
        "search_strategy": {"sampler": "sequential"},
    }
    plan = planned(content)
    assert plan.problems == ()
    assert list(plan.search.choices.space.dimensions["quantize"].choices) == ["plain", "eight", "kquant"]


def test_encoder_is_exported_on_the_way_and_its_weights_rounded(planned, tmp_path):
    model = tiny_encoder(tmp_path / "bert")
    plan = planned({"input_model": {"model_path": str(model)}}, Aim(max_drop=0.01))
    assert plan.problems == ()
    assert [step.pass_name for step in plan.steps] == ["convert", "quantize_onnx"]
    assert (plan.search.rungs[0], plan.search.rungs[-1]) == ("rtn-32", "fp32")
    assert plan.search.n_own == plan.search.n_valid  # the export is shared, and a rung of its own


def test_precision_that_nothing_gives_is_refused_in_a_sentence(planned, tmp_path):
    graph = text_classifier(tmp_path / "classifier.onnx")
    with pytest.raises(RequestError, match="nothing here makes a model in bf16 of an ONNX graph"):
        planned({"input_model": {"model_path": str(graph)}}, Aim(0.01, precision="bf16"))
