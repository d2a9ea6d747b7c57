"""ParityCheck as a step of a workflow, and `olivine parity`, as their users meet them."""

import json
import shutil
import tempfile
from types import SimpleNamespace

import pytest
from safetensors.torch import load_file, save_file

from olivine.cli import exit_code, parity
from olivine.config import load
from olivine.errors import GoalMissed
from olivine.models import Model
from olivine.passes import UNCHANGED, Context, Machine, passes
from olivine.passes.check.parity_check import ParityCheck
from olivine.workflow.engine import run
from olivine.workflow.plan import make_plan
from reports import Told

pytestmark = pytest.mark.usefixtures("warm")

QUICK = {"n_tokens": 80, "length": 40, "n_prompts": 2, "n_new": 8, "speed": False}


def plan_of(folder, model, **check):
    passes_ = {
        "builder": {"type": "ModelBuilder", "precision": "int4"},
        "check": {"type": "ParityCheck", **QUICK, **check},
    }
    content = {
        "input_model": {"type": "HfModel", "model_path": str(model)},
        "passes": passes_,
        "quality": {"enabled": False},
        "cache_dir": str(folder / "cache"),
        "output_dir": str(folder / "out"),
    }
    path = folder / "config.json"
    path.write_text(json.dumps(content))
    return make_plan(load(path))


@pytest.mark.slow
def test_missed_gate_fails_the_run_and_keeps_the_model_and_the_report(tiny_llama, tmp_path):
    message = r"'check': the mean KL divergence is 0\.\d+ nat, but at most 1e-06"
    with pytest.raises(GoalMissed, match=message) as missed:
        run(plan_of(tmp_path, tiny_llama, max_kld=1e-6))
    assert missed.value.exit_code == 1
    result = missed.value.result
    assert (result.model / "genai_config.json").is_file()
    assert not (result.model / "parity.json").exists()
    found = result.steps[-1]["facts"]["parity"]
    assert found["reference"]["path"] == str(tiny_llama)  # the last model that is not quantized
    assert found["candidate"]["format"] == "onnx"
    assert found["kl"] > found["runtime"]["kl"] > 0
    with pytest.raises(GoalMissed, match=message) as again:  # found in the cache, it is missed all the same
        run(plan_of(tmp_path, tiny_llama, max_kld=1e-6))
    assert all(step["cached"] for step in again.value.result.steps)


def test_step_after_a_check_does_not_depend_on_it(tiny_llama, tmp_path):
    content = {
        "input_model": {"type": "HfModel", "model_path": str(tiny_llama)},
        "passes": {
            "before": {"type": "ParityCheck", "reference": "input"},
            "builder": {"type": "ModelBuilder"},
            "after": {"type": "OnnxDiscrepancyCheck", "reference_model_path": str(tiny_llama), "max_mae": 0.1},
        },
        "quality": {"enabled": False},
        "cache_dir": str(tmp_path / "cache"),
        "output_dir": str(tmp_path / "out"),
    }
    path = tmp_path / "config.json"
    path.write_text(json.dumps(content))
    plan = make_plan(load(path))
    assert plan.problems == ()
    assert [step.parent for step in plan.steps] == [None, None, "builder"]
    assert plan.steps[2].params["max_logit_error"] == 0.1
    assert tiny_llama / "model.safetensors" in plan.steps[2].files


def test_plan_names_references_and_texts_that_are_not_there(tiny_llama, tmp_path):
    def problem(**params):
        found = plan_of(tmp_path, tiny_llama, **params).problems
        assert len(found) == 1
        return str(found[0])

    assert "'bilder' is neither a path nor the name of an earlier step. Did you mean 'builder'?" in problem(
        reference="bilder"
    )
    assert "does not exist" in problem(reference=str(tmp_path / "gone"))
    assert f"the text '{tmp_path / 'gone.txt'}' does not exist" in problem(text=str(tmp_path / "gone.txt"))
    assert "both say what is read" in problem(text=str(tmp_path / "config.json"), data_config="rows")
    assert "no data config is named 'rows'" in problem(data_config="rows")
    assert "max_kdl" in problem(max_kdl=0.1)
    assert plan_of(tmp_path, tiny_llama, reference="builder").problems == ()


@pytest.mark.slow
def test_pass_gives_its_model_back_with_a_report(tiny_llama, tmp_path):
    (tmp_path / "output").mkdir()
    rows = tmp_path / "rows.txt"
    rows.write_text("The quick brown fox jumps over the lazy dog.\n" * 5)
    report = Told()
    machine = Machine("cpu", "CPUExecutionProvider", 8 * 10**9, 10**12, 2)
    context = Context(tmp_path / "output", tmp_path, machine, report)
    step = ParityCheck(ParityCheck.Params(reference=str(tiny_llama), text=str(rows), **QUICK))
    model = Model("hf", tiny_llama)
    assert step.run(model, context) == model
    assert ParityCheck.produces == UNCHANGED
    found = json.loads((tmp_path / "output" / "parity.json").read_text())
    assert found == json.loads(json.dumps(report.facts["parity"]))
    assert found["tokens"]["source"] == str(rows)
    assert (found["kl"], found["verdict"]) == (0, "excellent")
    assert report.facts["summary"] == "excellent: KL 0.0000, same top token 100.0%"


def test_quantized_models_are_no_reference_of_their_own(tiny_llama, tmp_path):
    from olivine.errors import ModelError
    from olivine.passes.check.parity_check import last_unquantized

    (tmp_path / "config.json").write_text('{"quantization_config": {}}')
    plain, rounded, graph = Model("hf", tiny_llama), Model("hf", tmp_path), Model("onnx", tmp_path)
    assert last_unquantized({"input": plain, "gptq": rounded, "build": graph}) is plain
    with pytest.raises(ModelError, match="name one as 'reference'"):
        last_unquantized({"input": rounded})


def test_both_names_find_the_pass():
    assert passes.find("ParityCheck") is passes.find("OnnxDiscrepancyCheck") is passes.classes["parity_check"]


def command(capfd, *arguments):
    code = exit_code(["parity", *map(str, arguments)])
    out, err = capfd.readouterr()
    return SimpleNamespace(exit_code=code, stdout=out, stderr=err)


FAST = ("--tokens", 80, "--length", 40, "--no-speed", "--device", "cpu")


@pytest.mark.slow
def test_command_prints_json_or_tables_and_exits_with_1_past_a_limit(tiny_llama, llama_adapter, capfd):
    done = command(capfd, tiny_llama, llama_adapter, *FAST, "--max-kld", 0.001, "--min-top1", 1, "--json")
    assert done.exit_code == 1
    assert "at most 0.001 is allowed" in done.stderr
    found = json.loads(done.stdout)
    assert found["verdict"] == "poor"
    assert len(found["missed"]) == 2
    found["candidate"] |= {"load_seconds": 1.5, "peak_memory_bytes": 3 * 10**9, "decode_tokens_per_second": 12.34}
    found["reference"] |= {"load_seconds": 3.0, "peak_memory_bytes": 6 * 10**9, "decode_tokens_per_second": None}
    parity._show(found | {"weights": found, "runtime": found, "kl_max": None})
    shown = capfd.readouterr().out
    assert f"{found['kl']:.4f} ± {found['kl_standard_error']:.4f} nat" in shown
    assert "not a number" in shown
    assert all(line == line.rstrip() for line in shown.splitlines())
    lines = {" ".join(line.split()) for line in shown.splitlines()}
    assert "load 3.00 s 1.50 s 0.50" in lines
    assert "peak memory 6.0 GB 3.0 GB 0.50" in lines
    assert "decode" not in shown  # one of them was not measured
    assert "KL of the run time" in shown
    assert max(map(len, shown.splitlines())) <= 80 + len(found["candidate"]["path"])


@pytest.mark.parametrize(
    ("name", "content", "fix"),
    [
        ("rows.jsonl", b'{"phrase": "a sunny day", "tone": "joy"}\n', "--text-template '{phrase} {tone}'"),
        ("rows.csv", "question,answer\nwie heißt du,Käthe\n".encode("cp1252"), "--encoding cp1252"),
        ("rows.csv", b"question;answer\na;b\nc;d\n", "--sep ';'"),
        ("text.txt", "Käthe".encode("cp1252"), "--encoding and its name, such as cp1252"),
        ("rows.xlsx", b"PK", "the text must be a .txt"),
    ],
)
def test_data_that_cannot_be_read_is_a_wrong_request_and_starts_nothing(
    name, content, fix, tiny_llama, llama_adapter, tmp_path, capfd
):
    (tmp_path / name).write_bytes(content)
    refused = command(capfd, tiny_llama, llama_adapter, *FAST, "--data", tmp_path / name)
    assert refused.exit_code == 2
    assert fix in refused.stderr
    assert "parity:" not in refused.stderr  # no step
    assert "log:" not in refused.stderr


@pytest.mark.slow
def test_encoding_and_separator_are_options_of_the_command(tiny_llama, llama_adapter, tmp_path, capfd):
    (tmp_path / "rows.csv").write_bytes("question;answer\nwie heißt du;Käthe\n".encode("cp1252"))
    reading = ("--data", tmp_path / "rows.csv", "--encoding", "cp1252", "--sep", ";")
    done = command(capfd, tiny_llama, llama_adapter, *FAST, *reading)
    assert done.exit_code == 0, done.stderr
    refused = command(capfd, tiny_llama, llama_adapter, "--encoding", "cp1252")
    assert (refused.exit_code, refused.stderr.count("name the file with --data")) == (2, 1)


def test_models_that_cannot_be_compared_are_a_wrong_request_that_leaves_nothing(
    tiny_llama, tmp_path, capfd, monkeypatch
):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    shutil.copytree(tiny_llama, tmp_path / "other")
    tokenizer = json.loads((tmp_path / "other" / "tokenizer.json").read_text())
    words = tokenizer["model"]["vocab"]
    first, second = list(words)[300:302]
    words[first], words[second] = words[second], words[first]
    (tmp_path / "other" / "tokenizer.json").write_text(json.dumps(tokenizer))
    done = command(capfd, tiny_llama, tmp_path / "other", *FAST, "--json")
    assert done.exit_code == 2  # 1 would say: too far away
    (problem,) = json.loads(done.stdout)["problems"]
    assert "do not share a vocabulary" in problem["message"]
    assert list((tmp_path / "temporary").iterdir()) == []


@pytest.mark.parametrize("param", ["encoding", "sep", "text_template"])
def test_how_a_text_is_read_needs_a_text(param, tiny_llama, tmp_path):
    (problem,) = plan_of(tmp_path, tiny_llama, **{param: ";"}).problems
    assert f"'{param}' is how the text of a file is read" in problem.message


def test_text_of_a_step_that_cannot_be_read_is_told_while_planning(tiny_llama, tmp_path):
    (tmp_path / "rows.csv").write_bytes(b"question;answer\na;b\nc;d\n")
    (problem,) = plan_of(tmp_path, tiny_llama, text=str(tmp_path / "rows.csv")).problems
    assert "write sep: ';'" in problem.message
    assert plan_of(tmp_path, tiny_llama, text=str(tmp_path / "rows.csv"), sep=";").problems == ()


@pytest.mark.slow
def test_command_fails_for_a_broken_model_without_any_limit(tiny_llama, tmp_path, capfd):
    shutil.copytree(tiny_llama, tmp_path / "flat")
    tensors = load_file(tmp_path / "flat" / "model.safetensors")
    tensors["lm_head.weight"].zero_()
    save_file(tensors, tmp_path / "flat" / "model.safetensors", {"format": "pt"})
    done = command(capfd, tiny_llama, tmp_path / "flat", *FAST)
    assert done.exit_code == 1
    assert "degenerate" in done.stdout
    assert "flat logits" in done.stderr


def test_command_refuses_what_is_no_model_at_once(tiny_llama, tmp_path, capfd):
    done = command(capfd, tiny_llama, tmp_path / "none", *FAST)
    assert done.exit_code == 2
    assert done.stderr == f"olivine: the model '{tmp_path / 'none'}' does not exist\n"
    assert command(capfd, tmp_path, tiny_llama).exit_code == 2
    assert command(capfd, tiny_llama, tiny_llama, "--tokens", 1).exit_code == 2
