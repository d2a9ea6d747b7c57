"""Commands that are workflows of one step: what config their flags make, and that it is run as any other."""

import contextlib
import io
import json
from types import SimpleNamespace

import pytest

from encoders import tiny_encoder
from graphs import text_classifier
from olivine.cli import exit_code
from tiny import write_rows

TEMPLATE = "### Text: {phrase}\n### The tone is:\n{tone}"


def run(*arguments):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = exit_code([str(argument) for argument in arguments])
    return SimpleNamespace(exit_code=code, stdout=out.getvalue(), stderr=err.getvalue())


def planned(*arguments):
    """The plan of a command, with the config that it makes, as JSON."""
    done = run(*arguments, "--dry-run", "--json")
    assert done.exit_code == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture
def here(tmp_path, monkeypatch):
    """The current folder, with rows in it."""
    monkeypatch.chdir(tmp_path)
    write_rows(tmp_path / "rows.jsonl")
    return tmp_path


def test_finetune_holds_a_tenth_of_the_rows_out_and_takes_arguments_of_transformers(tiny_llama, here):
    plan = planned(
        *(
            "finetune",
            "-m",
            tiny_llama,
            "-d",
            "rows.jsonl",
            "--text_template",
            r"### Text: {phrase}\n### The tone is:\n{tone}",
            "--lora_r",
            "4",
            "--merge",
        ),
        *(
            "--learning-rate",
            "1e-3",
            "--epochs",
            "2",
            "--per_device_train_batch_size=2",
            "--target_modules",
            "q_proj,v_proj",
        ),
    )
    assert [step["pass"] for step in plan["steps"]] == ["lora", "merge"]
    params = plan["steps"][0]["params"]
    assert (params["r"], params["eval_dataset_size"], params["target_modules"]) == (4, 0.1, ["q_proj", "v_proj"])
    assert params["training_args"] == {
        "learning_rate": 0.001,
        "num_train_epochs": 2,
        "per_device_train_batch_size": 2,
        "lr_scheduler_type": "linear",
        "warmup_steps": 0.03,
        "seed": 42,  # which the command does not say
    }
    (data,) = plan["config"]["data_configs"]
    assert data["load_dataset_config"] == {"data_name": "json", "data_files": "rows.jsonl"}
    assert data["pre_process_data_config"] == {"text_template": TEMPLATE}


def test_finetune_evaluates_on_the_rows_that_are_named(tiny_llama, here):
    write_rows(here / "held.jsonl")
    plan = planned(
        *("finetune", "-m", tiny_llama, "--data-files", "rows.jsonl", "--eval-data", "held.jsonl"),
        *("--text-template", TEMPLATE, "--method", "full"),
    )
    (step,) = plan["steps"]
    assert step["pass"] == "full_finetune"
    assert (step["params"]["eval_data_config"], step["params"]["eval_dataset_size"]) == ("eval_rows", None)


def test_quantize_calibrates_and_scores_on_the_rows(tiny_llama, here):
    rows = ("-d", "rows.jsonl", "--text-template", TEMPLATE)
    gptq = planned(
        "quantize", "-m", tiny_llama, "--algorithm", "gptq", "--group_size", "32", *rows, "--max-drop", "3pp"
    )
    (step,) = gptq["steps"]
    assert (step["pass"], step["params"]["group_size"], step["params"]["data_config"]) == ("gptq", 32, "rows")
    assert gptq["config"]["quality"] == {"data_config": "rows", "max_drop": "3pp"}
    (rtn,) = planned("quantize", "-m", tiny_llama, "--precision", "int8", "--sym", *rows)["steps"]
    assert (rtn["pass"], rtn["params"]["bits"], rtn["params"]["sym"]) == ("rtn", 8, True)


@pytest.mark.parametrize(("flags", "bits"), [((), 4), (("--precision", "int8"), 8)])
def test_quantize_exports_what_is_no_decoder(here, flags, bits):
    tiny_encoder(here / "bert")
    plan = planned("quantize", "-m", "bert", *flags)
    assert plan["problems"] == []
    assert plan["config"]["passes"]["export"]["type"] == "convert"
    quantize = plan["config"]["passes"]["quantize"]
    assert (quantize["type"], quantize.get("bits", 4)) == ("quantize_onnx", bits)
    refused = run("quantize", "-m", "bert", "--algorithm", "gptq", "--dry-run")
    assert (refused.exit_code, "gptq" in refused.stderr) == (2, True)


def test_export_is_for_the_device_and_takes_each_spelling_of_a_param(tiny_llama, here):
    plan = planned("export", "-m", tiny_llama, "--precision", "int4", "--block_size", "16", "--provider", "cpu")
    (step,) = plan["steps"]
    assert (step["pass"], step["params"]["precision"], step["params"]["int4_block_size"]) == ("build", "int4", 16)
    accelerator = {"execution_providers": ["CPUExecutionProvider"]}
    assert plan["config"]["systems"] == {"local": {"type": "LocalSystem", "accelerators": [accelerator]}}
    assert (plan["config"]["host"], plan["config"]["target"]) == ("local", "local")


@pytest.mark.parametrize(
    ("command", "steps"),
    [
        (["export"], ["merge", "build"]),
        (["quantize", "--algorithm", "rtn"], ["merge", "rtn"]),
        (["finetune", "-d", "rows.jsonl", "--text-template", TEMPLATE, "--merge"], ["merge", "lora", "merge"]),
        (["finetune", "-d", "rows.jsonl", "--text-template", TEMPLATE, "--method", "full"], ["merge", "full_finetune"]),
    ],
)
def test_adapter_that_is_named_is_merged_before_the_step(tiny_llama, llama_adapter, here, command, steps):
    plan = planned(*command, "-m", tiny_llama, "-a", llama_adapter)
    assert [step["pass"] for step in plan["steps"]] == steps


def test_new_adapter_on_a_merged_one_is_not_delivered_without_it(tiny_llama, llama_adapter, here):
    rows = ("-d", "rows.jsonl", "--text-template", TEMPLATE)
    done = run("finetune", "-m", tiny_llama, "-a", llama_adapter, *rows)
    assert done.exit_code == 2
    assert "add --merge" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["finetune", "-d", "rows.jsonl", "--learning-rat", "1"], "did you mean '--learning-rate'?"),
        (["finetune", "-d", "rows.jsonl", "--method", "lorra"], "--method: there is no pass 'lorra'. Did you mean"),
        (["finetune"], "give --data rows.jsonl"),
        (["finetune", "-d", "rowz.jsonl", "--text-template", TEMPLATE], "rowz.jsonl"),
        (
            ["finetune", "-d", "rows.jsonl", "--text-template", "{phrse}: {tone}"],
            "--text-template: 'text_template' needs",
        ),
        (["optimize", "-d", "rows.jsonl"], "Write --prompt-col phrase and --answer-col tone, or a --text-template."),
        (["quantize", "--precision", "int3"], "int4 or int8"),
        (["quantize", "--group-size", "48"], "--group-size: "),
        (["quantize", "--desc-act"], "--desc-act: unknown key 'desc_act'"),
        (["quantize", "--max-drop", "much", "-d", "rows.jsonl", "--text-template", TEMPLATE], "--max-drop: "),
        (["export", "--precision", "int5"], "--precision: 'passes.export.precision' must be"),
        (["quantize", "--device", "npu"], "--device: the device 'npu' is not served"),
        (["bench", "--repeats", "some"], "repeat_test_num"),
        (["bench", "--batch-size", "4,x"], "--batch-size '4,x' is no number above 0"),
    ],
)
def test_what_is_wrong_with_a_flag_is_said_by_its_name_before_anything_runs(tiny_llama, here, arguments, said):
    before = sorted(here.iterdir())
    done = run(arguments[0], "-m", tiny_llama, *arguments[1:])
    assert done.exit_code == 2
    assert said in done.stderr
    assert sorted(here.iterdir()) == before
    as_json = json.loads(run(arguments[0], "-m", tiny_llama, *arguments[1:], "--json").stdout)
    assert as_json["status"] == "refused"


def test_saved_config_of_a_graph_repeats_the_command_from_any_folder(here, tmp_path_factory, monkeypatch):
    graph = text_classifier(here / "classifier.onnx")
    command = ("quantize", "-m", graph, "--algorithm", "search", "--group_size", "16", "-o", here / "out")
    cache = ("--set", f"cache_dir={here / 'cache'}")
    done = run(*command, *cache, "--save-config", "made/config.json")
    assert done.exit_code == 0, done.stderr
    config = json.loads((here / "made" / "config.json").read_text())
    assert config["passes"] == {"quantize": {"type": "quantize_onnx", "algorithm": "search", "block_size": 16}}
    assert (here / "out" / "model" / "classifier.onnx").is_file()
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    again = json.loads(run("run", "--config", here / "made" / "config.json", "--json").stdout)
    assert all(step["cached"] for step in again["steps"])


def test_saved_config_names_rows_that_hold_from_its_own_folder(tiny_llama, here):
    config = here / "made" / "config.json"
    done = run(
        *("quantize", "-m", tiny_llama, "-d", "rows.jsonl", "--text-template", TEMPLATE),
        *("--save-config", config, "--dry-run"),
    )
    assert done.exit_code == 0, done.stderr
    (data,) = json.loads(config.read_text())["data_configs"]
    assert data["load_dataset_config"]["data_files"] == str(here / "rows.jsonl")


def test_bench_measures_a_graph_that_no_pass_changes(here):
    graph = text_classifier(here / "classifier.onnx")
    done = run("bench", "-m", graph, "--max-seconds", "2", "--repeats", "3", "--batch_size", "2", "--json")
    assert done.exit_code == 0, done.stderr
    result = json.loads(done.stdout)
    numbers = {row["number"]: row["value"] for row in result["measured"]}
    assert numbers.keys() == {"latency_p50", "latency_p90", "rows_per_second", "peak_memory_bytes", "size_bytes"}
    assert min(numbers.values()) > 0
    assert numbers["size_bytes"] == graph.stat().st_size
    assert {row["baseline"] for row in result["measured"]} == {None}
    assert result["model"] is None


def test_graph_is_not_exported_again(here):
    graph = text_classifier(here / "classifier.onnx")
    done = run("export", "-m", graph, "--precision", "int4", "-o", here / "out")
    assert done.exit_code == 2
    assert done.stderr.count("olivine: ") == 1
    assert "is an ONNX graph already; 'olivine quantize' rounds it" in " ".join(done.stderr.split())
    assert not (here / "out").exists()
