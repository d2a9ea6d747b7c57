"""A plan finds everything that keeps a workflow from running, at once, and touches nothing."""

import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from olivine import lazy
from olivine.config import load
from olivine.errors import PROBLEM_KINDS, ConfigError
from olivine.systems import SystemParams
from olivine.systems.local import Local
from olivine.workflow.plan import make_plan
from olivine.workflow.room import total
from olivine.workflow.words import lines, to_json
from tiny import write_rows

TEMPLATE = "### Text: {phrase}\n### The tone is:\n{tone}"
HERE = Local(SystemParams()).probe()
PUBLISHED = Path(__file__).parent.parent / "config" / "published"


def content(folder, model):
    rows = folder / "rows.jsonl"
    if not rows.exists():
        write_rows(rows)
    return {
        "input_model": {"type": "HfModel", "model_path": str(model)},
        "data_configs": [
            {
                "name": "rows",
                "type": "HuggingfaceContainer",
                "load_dataset_config": {"data_name": "json", "data_files": str(rows), "split": "train"},
                "pre_process_data_config": {"text_template": TEMPLATE, "strategy": "line-by-line", "max_seq_len": 64},
            }
        ],
        "passes": {
            "lora": {"type": "LoRA", "train_data_config": "rows"},
            "merge": {"type": "MergeAdapterWeights"},
            "builder": {"type": "ModelBuilder", "precision": "int4"},
        },
        "cache_dir": str(folder / "cache"),
        "output_dir": str(folder / "out"),
    }


@pytest.fixture
def planned(tiny_llama, tmp_path):
    """Plan the usual config after `change(config)`; the config stands one key a line."""

    def plan(change=lambda config: None, model=tiny_llama, **options):
        config = content(tmp_path, model)
        change(config)
        path = tmp_path / "config.json"
        path.write_text(json.dumps(config, indent=1))
        return make_plan(load(path), **options)

    return plan


def only(plan, kind):
    """The one problem of the plan, which is of that kind."""
    assert [problem.kind for problem in plan.problems] == [kind], plan.problems
    return plan.problems[0]


def line_of(tmp_path, text):
    return next(n for n, line in enumerate((tmp_path / "config.json").read_text().splitlines(), 1) if text in line)


def test_good_config_has_no_problem_and_says_what_it_needs(planned):
    plan = planned()
    assert plan.problems == ()
    assert [step.name for step in plan.steps] == ["lora", "merge", "builder"]
    assert plan.n_parameters > 50_000
    assert all(step.estimate.memory_bytes > 0 for step in plan.steps)
    text = "\n".join(lines(plan))
    assert "step builder (build): to run" in text
    assert set(to_json(plan)) == {"steps", "problems", "translated", "estimate"}
    json.dumps(to_json(plan))


def test_three_mistakes_give_three_messages_with_their_lines(planned, tmp_path):
    def change(config):
        config["passes"]["lora"] |= {"lora_dropuot": 0.1, "r": "many"}
        config["verbosity"] = "loud"

    plan = planned(change)
    assert len(plan.problems) == 3
    for key in ("lora_dropuot", '"r"', "verbosity"):
        where = f"config.json:{line_of(tmp_path, key)}"
        assert sum(problem.where.endswith(where) for problem in plan.problems) == 1, plan.problems
    assert "lora_dropout" in str(plan.problems)


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        (lambda c: c["passes"]["lora"].update(alhpa=3), "unknown-key"),
        (lambda c: c["passes"]["lora"].update(r="many"), "invalid-value"),
        (lambda c: c["passes"]["lora"].update(train_data_config="row"), "missing-data"),
        (lambda c: c["quality"].update(data_config="row"), "missing-data"),
    ],
)
def test_budget_is_no_second_problem_where_the_rows_to_score_are_the_first(planned, change, kind):
    def with_budget(config):
        config["quality"] = {"max_drop": 0.03}
        change(config)

    assert "max_drop" not in only(planned(with_budget), kind).message


def test_budget_without_rows_to_score_is_a_problem(planned):
    def change(config):
        config["passes"] = {"builder": {"type": "ModelBuilder"}}
        config["quality"] = {"max_drop": 0.03}

    assert "there are no rows to score" in only(planned(change), "missing-data").message


@pytest.mark.parametrize(("size", "there"), [(24, 24), (30, 24), (0.01, 24)])
def test_rows_that_cannot_be_held_out_are_a_problem_of_the_plan(planned, tmp_path, size, there):
    problem = only(planned(lambda c: c["passes"]["lora"].update(eval_dataset_size=size)), "invalid-value")
    assert f"of {there} rows" in problem.message
    assert problem.where.endswith(f"config.json:{line_of(tmp_path, 'eval_dataset_size')}")
    assert planned(lambda c: c["passes"]["lora"].update(eval_dataset_size=23)).problems == ()
    assert planned(lambda c: c["passes"]["lora"].update(eval_dataset_size=0.03)).problems == ()


def test_chats_are_to_predict_the_last_turn_of_the_assistant(planned, tmp_path):
    row = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}
    (tmp_path / "rows.jsonl").write_text(json.dumps(row) + "\n")
    settings = {"chat_template": "{{ messages }}"}
    plan = planned(lambda c: c["data_configs"][0].update(pre_process_data_config=settings))
    assert plan.problems == ()
    assert any(told.endswith("it should predict the last turn of the assistant") for told in plan.translated)


def test_target_of_a_chat_is_its_last_turn_and_nothing_else(planned, tmp_path):
    (tmp_path / "rows.jsonl").write_text('{"question": "a", "answer": "b"}\n' * 8)

    def change(config, target):
        config["data_configs"][0]["pre_process_data_config"] = {"prompt_col": "question", "answer_col": "answer"}
        config["quality"] = {"target": target}

    assert planned(lambda config: change(config, "answer")).problems == ()
    said = only(planned(lambda config: change(config, "question")), "invalid-value").message
    assert said == "of a chat, the last turn of the assistant is scored ('answer'), not 'question'."


def test_folder_of_the_model_is_not_that_of_the_result(planned, tiny_llama):
    message = only(planned(lambda config: config.update(output_dir=str(tiny_llama))), "invalid-value").message
    assert "is the output_dir too" in message


def test_every_problem_is_reported_at_once(planned, tmp_path):
    def change(config):
        config["input_model"]["model_path"] = str(tmp_path / "nothing")
        config["data_configs"][0]["load_dataset_config"]["data_files"] = str(tmp_path / "rowz.jsonl")
        config["passes"]["extra"] = {"type": "LoRRA"}
        config["host"] = "nowhere"

    kinds = [problem.kind for problem in planned(change).problems]
    assert sorted(kinds) == ["invalid-value", "missing-file", "missing-model", "unknown-pass"]
    assert set(kinds) <= set(PROBLEM_KINDS)


def test_unknown_pass_names_the_nearest(planned):
    problem = only(planned(lambda c: c["passes"].update(merge={"type": "MergeAdapterWeight"})), "unknown-pass")
    assert "Did you mean 'MergeAdapterWeights'?" in problem.fix


@pytest.mark.parametrize(
    "name", ["TorchTRTConversion", "HqqQuantizer", "OpenVINOModelPackage", "SparseGPT", "slicegpt"]
)
def test_pass_of_olive_that_is_not_built_is_unsupported_by_name(planned, name):
    plan = planned(lambda c: c["passes"].update(merge={"type": name}))
    problem = next(problem for problem in plan.problems if problem.kind == "unsupported")
    assert name in problem.message
    assert ("OnnxStaticQuantization make a graph" in problem.fix) == (name == "OpenVINOConversion")


def test_unknown_training_argument_is_named_with_its_line(planned, tmp_path):
    plan = planned(lambda c: c["passes"]["lora"].update(training_args={"learning_rat": 1e-4}))
    problem = only(plan, "unknown-key")
    assert problem.where.endswith(f"config.json:{line_of(tmp_path, 'learning_rat')}")
    assert "Did you mean 'learning_rate'?" in problem.fix


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"lora": {"r": 8, "alpha": 16, "training_args": {"seed": 1, "learning_rate": 0}}}, "learning_rate"),
        ({"lora": {"r": 8, "bias": "none", "training_args": {"report_to": "wandb"}}}, "report_to"),
        ({"lora": {"target_modules": ["q_proj"], "exclude_modules": ["(", "alpha"]}}, "exclude_modules"),
        ({"lora": {"early_stopping_patience": 2, "training_args": {}}}, "early_stopping_patience"),
        ({"builder": {"precision": "int8", "block_size": 256, "extra_options": {}}}, "block_size"),
    ],
)
def test_problem_stands_at_the_param_that_it_is_about(planned, tmp_path, changes, key):
    def change(config):
        for name, params in changes.items():
            config["passes"][name] |= params

    found = {problem.where for problem in planned(change).problems}
    assert found == {f"{tmp_path / 'config.json'}:{line_of(tmp_path, f'{chr(34)}{key}{chr(34)}')}"}


def test_what_has_no_effect_is_said(planned, tmp_path):
    def change(config):
        config["log_severity_level"] = 0
        config["data_configs"].append({**config["data_configs"][0], "name": "forgotten"})
        config["data_configs"][0]["user_script"] = "rows.py"
        config["input_model"]["model_script"] = "model.py"
        (tmp_path / "model.py").touch()

    plan = planned(change)
    assert plan.problems == ()
    told = "\n".join(plan.translated)
    assert "'log_severity_level' has no effect: the log of a step keeps everything" in told
    assert "the data config 'forgotten' is used by nothing" in told
    assert "'rows' is used by nothing" not in told
    assert "/rows.py' of 'rows' is not read: no 'type' there is one that it registers" in told
    assert "/model.py' is not read: nothing of 'input_model' names a function of it" in told


@pytest.mark.parametrize(
    ("params", "said"),
    [
        (
            {"training_args": {"learning_rate": 10}},
            "learning_rate 10 is far above what trains: 1e-05 to 0.001 is usual",
        ),
        ({"training_args": {"learning_rate": 1e-9}}, "is far below"),
        ({"r": 1000}, "r 1000 is more than the layers are wide (64)"),
        ({"training_args": {"max_steps": 5, "warmup_steps": 5}}, "all 5 steps are warm-up"),
        ({"training_args": {"learning_rate": 5e-3, "warmup_steps": 5}, "r": 64}, None),
        ({"type": "FullFinetune", "training_args": {"learning_rate": 5e-3}}, "far above"),
    ],
)
def test_values_that_are_hardly_meant_are_noted(planned, params, said):
    def change(config):
        config["passes"]["lora"] |= params
        if "type" in params:
            config["passes"].pop("merge")

    plan = planned(change)
    assert plan.problems == ()
    told = [note for note in plan.translated if note.startswith("step lora: ") and ": trains " not in note]
    assert [said in note for note in told] == ([True] if said else [])


@pytest.mark.parametrize(
    ("params", "meant"),
    [
        ({"lr": 1e-4}, "training_args.learning_rate"),
        ({"epochs": 3}, "training_args.num_train_epochs"),
        ({"seed": 3}, "training_args.seed"),
        ({"rank": 3}, "r"),
        ({"scale": 3}, "alpha"),
        ({"lora_dropuot": 0.1}, "lora_dropout"),
    ],
)
def test_names_of_other_tools_are_told_ours(planned, tmp_path, params, meant):
    problem = only(planned(lambda c: c["passes"]["lora"].update(params)), "unknown-key")
    assert problem.message.endswith(f"did you mean '{meant}'?")
    assert problem.where.endswith(f":{line_of(tmp_path, next(iter(params)))}")


@pytest.mark.parametrize(
    ("section", "key", "value", "meant"),
    [
        ((), "lr", 1, "passes.lora.training_args.learning_rate"),
        ((), "epochs", 1, "passes.lora.training_args.num_train_epochs"),
        ((), "seed", 1, "passes.lora.training_args.seed"),
        ((), "rank", 1, "passes.lora.r"),
        ((), "precision", 1, "passes.builder.precision"),
        ((), "max_drop", 1, "quality.max_drop"),
        ((), "model_path", 1, "input_model.model_path"),
        ((), "data_files", 1, "data_configs[0].load_dataset_config.data_files"),
        (("data_configs", 0), "max_seq_len", 1, "data_configs[0].pre_process_data_config.max_seq_len"),
        (("data_configs", 0, "pre_process_data_config"), "seed", 1, "random_seed"),
        (("data_configs", 0, "pre_process_data_config"), "response_col", "tone", "answer_col"),
        (("data_configs", 0, "load_dataset_config"), "separator", "\t", "sep"),
        (("passes", "lora"), "max_seq_len", 1, "data_configs[0].pre_process_data_config.max_seq_len"),
        (("passes", "lora"), "precision", 1, "passes.builder.precision"),
    ],
)
def test_key_that_stands_in_another_section_is_told_where(planned, tmp_path, section, key, value, meant):
    def change(config):
        for part in section:
            config = config[part]
        config[key] = value

    (problem,) = [one for one in planned(change).problems if one.kind == "unknown-key"]
    assert problem.message.endswith(f"; did you mean '{meant}'?")
    line = line_of(tmp_path, json.dumps({key: value}).strip("{}"))
    assert problem.where.endswith(f":{line}")


@pytest.mark.parametrize("key", ["name", "seeds_of_doubt"])
def test_key_that_nothing_in_the_config_has_is_told_no_place(planned, key):
    assert only(planned(lambda c: c.update({key: 1})), "unknown-key").message == f"unknown key '{key}'."


def test_budget_of_a_workflow_that_scores_nothing_is_a_problem(planned):
    change = {"quality": {"enabled": False, "max_drop": 0.03}}
    assert "scores nothing" in only(planned(lambda c: c.update(change)), "invalid-value").message


def test_limit_that_the_config_sets_is_one_problem_at_its_line(planned, tmp_path):
    def change(config):
        config["systems"] = {"here": {"type": "LocalSystem", "accelerators": [{"device": "cpu", "memory": "200 kB"}]}}

    problem = only(planned(change), "hardware")
    assert "'memory' allows 200 kB" in problem.message
    assert problem.where.endswith(f":{line_of(tmp_path, '200 kB')}")


def test_pass_with_a_host_of_its_own_has_what_that_one_allows(planned, tmp_path):
    def change(config):
        systems = {"here": {}, "small": {"device": "cpu", "memory": "200 kB"}}
        config["systems"] = {name: {"type": "LocalSystem", "accelerators": [one]} for name, one in systems.items()}
        config |= {"host": "here", "target": "here"}
        config["passes"]["lora"]["host"] = "small"

    problem = only(planned(change), "hardware")
    assert "step 'lora' needs" in problem.message
    assert problem.where.endswith(f":{line_of(tmp_path, '200 kB')}")


def test_target_module_that_matches_nothing_is_named(planned, tmp_path):
    problem = only(planned(lambda c: c["passes"]["lora"].update(target_modules=["qkv_proj"])), "invalid-value")
    assert "The model has: down_proj, embed_tokens" in problem.message
    assert problem.where.endswith(f"config.json:{line_of(tmp_path, 'target_modules')}")


def test_misspelt_key_of_a_pass_hides_no_other_mistake_in_it(planned):
    def change(config):
        config["passes"]["lora"] |= {"rr": 4, "training_args": {"max_stps": 3}, "target_modules": ["qkv_proj"]}

    said = " ".join(problem.message for problem in planned(change).problems)
    for mistake in ("'rr'", "max_stps", "qkv_proj"):
        assert mistake in said


def test_wrong_rows_are_named_from_the_first_on_and_then_how_many_there_are(planned, tmp_path):
    (tmp_path / "rows.jsonl").write_text('{"phrase": "a", "tone": "b"}\n' * 7 + "{cut\n" * 20)
    places = [problem.where.rpartition(":")[2] for problem in planned().problems]
    assert places == ["8", "9", "10", "11", "12", "13"]
    assert "15 more rows" in planned().problems[-1].message


def test_empty_file_is_one_problem(planned, tmp_path):
    (tmp_path / "rows.jsonl").write_text("")
    problem = only(planned(lambda c: c["passes"]["lora"].update(eval_dataset_size=0.2)), "missing-data")
    assert "the file is empty" in problem.message


def test_data_config_that_is_not_there_names_the_nearest(planned):
    problem = only(planned(lambda c: c["passes"]["lora"].update(train_data_config="row")), "missing-data")
    assert "Did you mean 'rows'?" in problem.fix


def test_malformed_row_is_named_by_file_and_line(planned, tmp_path):
    write_rows(tmp_path / "rows.jsonl", 60)
    text = (tmp_path / "rows.jsonl").read_text().splitlines()
    text[36] = '{"phrase": "cut'
    (tmp_path / "rows.jsonl").write_text("\n".join(text))
    assert only(planned(), "missing-data").where.endswith("rows.jsonl:37")


def test_column_that_is_not_there_lists_the_columns(planned):
    change = {"text_template": "{sentence} {tone}"}
    problem = only(planned(lambda c: c["data_configs"][0]["pre_process_data_config"].update(change)), "invalid-value")
    assert "phrase, tone" in problem.message


def broken_copy(model, folder, *removed):
    shutil.copytree(model, folder)
    for name in removed:
        (folder / name).unlink()
    return folder


def test_folder_without_tokenizer(planned, tiny_llama, tmp_path):
    folder = broken_copy(tiny_llama, tmp_path / "m", "tokenizer.json")
    assert "no tokenizer" in only(planned(model=folder), "missing-model").message


def test_pickled_weights_are_refused_with_the_command_that_converts_them(planned, tiny_llama, tmp_path):
    folder = broken_copy(tiny_llama, tmp_path / "m", "model.safetensors")
    (folder / "pytorch_model.bin").write_bytes(b"x")
    problem = only(planned(model=folder), "missing-model")
    assert "'pytorch_model.bin'" in problem.message
    assert "save_pretrained" in problem.fix


def test_truncated_weights_are_noticed_without_loading_them(planned, tiny_llama, tmp_path):
    folder = broken_copy(tiny_llama, tmp_path / "m")
    data = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(data[:-10])
    assert "truncated" in only(planned(model=folder), "missing-model").message


def test_missing_shard_is_named(planned, tiny_llama, tmp_path):
    folder = broken_copy(tiny_llama, tmp_path / "m", "model.safetensors")
    index = {"weight_map": {"model.norm.weight": "model-00001-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert "model-00001-of-00002.safetensors" in only(planned(model=folder), "missing-model").message


def test_missing_model_names_the_nearest_folder(planned, tmp_path):
    (tmp_path / "my-model").mkdir()
    problem = only(planned(model=tmp_path / "my-modle"), "missing-model")
    assert "my-model'?" in problem.message


def test_architecture_is_checked_from_the_config_alone(planned, tiny_llama, tmp_path):
    folder = broken_copy(tiny_llama, tmp_path / "m")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"architectures": ["MambaForCausalLM"]}))
    assert "'MambaForCausalLM' cannot be exported" in only(planned(model=folder), "unsupported").message


def test_passes_in_the_wrong_order_say_what_to_insert(planned):
    def change(config):
        config["passes"] = {"lora": config["passes"]["lora"], "round": {"type": "Rtn"}}

    problem = only(planned(change), "invalid-value")
    assert "takes hf, but what reaches it is adapter" in problem.message
    assert "Put 'merge' before it" in problem.fix


@pytest.mark.parametrize(
    ("types", "said"),
    [
        (["MergeAdapterWeights"], "Put 'lora' before it."),
        (["LoRA", "Rtn"], "Put 'merge' before it."),
        (["LoRA", "quantize_onnx"], "Put 'merge' and 'build' before it."),
        (["quantize_onnx"], "Put 'build' before it."),
    ],
)
def test_bridge_that_is_named_is_the_usual_one(planned, types, said):
    def change(config):
        more = {"LoRA": {"train_data_config": "rows"}}
        config["passes"] = {f"step_{name}": {"type": name, **more.get(name, {})} for name in types}

    assert only(planned(change), "invalid-value").fix == said


def test_adapter_that_reaches_the_builder_is_merged_on_the_way(planned):
    plan = planned(lambda c: c["passes"].pop("merge"))
    assert [step.pass_name for step in plan.steps] == ["lora", "merge", "build"]
    assert any("the adapter is merged, no part of the graph" in line for line in plan.translated)


def test_hub_name_without_a_network_is_a_network_problem(planned):
    problem = only(planned(model="microsoft/Phi-3-mini-4k-instruct", offline=True), "network")
    assert "microsoft/Phi-3-mini-4k-instruct" in problem.message


def test_demanded_accelerator_that_is_not_here_is_a_hardware_problem(planned):
    accelerator = {"device": "gpu", "execution_providers": ["CUDAExecutionProvider"]}

    def change(config):
        config |= {"systems": {"here": {"type": "LocalSystem", "accelerators": [accelerator]}}, "host": "here"}

    assert "no NVIDIA GPU" in only(planned(change, probe=replace(HERE, has_nvidia=False)), "hardware").message


def test_target_that_is_not_here_is_planned_for_and_said(planned):
    accelerator = {"device": "gpu", "execution_providers": ["CUDAExecutionProvider"]}

    def change(config):
        config |= {"systems": {"there": {"type": "LocalSystem", "accelerators": [accelerator]}}, "target": "there"}

    plan = planned(change, probe=replace(HERE, has_nvidia=False))
    assert not plan.problems
    assert "'CUDAExecutionProvider' is not on this machine" in "\n".join(lines(plan))


def test_step_that_does_not_fit_in_memory_is_a_hardware_problem(planned):
    plan = planned(probe=replace(HERE, memory_bytes=10**8))
    assert {problem.kind for problem in plan.problems} == {"hardware"}
    assert "Lower max_seq_len" in str(plan.problems)


@pytest.mark.parametrize("key", ["cache_dir", "output_dir"])
def test_folder_that_is_a_file_is_named(planned, tmp_path, key):
    (tmp_path / "taken").write_text("")
    problem = only(planned(lambda c: c.update({key: str(tmp_path / "taken")})), "invalid-value")
    assert f"{key} '" in problem.message


@pytest.mark.parametrize("section", ["quality", "passes"])
def test_switch_where_a_number_belongs_is_named(planned, section):
    key, value = ("max_drop", True) if section == "quality" else ("r", True)

    def change(config):
        (config.setdefault("quality", {}) if section == "quality" else config["passes"]["lora"])[key] = value

    problem = only(planned(change), "invalid-value")
    assert f"'{key}'" in problem.message or key in problem.message
    assert "number" in problem.message


def test_nonsense_budget_is_named(planned):
    problem = only(planned(lambda c: c.update(quality={"max_drop": "a bit"})), "invalid-value")
    assert "'a bit' is no number" in problem.message


@pytest.mark.parametrize(
    ("params", "quality", "part", "n_most"),
    [
        ({}, {}, "train", 64),
        ({"eval_dataset_size": 0.25}, {}, "eval", 512),
        ({"eval_data_config": "rows"}, {}, "all", 512),
        ({"eval_dataset_size": 0.25}, {"data_config": "rows", "max_samples": 9}, "all", 9),
    ],
)
def test_rows_to_score_follow_the_config(planned, params, quality, part, n_most):
    def change(config):
        config["passes"]["lora"] |= params
        config["quality"] = quality

    score = planned(change).score
    assert (score.part, score.max_rows, score.target) == (part, n_most, "tone")


def test_rows_that_were_trained_on_are_said_to_be(planned):
    assert "that were trained on" in " ".join(planned().translated)


def test_rows_are_held_out_only_where_something_is_trained_on_others(planned, tmp_path):
    def change(*, data=None, trains=True, **lora):
        def apply(config):
            other = config["data_configs"][0] | {"name": "others"}
            config["data_configs"].append(other)
            config["quality"] = {"data_config": data} if data else {}
            config["passes"]["lora"].update(lora)
            if not trains:
                del config["passes"]["lora"], config["passes"]["merge"]

        return planned(apply)

    assert change(eval_dataset_size=4).scores_held_out
    assert change(eval_data_config="others").scores_held_out
    assert change(data="others").scores_held_out
    assert not change(data="rows").scores_held_out
    assert not change().scores_held_out
    nothing_trains = change(data="others", trains=False)
    assert nothing_trains.score.part == "all"
    assert not nothing_trains.scores_held_out


def test_plan_touches_nothing_and_imports_no_framework(planned, tmp_path):
    planned()
    before = sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*"))
    code = (
        "import sys; from pathlib import Path; from olivine.config import load; from olivine.workflow.plan import make_plan\n"
        f"assert not make_plan(load(Path({str(tmp_path / 'config.json')!r}))).problems\n"
        "heavy = {'torch', 'transformers', 'onnx', 'onnxruntime', 'numpy', 'datasets'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    assert sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*")) == before


def test_config_that_says_nothing_usable_is_an_error_with_all_problems(tmp_path):
    (tmp_path / "config.json").write_text('{"input_model": 3}')
    with pytest.raises(ConfigError):
        make_plan(load(tmp_path / "config.json"))


@pytest.mark.skipif(lazy.installed_here("adlfs"), reason="the extra azureml is here")
def test_azureml_form_of_2024_needs_the_extra_and_nothing_of_it_is_wrong():
    plan = make_plan(load(PUBLISHED / "azureml-2024.json"))
    kinds = {problem.kind for problem in plan.problems}
    assert "missing-extra" in kinds
    assert not kinds & {"unknown-key", "unknown-pass", "invalid-value", "unsupported"}
    assert "olivine[azureml]" in str(plan.problems)


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="a file system that takes no files")
@pytest.mark.parametrize("key", ["cache_dir", "output_dir"])
def test_folder_where_no_file_can_be_made_is_a_problem(planned, key):
    problem = only(planned(lambda c: c.update({key: "/proc/x"})), "invalid-value")
    assert f"{key} '/proc/x' cannot be written to" in problem.message


def test_config_without_rows_compares_models_on_text_where_they_fit(planned):
    def change(config):
        config["passes"] = {"builder": {"type": "ModelBuilder"}}
        config["data_configs"] = []

    plan = planned(change)
    assert plan.score.on_text
    assert any("compared on a text that comes with olivine" in sentence for sentence in plan.translated)
    large = planned(lambda config: change(config) or config.update(quality={"enabled": False}))
    assert large.score is None


@pytest.mark.parametrize("key", ["cache_dir", "output_dir"])
def test_folder_without_a_name_is_a_problem(planned, key):
    assert f"{key} is empty" in only(planned(lambda c: c.update({key: " "})), "invalid-value").message


def test_share_of_rows_beyond_any_count_is_a_problem(planned):
    only(planned(lambda c: c["passes"]["lora"].update(eval_dataset_size=1e300)), "invalid-value")


def test_plan_of_a_pass_that_cannot_run_says_so_and_nothing_of_what_follows(planned):
    plan = planned(lambda config: config["passes"]["lora"].update(r="many"))
    text = lines(plan)
    assert "step lora (LoRA): cannot run, see below" in text
    assert not [line for line in text if line.startswith(("needs", "note: step builder"))]
    assert not [line for line in text if "names no rows to score" in line]  # the step has rows


@pytest.mark.parametrize(("name", "kind"), [("journal.jsonl", "a folder"), ("workflow.json", "a folder")])
def test_folder_where_a_file_of_the_run_goes_is_a_problem(planned, tmp_path, name, kind):
    (tmp_path / "out" / name).mkdir(parents=True)
    (problem,) = planned().problems
    assert f"{name}' is {kind}, but a file goes there" in problem.message


@pytest.mark.parametrize("scored", [True, False])
def test_memory_in_all_is_that_of_the_largest_line(planned, scored):
    def change(config):
        config["quality"] = config.get("quality", {}) | {"enabled": scored}

    plan = planned(change)
    text = "\n".join(lines(plan))
    told = re.findall(r": to run; memory ([\d.]+ \w+)", text)
    in_all = re.search(r"needs about ([\d.]+ \w+) of memory", text)[1]
    parts = [step.estimate.memory_bytes for step in plan.steps] + [plan.scoring_bytes]
    assert plan.estimate.memory_bytes == max(parts)
    assert in_all in told
    assert (plan.scoring_bytes > 0) is ("scores of base, " in text) is scored


def test_what_is_cached_needs_nothing(planned):
    plan = planned()
    draft = SimpleNamespace(steps=plan.steps, remotes=(), download_bytes=0)
    everything = {step.name for step in plan.steps}
    assert total(draft, 0, everything).memory_bytes == 0
    assert total(draft, 5, everything).memory_bytes == 5
    assert total(draft, 0, {"lora"}).disk_bytes < total(draft, 0).disk_bytes
    assert total(draft, 0, everything).disk_bytes == plan.steps[-1].estimate.disk_bytes  # it is delivered
