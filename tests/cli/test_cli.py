"""The command line as its user meets it."""

import contextlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
from types import SimpleNamespace

import pytest

from graphs import text_classifier
from olivine.cli import COMMANDS, exit_code
from olivine.cli._common import print_problems, wrapped
from olivine.errors import Problem
from olivine.lazy import missing_sentence
from tiny import write_rows

pytestmark = pytest.mark.usefixtures("warm")


def run(*arguments):
    """The command line in this process: exit code, standard output, standard error."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = exit_code([str(argument) for argument in arguments])
    return SimpleNamespace(exit_code=code, stdout=out.getvalue(), stderr=err.getvalue())


def config(folder, model, **changes):
    rows = write_rows(folder / "rows.jsonl")
    text = "### Text: {phrase}\n### The tone is:\n{tone}"
    content = {
        "input_model": {"type": "HfModel", "model_path": str(model)},
        "data_configs": [
            {
                "name": "rows",
                "type": "HuggingfaceContainer",
                "load_dataset_config": {"data_name": "json", "data_files": str(rows), "split": "train"},
                "pre_process_data_config": {"text_template": text, "strategy": "line-by-line", "max_seq_len": 64},
            }
        ],
        "passes": {
            "lora": {
                "type": "LoRA",
                "r": 4,
                "train_data_config": "rows",
                "eval_dataset_size": 0.25,
                "training_args": {"max_steps": 2, "per_device_train_batch_size": 2},
            },
            "merge": {"type": "MergeAdapterWeights"},
            "builder": {"type": "ModelBuilder", "precision": "int4"},
        },
        "cache_dir": str(folder / "cache"),
        "output_dir": str(folder / "out"),
    }
    path = folder / "config.json"
    path.write_text(json.dumps(content | changes, indent=2))
    return path


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_the_list_is_the_command_s_own(name):
    done = run(name, "--help")
    assert done.exit_code == 0
    assert COMMANDS[name].rstrip(".:;").split(":")[0] in " ".join(done.stdout.split())


def test_unknown_command_names_the_nearest():
    assert "Did you mean 'plan'?" in run("plam").stderr
    assert exit_code(["plam"]) == 2


def test_plan_prints_json_and_exits_with_2_on_problems(tiny_llama, tmp_path):
    good = run("plan", "--config", config(tmp_path, tiny_llama), "--json")
    assert good.exit_code == 0
    plan = json.loads(good.stdout)
    assert set(plan) == {"steps", "problems", "translated", "estimate"}
    assert [step["name"] for step in plan["steps"]] == ["lora", "merge", "builder"]
    bad = run("plan", "--config", config(tmp_path, tmp_path / "nothing"), "--json")
    assert bad.exit_code == 2
    assert {problem["kind"] for problem in json.loads(bad.stdout)["problems"]} == {"missing-model"}


@pytest.mark.slow
def test_plan_proves_the_export_when_asked_to(tiny_llama, tmp_path):
    path = config(tmp_path, tiny_llama)
    done = run("plan", "--config", path, "--prove")
    assert done.exit_code == 0, done.stderr
    assert "the export of this architecture equals the checkpoint: up to 256 tokens" in done.stdout
    proof = json.loads(run("plan", "--config", path, "--prove", "--json").stdout)["proof"]
    assert len(proof["proven"]) == 1
    assert proof["differs"] == proof["unproven"] == []
    assert {file.name for file in tmp_path.iterdir()} <= {"config.json", "rows.jsonl"}


def test_run_of_a_wrong_config_does_nothing_and_says_every_problem(tiny_llama, tmp_path):
    path = config(tmp_path, tiny_llama, pases={}, passes={"lora": {"type": "LoRA", "train_data_config": "rowz"}})
    done = run("run", "--config", path)
    assert done.exit_code == 2
    assert "pases" in done.stderr
    assert "Did you mean 'rows'?" in done.stderr
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "cache").exists()


def test_stream_of_a_run_that_is_refused_is_a_line_with_its_problems(tiny_llama, tmp_path):
    done = run("run", "--config", config(tmp_path, tiny_llama, pases={}), "--json-stream")
    (line,) = done.stdout.splitlines()
    end = json.loads(line)
    assert (end["event"], end["code"], done.exit_code) == ("exit", 2, 2)
    assert "pases" in end["problems"][0]["where"] + end["problems"][0]["message"]
    assert run("run", "--config", "nowhere.json", "--json-stream").stdout.count("\n") == 1
    assert run("run", "--config", "nowhere.json", "--json-stream", "--json").exit_code == 2


def test_missing_config_is_one_sentence(capsys):
    assert exit_code(["run", "--config", "nowhere.json"]) == 2
    error = capsys.readouterr().err
    assert "nowhere.json" in error
    assert "Traceback" not in error


def beside_the_model(output_dir):
    names = ("report.html", "README.md", "metrics.json", "run.py")
    return {name: (output_dir / name).read_bytes() for name in names}


def test_workflow_runs_is_cached_and_answers(tiny_llama, tmp_path):
    """The main job on a tiny model, through real processes: run, again from the cache, evaluate, chat, cache."""
    path = config(tmp_path, tiny_llama)
    command = [sys.executable, "-m", "olivine"]
    first = subprocess.run([*command, "run", "--config", path, "--json"], capture_output=True, text=True, check=False)
    assert first.returncode == 0, first.stderr
    result = json.loads(first.stdout)
    assert result["status"] == "done"
    assert [row["model"] for row in result["scores"]] == ["base", "lora", "merge", "builder"]
    assert all(row["n_rows"] == 6 for row in result["scores"])
    assert result["scores"][2]["kl"] < 1e-4  # merging changes nothing
    names = {file.name for file in (tmp_path / "out" / "model").iterdir()}
    assert {"genai_config.json", "tokenizer.json", "model.onnx"} <= names
    assert (tmp_path / "out" / "adapter" / "adapter_config.json").is_file()
    report = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "The model is made" in report
    headings = (
        "Every model on the same rows",
        "What the models answer",
        "Training",
        "What takes the room",
        "Repeat it",
    )
    assert all(f">{heading}</h2>" in report for heading in headings)
    assert len(report.encode()) < 300_000
    plain = subprocess.run(
        [sys.executable, tmp_path / "out" / "run.py", "day"], capture_output=True, text=True, check=False
    )
    assert plain.returncode == 0, plain.stderr
    assert json.loads((tmp_path / "out" / "metrics.json").read_text())["scores"] == result["scores"]
    assert "| builder |" in (tmp_path / "out" / "README.md").read_text(encoding="utf-8")

    handed_over = beside_the_model(tmp_path / "out")
    streamed = [*command, "run", "--config", path, "--json-stream"]
    again = subprocess.run(streamed, capture_output=True, text=True, check=False)
    events = [json.loads(line) for line in again.stdout.splitlines()]
    assert events[0]["event"] == "run_started"
    assert [one["event"] for one in events[-2:]] == ["run_done", "exit"]
    assert events[-1]["code"] == again.returncode == 0
    assert all(step["cached"] for step in events[-2]["steps"])
    assert events[-2]["scores"] == result["scores"]
    # what the run that worked wrote tells more than one that found all in the cache
    assert beside_the_model(tmp_path / "out") == handed_over

    moved = tmp_path / "elsewhere"
    shutil.move(tmp_path / "out" / "model", moved)
    chat = subprocess.run(
        [*command, "chat", moved, "--raw", "--prompt", "day", "--max-new-tokens", "3"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert chat.returncode == 0, chat.stderr
    assert chat.stdout.startswith("day")
    scored = subprocess.run(
        [*command, "evaluate", moved, "--config", path, "--json"], capture_output=True, text=True, check=False
    )
    assert json.loads(scored.stdout)["scores"]["loss"] == pytest.approx(result["scores"][-1]["loss"], abs=1e-6)
    assert run("cache", "verify", "--cache-dir", tmp_path / "cache").exit_code == 0


def test_export_without_any_rows_is_compared_with_its_source_on_text(tiny_llama, tmp_path):
    passes = {"builder": {"type": "ModelBuilder", "precision": "fp32"}}
    path = config(tmp_path, tiny_llama, passes=passes, data_configs=[])
    planned = run("plan", "--config", path)
    assert "models are compared on a text that comes with olivine" in " ".join(
        (planned.stdout + planned.stderr).split()
    )
    done = run("run", "--config", path)
    assert done.exit_code == 0, done.stderr
    assert "on the same 12 passages of text (the config names no rows to score)" in done.stdout
    assert "accuracy" not in done.stdout
    assert re.search(r"\| builder \|\s+[\d.]+ \|\s+0\.0000 \| +100\.0% \|", done.stdout)


@pytest.mark.slow
def test_text_output_has_the_table_of_seams(tiny_llama, tmp_path):
    import peft

    path = config(
        tmp_path,
        tiny_llama,
        passes={"lora": {"type": "LoRA", "train_data_config": "rows", "training_args": {"max_steps": 2}}},
    )
    done = run("run", "--config", path)
    assert done.exit_code == 0, done.stderr
    assert "trained on!" in done.stdout  # no rows were held out
    assert f"report: {tmp_path / 'out' / 'report.html'}" in done.stdout
    assert f"in Python: peft.AutoPeftModelForCausalLM.from_pretrained('{tmp_path / 'out' / 'model'}')" in done.stdout
    assert peft.AutoPeftModelForCausalLM.from_pretrained(tmp_path / "out" / "model").active_adapter == "default"
    assert f"to try it: olivine chat {tmp_path / 'out' / 'model'}" in done.stdout
    assert re.search(r"lora \(step 1 of 1\): .*\nall in [\d.]+ s\n", done.stderr, re.DOTALL)
    assert "all of it is in the cache" in run("plan", path).stdout
    assert "less than a second" not in run("plan", path).stdout  # it will not be trained
    scored = run("evaluate", tmp_path / "out" / "model", path)
    assert "model on 24 training rows (trained on!) of 'rows':" in scored.stdout
    assert "| model | " in scored.stdout
    assert "| base " in done.stdout
    assert "| lora " in done.stdout


def test_drop_past_the_budget_fails_the_run_and_keeps_the_artifacts(tiny_llama, tmp_path, monkeypatch):
    from olivine.systems import SystemParams
    from olivine.systems.local import Local

    path = config(tmp_path, tiny_llama, quality={"max_drop": "3pp"})
    worker = type(Local(SystemParams()).worker())
    real = worker.run

    def run_with_a_bad_int4(self, job, listen):
        result = real(self, job, listen)
        if job.kind == "score":
            result["scores"]["label_accuracy"] = 0.5 if job.model["format"] == "onnx" else 0.9
            result["scores"].pop("degenerate", None)
        return result

    monkeypatch.setattr(worker, "run", run_with_a_bad_int4)
    done = run("run", "--config", path)
    assert done.exit_code == 1
    assert "from 'merge' (90.0%) to 'builder' (50.0%)" in done.stderr
    assert "| builder " in done.stdout  # the table is shown all the same
    assert (tmp_path / "out" / "model" / "genai_config.json").is_file()


def schema_of(part, schema):
    """A part of the schema with the reference that it may be."""
    return schema["$defs"][part["$ref"].removeprefix("#/$defs/")] if "$ref" in part else part


def test_schema_decides_by_the_type_of_a_step():
    schema = json.loads(run("schema").stdout)
    step = schema["properties"]["passes"]["additionalProperties"]
    (rule,) = [rule for rule in step["allOf"] if "LoRA" in rule["if"]["properties"]["type"]["enum"]]
    lora = schema_of(rule["then"], schema)
    assert {"r", "alpha", "training_args", "type", "host"} <= set(lora["properties"])
    assert lora["additionalProperties"] is False
    assert {"LoRA", "lora", "ModelBuilder"} <= set(step["properties"]["type"]["enum"])


def test_schema_is_the_same_text_whatever_the_order_of_sets():
    command = [sys.executable, "-m", "olivine", "schema"]
    texts = {
        subprocess.run(command, capture_output=True, check=True, env={**os.environ, "PYTHONHASHSEED": seed}).stdout
        for seed in ("1", "2")
    }
    assert len(texts) == 1


def test_schema_decides_by_the_type_of_a_system():
    schema = json.loads(run("schema").stdout)
    system = schema["properties"]["systems"]["additionalProperties"]
    (rule,) = [rule for rule in system["allOf"] if "IsolatedORT" in rule["if"]["properties"]["type"]["enum"]]
    assert rule["if"]["required"] == ["type"]  # one without a type is this machine
    python = schema_of(rule["then"], schema)
    assert {"python_environment_path", "requirements_file", "accelerators", "type"} <= set(python["properties"])
    assert python["additionalProperties"] is False
    assert {"Docker", "LocalSystem"} <= set(system["properties"]["type"]["enum"])


def test_schema_knows_training_args_and_offers_none_that_is_refused():
    schema = json.loads(run("schema").stdout)
    given = schema["$defs"]["lora"]["properties"]["training_args"]
    assert given["properties"]["lr_scheduler_type"]["enum"][0] == "linear"
    assert given["properties"]["per_device_train_batch_size"]["minimum"] == 1
    assert given["additionalProperties"] is False
    assert "deepspeed" not in given["properties"]
    assert schema["properties"]["clean_cache"]["deprecated"]


def properties_of(part):
    """Every property of a schema, with its name."""
    if isinstance(part, dict):
        if isinstance(part.get("properties"), dict):
            yield from part["properties"].items()
        for inner in part.values():
            yield from properties_of(inner)
    elif isinstance(part, list):
        for inner in part:
            yield from properties_of(inner)


def test_every_property_of_the_schema_is_described():
    every = list(properties_of(json.loads(run("schema").stdout)))
    condition = {"enum"}  # of an `if`
    assert len(every) > 500
    assert [name for name, one in every if "description" not in one and set(one) != condition] == []


def test_pass_is_shown_with_its_params():
    text = run("passes", "LoRA").stdout
    assert "lora_dropout (default 0.0)" in text
    assert run("passes", "lorra").exit_code == 2


def test_chat_with_a_folder_that_holds_no_model(tmp_path, capsys):
    assert exit_code(["chat", str(tmp_path), "--prompt", "hi"]) == 2
    assert "holds no model" in capsys.readouterr().err
    text_classifier(tmp_path / "model.onnx")
    assert exit_code(["chat", str(tmp_path), "--prompt", "hi"]) == 2
    assert "holds an ONNX graph without a genai_config.json, which writes no text" in capsys.readouterr().err


def test_package_that_is_missing_in_two_places_is_told_once(capsys):
    sentence = missing_sentence("azure.ai.ml", "azureml")
    assert "'azure-ai-ml'" in sentence
    wrong = Problem("invalid-value", "c.json:9", "a is wrong")
    print_problems([*(Problem("missing-extra", f"c.json:{line}", sentence) for line in (3, 7)), wrong, wrong])
    assert capsys.readouterr().err.splitlines() == [f"olivine: c.json:3: {sentence}", *2 * [f"olivine: {wrong}"]]


@pytest.mark.parametrize("group", [[], ["cache"]])
def test_group_without_a_command_is_its_help(group, capsys):
    assert exit_code(group) == 2
    told = capsys.readouterr().err
    assert told.startswith("Usage: ")
    assert told.count("Usage: ") == 1
    assert "Commands:" in told


def test_chat_with_a_file_that_is_no_model(tmp_path, capsys):
    (tmp_path / "rows.csv").write_text("a,b\n")
    assert exit_code(["chat", str(tmp_path / "rows.csv"), "--prompt", "hi"]) == 2
    assert "is neither a model folder nor a .gguf file" in capsys.readouterr().err


def test_cache_is_named_by_the_config_too(tiny_llama, tmp_path):
    path = config(tmp_path, tiny_llama)
    assert f"{tmp_path / 'cache'} is no cache of olivine" in run("cache", "ls", path).stderr
    (tmp_path / "cache" / "steps").mkdir(parents=True)
    assert run("cache", "ls", path).stdout == f"0 results, 0 B in {tmp_path / 'cache'}\n"
    assert run("cache", "verify", "-c", path).exit_code == 0
    assert "two caches are named" in run("cache", "gc", path, "--cache-dir", tmp_path).stderr


def test_adapter_without_its_base_says_that_the_base_is_missing(tiny_llama, llama_adapter, tmp_path):
    done = run("evaluate", llama_adapter, config(tmp_path, tmp_path / "gone"), "--json")
    assert done.exit_code == 2
    assert str(tmp_path / "gone") in json.loads(done.stdout)["problems"][0]["message"]


def test_migrate_into_another_folder_says_what_is_looked_for_there(tmp_path):
    (tmp_path / "sub").mkdir()
    data = {"name": "a", "load_dataset_config": {"data_name": "csv", "data_files": "d.csv"}}
    config = {"input_model": {"type": "HfModel", "model_path": "m"}, "data_configs": [data], "passes": {}}
    (tmp_path / "sub" / "c.json").write_text(json.dumps(config))
    told = "'d.csv' is looked for beside the config"
    assert told in run("migrate", tmp_path / "sub" / "c.json", "-o", tmp_path / "m.json").stderr
    assert told not in run("migrate", tmp_path / "sub" / "c.json", "-o", tmp_path / "sub" / "m.json").stderr
    assert told in run("migrate", tmp_path / "sub" / "c.json").stderr  # > m.json would put it here


def test_migrate_prints_today_s_form_and_says_what_changed(tmp_path):
    old = {
        "input_model": {"type": "PyTorchModel", "config": {"hf_config": {"model_name": "m"}}},
        "passes": {"lora": {"type": "LoRA", "config": {"lora_r": 8, "train_data_config": "d"}}},
    }
    path = tmp_path / "old.json"
    path.write_text(json.dumps(old))
    done = run("migrate", path)
    assert done.exit_code == 0
    assert json.loads(done.stdout)["passes"]["lora"]["r"] == 8
    assert "lora_r" in done.stderr
    kept = tmp_path / "new.json"
    assert run("migrate", path, "--output", kept).exit_code == 0
    assert run("migrate", path, "--output", kept).exit_code == 2


@pytest.mark.parametrize("command", ["plan", "run", "migrate"])
def test_config_is_an_argument_or_an_option(command, tiny_llama, tmp_path):
    path = config(tmp_path, tiny_llama, pases={})
    alone, named = run(command, path), run(command, "--config", path)
    assert (alone.exit_code, alone.stdout, alone.stderr) == (named.exit_code, named.stdout, named.stderr)
    assert "two configs are named" in run(command, path, "-c", path).stderr
    assert "no config is named" in run(command).stderr
    assert run(command).exit_code == 2


def test_model_and_config_of_evaluate_may_both_be_arguments(tiny_llama, tmp_path):
    assert "none.json: there is no such file" in run("evaluate", tiny_llama, tmp_path / "none.json").stderr


def test_lines_are_broken_between_words_on_a_terminal():
    text = "note: the model '/a/path/with many/words-and-hyphens' is fetched from the hub before the first step"
    for width in (24, 40, 80):
        lines = wrapped(text, width).splitlines()
        assert " ".join(line.strip() for line in lines) == text
        assert all(len(line) <= width or " " not in line.strip() for line in lines)
        assert all(line.startswith("    ") for line in lines[1:])


def test_healthy_packages_carry_no_fix():
    records = json.loads(run("doctor", "--json").stdout)
    assert all(bool(record["fix"]) != record["ok"] for record in records)
