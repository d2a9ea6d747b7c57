"""Every wrong model, column, machine or folder is one problem with its line, found from files alone."""

import json
import math
import os
import re
import shutil
import struct
from dataclasses import replace
from pathlib import Path

import pytest

from fake_hub import fake_hub
from olivine.config import load
from olivine.errors import PROBLEM_KINDS
from olivine.models import Model
from olivine.models.chat_template import read_chat_template
from olivine.models.expected import expected_shapes
from olivine.systems import SystemParams
from olivine.systems.local import Local
from olivine.workflow.plan import make_plan
from olivine.workflow.words import to_json
from tiny import VOCABULARY, write_rows

ARCHITECTURE = {
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 128,
    "vocab_size": VOCABULARY,
    "max_position_embeddings": 256,
}
TOKENIZER = '{"model": {}, "added_tokens": []}'


def write_model(folder, n_vocabulary=VOCABULARY, **changes):
    """A folder with a config, a tokenizer and weights of zeros: all that a plan looks at."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(ARCHITECTURE | {"vocab_size": n_vocabulary} | changes))
    (folder / "tokenizer.json").write_text(TOKENIZER)
    tensors, end = {}, 0
    sizes = {"num_key_value_heads": 4, "vocab_size": n_vocabulary}
    for name, shape in expected_shapes(ARCHITECTURE | sizes, "LlamaForCausalLM").items():
        start, end = end, end + 4 * math.prod(shape)
        tensors[name] = {"dtype": "F32", "shape": shape, "data_offsets": [start, end]}
    header = json.dumps(tensors).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + bytes(end))
    return folder


def write_gguf(path):
    """The header of a GGUF file of the architecture llama with one tensor."""

    def text(value):
        return struct.pack("<Q", len(value)) + value.encode()

    name = text("general.architecture") + struct.pack("<I", 8) + text("llama")
    alignment = text("general.alignment") + struct.pack("<II", 4, 32)
    tensor = text("output_norm.weight") + struct.pack("<IQIQ", 1, 8, 0, 0)
    head = b"GGUF" + struct.pack("<IQQ", 3, 1, 2) + name + alignment + tensor
    path.write_bytes(head + bytes(-len(head) % 32 + 32))
    return path


@pytest.fixture
def planned(tmp_path):
    """Plan the usual config after `change(config)`."""

    def plan(change=lambda config: None, **options):
        if not (tmp_path / "model").exists():
            write_model(tmp_path / "model")
        rows = write_rows(tmp_path / "rows.jsonl")
        config = {
            "input_model": {"type": "HfModel", "model_path": str(tmp_path / "model")},
            "data_configs": [
                {
                    "name": "rows",
                    "load_dataset_config": {"data_name": "json", "data_files": str(rows)},
                    "pre_process_data_config": {"text_template": "{phrase}: {tone}", "strategy": "line-by-line"},
                }
            ],
            "passes": {
                "lora": {"type": "LoRA", "train_data_config": "rows"},
                "merge": {"type": "MergeAdapterWeights"},
                "builder": {"type": "ModelBuilder", "precision": "int4"},
            },
            "cache_dir": str(tmp_path / "cache"),
            "output_dir": str(tmp_path / "out"),
        }
        change(config)
        path = tmp_path / "config.json"
        path.write_text(json.dumps(config, indent=1))
        return make_plan(load(path), **options)

    return plan


def here(*, has_nvidia, **versions):
    """What this machine is, with or without a GPU and with other versions of packages."""
    probe = Local(SystemParams()).probe()
    return replace(probe, has_nvidia=has_nvidia, versions=dict(probe.versions) | versions)


def model_is(path, **changes):
    return lambda config: config["input_model"].update(model_path=str(path), **changes)


def systems_are(**accelerators):
    """Systems by name, each with one accelerator; `host` and `target` are named as they are called."""

    def change(config):
        config["systems"] = {
            name: {"type": "LocalSystem", "accelerators": [accelerator]} for name, accelerator in accelerators.items()
        }
        config |= {name: name if name in accelerators else "host" for name in ("host", "target")}

    return change


@pytest.fixture
def only(tmp_path):
    """The one problem of a plan: its kind and the text of its line in the config are as given."""

    def check(plan, kind, line):
        (problem,) = plan.problems
        assert problem.kind == kind
        name, _, number = problem.where.rpartition(":")
        assert name.endswith("config.json")
        assert line in Path(name).read_text().splitlines()[int(number) - 1]
        return f"{problem.message} {problem.fix}"

    return check


def test_scores_of_an_exported_model_take_room_for_the_logits_of_its_vocabulary(planned, tmp_path):
    """Measured: 1.7 GB, and 1.86 GB with the program, for 72 million weights and a vocabulary of 49,152."""

    def large(config):
        config["input_model"]["model_path"] = str(write_model(tmp_path / "large", n_vocabulary=49_152))
        config["passes"] = {"builder": {"type": "ModelBuilder", "precision": "int4"}}
        config["quality"] = {"data_config": "rows"}

    def unscored(config):
        large(config)
        config["quality"] = {"enabled": False}

    assert 1.7e9 < planned(large).estimate.memory_bytes < 2.3e9
    shutil.rmtree(tmp_path / "large")
    assert planned(unscored).estimate.memory_bytes < 1.3e9


def test_small_model_by_hand_has_no_problem(planned):
    plan = planned()
    assert plan.problems == ()
    assert plan.n_parameters == 2 * (4 * 64 * 64 + 3 * 64 * 128 + 2 * 64) + 2 * VOCABULARY * 64 + 64


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("hidden_size", "wide"),
        ("num_attention_heads", 0),
        ("vocab_size", "many"),
        ("head_dim", [8]),
        ("max_position_embeddings", True),
    ],
)
def test_size_of_the_model_that_is_no_number(planned, only, tmp_path, key, value):
    folder = write_model(tmp_path / "odd", **{key: value})
    assert "is no number above 0" in only(planned(model_is(folder)), "missing-model", "model_path")


@pytest.mark.parametrize("architectures", ["LlamaForCausalLM", None, [], [None], 3])
def test_config_without_a_list_of_architectures_is_refused(planned, only, tmp_path, architectures):
    folder = write_model(tmp_path / "odd", architectures=architectures)
    assert "does not name its architecture" in only(planned(model_is(folder)), "missing-model", "model_path")


@pytest.mark.parametrize("text", ["", "{", "[]", '"model"'])
def test_config_of_the_model_that_is_no_object(planned, only, tmp_path, text):
    folder = write_model(tmp_path / "odd")
    (folder / "config.json").write_text(text)
    assert "config.json" in only(planned(model_is(folder)), "missing-model", "model_path")


@pytest.mark.parametrize("name", ["", " ", "m" * 5000, "n/" * 3000, "a\0b", "~nobody-at-all/x"])
def test_name_that_no_folder_can_have(planned, only, name):
    assert len(only(planned(model_is(name)), "missing-model", "model_path")) < 500


def test_file_that_is_no_model(planned, only, tmp_path):
    message = only(planned(model_is(tmp_path / "rows.jsonl")), "missing-model", "model_path")
    assert "neither a model folder nor a .gguf or .onnx file" in message


def test_gguf_file_gets_a_step_that_reads_it(planned, tmp_path):
    plan = planned(model_is(write_gguf(tmp_path / "m.gguf")))
    assert plan.steps[0].name == "gguf"
    assert plan.steps[0].implicit
    assert plan.steps[1].parent == "gguf"


def test_pass_that_is_called_gguf_keeps_its_name(planned, tmp_path):
    def change(config):
        model_is(write_gguf(tmp_path / "m.gguf"))(config)
        config["passes"] = {"gguf": {"type": "LoRA", "train_data_config": "rows"}}

    assert [(step.name, step.parent) for step in planned(change).steps] == [("load-gguf", None), ("gguf", "load-gguf")]


def test_config_may_name_the_step_that_reads_a_gguf_file(planned, tmp_path):
    def change(config):
        model_is(write_gguf(tmp_path / "m.gguf"))(config)
        config["passes"] = {"read": {"type": "gguf"}, **config["passes"]}

    plan = planned(change)
    assert plan.steps[0].name == "read"
    assert not any(step.implicit for step in plan.steps)


def test_truncated_gguf_file(planned, only, tmp_path):
    path = write_gguf(tmp_path / "m.gguf")
    path.write_bytes(path.read_bytes()[:20])
    only(planned(model_is(path)), "missing-model", "model_path")


def test_adapter_that_is_none(planned, only, tmp_path):
    change = model_is(write_model(tmp_path / "base"), adapter_path=str(tmp_path / "base"))
    assert "is not an adapter" in only(planned(change), "missing-model", "adapter_path")


def test_adapter_of_a_gguf_file_is_planned_with_the_step_that_reads_the_file(planned, tmp_path):
    settings = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["q_proj"]}
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_config.json").write_text(json.dumps(settings))
    (tmp_path / "adapter" / "adapter_model.safetensors").write_bytes(struct.pack("<Q", 2) + b"{}")

    def change(config):
        model_is(write_gguf(tmp_path / "m.gguf"), adapter_path=str(tmp_path / "adapter"))(config)
        config["passes"] = {"merge": {"type": "merge"}}

    plan = planned(change)
    assert [(step.name, step.pass_name, step.implicit, step.produces) for step in plan.steps] == [
        ("gguf", "gguf_base", True, "adapter"),
        ("merge", "merge", False, "hf"),
    ]


@pytest.fixture
def online(tmp_path, monkeypatch):
    """A hub that has the model some/model, and a network."""
    from huggingface_hub import constants

    with fake_hub(some__model=write_model(tmp_path / "on-the-hub")) as server:
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)  # it was read when it was imported
        monkeypatch.setenv("HF_HUB_OFFLINE", "0")
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
        yield server


@pytest.mark.usefixtures("online")
def test_adapter_of_a_model_to_fetch_is_refused_not_dropped(planned, only, tmp_path):
    plan = planned(model_is("some/model", adapter_path=str(tmp_path)))
    assert "still to be fetched" in only(plan, "unsupported", "adapter_path")


@pytest.mark.usefixtures("online")
@pytest.mark.parametrize("offline", [True, False])
def test_wrong_params_are_told_before_a_model_is_fetched(planned, offline):
    def change(config):
        model_is("some/model")(config)
        config["passes"]["lora"] |= {"training_args": {"learning_rat": 1e-4}, "target_modules": ["qkv_proj"]}

    kinds = [problem.kind for problem in planned(change, offline=offline).problems]
    assert sorted(kinds) == sorted(["network" if offline else "invalid-value", "unknown-key"])


@pytest.mark.parametrize("name", ["~nosuch/x", "~\0/x", "~nosuch"])
def test_model_of_a_user_that_is_not_there_does_not_exist(planned, name):
    (problem,) = planned(lambda config: config["input_model"].update(model_path=name)).problems
    assert problem.kind == "missing-model"
    assert "does not exist" in problem.message


def test_home_of_the_user_is_meant_by_a_tilde_in_every_folder(planned, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    plan = planned(lambda config: config.update(cache_dir="~/cache", output_dir="~/out"))
    assert (plan.cache_dir, plan.output_dir) == (tmp_path / "home" / "cache", tmp_path / "home" / "out")


@pytest.mark.parametrize("template", ["{% for %}", "{{ messages | nosuch }}"])
@pytest.mark.parametrize("of_model", [True, False])
def test_chat_template_that_is_no_program_is_refused(planned, only, tmp_path, template, of_model):
    folder = write_model(tmp_path / "chatty")
    (folder / "chat_template.jinja").write_text(template if of_model else "{{ messages }}")

    def change(config):
        model_is(folder)(config)
        settings = config["data_configs"][0]["pre_process_data_config"]
        del settings["text_template"]
        settings |= {"prompt_col": "phrase", "answer_col": "tone"} if of_model else {"chat_template": template}

    if of_model:
        assert "chat template cannot be read: line 1" in only(planned(change), "missing-model", "model_path")
    else:
        assert "'chat_template' is no template: line 1" in only(planned(change), "invalid-value", "chat_template")


@pytest.mark.parametrize(
    ("settings", "line", "fix"),
    [
        ({}, '"name": "rows"', "or a text_template of columns that hold text."),
        ({"chat_template": True}, '"chat_template": true', "or a text_template of columns that hold text."),
        ({"chat_template": True, "prompt_col": "phrase", "answer_col": "tone"}, "chat_template", "or leave it out."),
    ],
)
def test_chats_for_a_model_without_a_template_are_refused(planned, tmp_path, settings, line, fix):
    chat = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "joy"}]

    def change(config, **model):
        rows = [{"messages": chat, "phrase": f"hello {index}", "tone": "joy"} for index in range(8)]
        (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
        preprocessed(**settings)(config)
        config["quality"] = {"data_config": "rows"}  # told once for training and scoring
        config["input_model"].update(model)

    plan = planned(change)
    (problem,) = plan.problems
    assert problem.kind == "invalid-value"
    assert "the model has no chat template to write them by" in problem.message
    assert problem.fix == f"Write a Jinja template as chat_template, {fix}"
    assert not any("written by the model's chat template" in note for note in plan.translated)
    number = int(problem.where.rpartition(":")[2])
    assert line in "\n".join((tmp_path / "config.json").read_text().splitlines()[number - 1 : number + 1])
    own_code = {"load_kwargs": {"trust_remote_code": True}}  # which may bring one
    assert planned(lambda config: change(config, **own_code)).problems == ()
    (tmp_path / "model" / "tokenizer_config.json").write_text('{"chat_template": "{{ messages }}"}')
    assert planned(change).problems == ()


def test_template_in_a_file_that_cannot_be_read_yet_is_not_said_to_be_missing(tmp_path):
    write_model(tmp_path / "model")
    (tmp_path / "model" / "tokenizer_config.json").write_bytes(bytes(64))  # as a large file of the hub is looked at
    assert read_chat_template(Model("hf", tmp_path / "model")) is None


def hub_cache(folder, monkeypatch, *removed):
    """A hub cache that holds one model."""
    monkeypatch.setenv("HF_HUB_CACHE", str(folder))
    root = folder / "models--some--model"
    snapshot = write_model(root / "snapshots" / "abc")
    for name in removed:
        (snapshot / name).unlink()
    (root / "refs").mkdir()
    (root / "refs" / "main").write_text("abc")
    return snapshot


def test_hub_model_in_the_cache_is_local(planned, tmp_path, monkeypatch):
    snapshot = hub_cache(tmp_path / "hub", monkeypatch)
    plan = planned(model_is("some/model"), offline=True)
    assert (plan.problems, plan.hub_name) == ((), None)
    assert plan.input_model.path == snapshot


@pytest.mark.usefixtures("online")
def test_half_of_a_hub_model_is_fetched_again(planned, only, tmp_path, monkeypatch):
    hub_cache(tmp_path / "hub", monkeypatch, "model.safetensors")
    only(planned(model_is("some/model"), offline=True), "network", "model_path")
    plan = planned(model_is("some/model"))
    assert (plan.problems, plan.hub_name) == ((), "some/model")


@pytest.mark.parametrize("template", ["{phrase", "no column", "{phrase.upper}"])
def test_template_that_does_not_hold_is_one_problem_at_its_line(planned, only, template):
    def change(config):
        config["data_configs"][0]["pre_process_data_config"]["text_template"] = template

    only(planned(change), "invalid-value", "text_template")


def test_data_file_that_is_not_there_is_named_at_its_line(planned, only, tmp_path):
    def change(config):
        config["data_configs"][0]["load_dataset_config"]["data_files"] = str(tmp_path / "rowz.jsonl")

    assert "rowz.jsonl" in only(planned(change), "missing-file", "data_files")


def test_empty_data_set(planned, only, tmp_path):
    (tmp_path / "none.jsonl").write_text("")

    def change(config):
        config["data_configs"][0]["load_dataset_config"]["data_files"] = str(tmp_path / "none.jsonl")

    (problem,) = planned(change).problems
    assert problem.kind == "missing-data"
    assert "empty" in problem.message


def test_target_that_the_text_does_not_have_names_the_nearest(planned, only):
    message = only(planned(lambda config: config.update(quality={"target": "tonne"})), "invalid-value", "target")
    assert "Did you mean 'tone'?" in message


@pytest.mark.parametrize("key", ["train_data_config", "eval_data_config"])
def test_data_config_of_a_pass_that_is_not_there(planned, only, key):
    message = only(planned(lambda config: config["passes"]["lora"].update({key: "rowz"})), "missing-data", key)
    assert "Did you mean 'rows'?" in message


def test_data_config_of_the_scores_that_is_not_there(planned, only):
    message = only(planned(lambda c: c.update(quality={"data_config": "rowz"})), "missing-data", "data_config")
    assert "Did you mean 'rows'?" in message


def test_system_that_is_not_defined(planned, only):
    change = systems_are(host={"device": "cpu"})
    message = only(planned(lambda config: (change(config), config.update(target="hots"))), "invalid-value", "target")
    assert "Did you mean 'host'?" in message


def test_no_pass_at_all(planned, only):
    only(planned(lambda config: config.update(passes={})), "invalid-value", '"passes"')


def test_gpu_as_host_is_a_demand_also_when_the_target_is_a_cpu(planned, only):
    change = systems_are(host={"device": "gpu"}, target={"device": "cpu"})
    assert "no NVIDIA GPU" in only(planned(change, probe=here(has_nvidia=False)), "hardware", '"systems"')


def test_gpu_without_a_torch_that_uses_it(planned, only):
    probe = here(has_nvidia=True, torch="2.13.0+cpu")
    plan = planned(probe=probe)
    assert (plan.machine.device, plan.problems) == ("cpu", ())
    assert "built for the CPU" in " ".join(plan.translated)
    change = systems_are(host={"device": "gpu"}, target={"device": "cpu"})
    assert "built for the CPU" in only(planned(change, probe=probe), "missing-extra", '"systems"')


def test_gpu_that_is_found_is_used_and_said_to_be(planned):
    plan = planned(probe=here(has_nvidia=True, torch="2.13.0"))
    assert plan.machine.device == "cuda"
    assert "NVIDIA GPU of this machine is used" in " ".join(plan.translated)


def test_old_list_of_providers_is_a_preference(planned):
    wish = {"device": "gpu", "execution_providers": ["CUDAExecutionProvider"], "preference": True}
    plan = planned(systems_are(host=wish), probe=here(has_nvidia=False))
    assert plan.problems == ()
    assert plan.machine.execution_provider == "CPUExecutionProvider"
    assert "so the CPU is used" in " ".join(plan.translated)


def test_target_that_is_not_here_is_planned_for_and_said(planned):
    plan = planned(systems_are(host={"device": "npu", "execution_providers": ["QNNExecutionProvider"]}))
    assert plan.problems == ()
    assert plan.machine.execution_provider == "CPUExecutionProvider"
    assert "'QNNExecutionProvider' is not on this machine" in " ".join(plan.translated)


def test_two_runtimes_at_once_are_named_with_the_fix(planned):
    (problem,) = planned(probe=here(has_nvidia=False, **{"onnxruntime-genai-cuda": "1.0"})).problems
    assert problem.kind == "missing-extra"
    assert "pip uninstall -y onnxruntime-genai onnxruntime-genai-cuda" in problem.fix


@pytest.mark.parametrize("version", ["4.57.1", "6.0.0", "4.99.dev0"])
def test_other_version_of_transformers_is_one_sentence_with_the_range(planned, version):
    (problem,) = planned(probe=here(has_nvidia=False, transformers=version)).problems
    assert problem.kind == "missing-extra"
    assert version in problem.message
    assert "transformers<6,>=5" in problem.fix


def test_pass_whose_package_is_not_installed(planned, only):
    probe = here(has_nvidia=False)
    lacking = replace(probe, modules=set(probe.modules) - {"onnxruntime_genai"})
    assert "pip install 'olivine[cpu]'" in only(planned(probe=lacking), "missing-extra", "ModelBuilder")


def test_disk_that_is_too_small(planned, only):
    small = replace(here(has_nvidia=False), disk_bytes=1000)
    assert "of disk are needed" in only(planned(probe=small), "hardware", "cache_dir")


@pytest.mark.parametrize("key", ["cache_dir", "output_dir"])
def test_folder_that_cannot_be_written_to(planned, only, monkeypatch, tmp_path, key):
    locked = tmp_path / "locked"
    locked.mkdir()
    real = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != locked and real(path, mode))
    assert "cannot be written to" in only(planned(lambda c: c.update({key: str(locked)})), "invalid-value", key)


@pytest.mark.parametrize("key", ["cache_dir", "output_dir"])
def test_folder_with_a_name_that_is_too_long(planned, only, key):
    assert "255" in only(planned(lambda c: c.update({key: "x" * 300})), "invalid-value", key)


def test_kinds_of_a_program_s_answer_are_the_closed_list(planned, tmp_path):
    def change(config):
        config |= {"nonsense": 1, "workflow_host": "far", "host": "nowhere"}
        config["input_model"]["model_path"] = "no/such/model"
        config["data_configs"][0]["load_dataset_config"]["data_files"] = str(tmp_path / "none.jsonl")
        config["passes"]["other"] = {"type": "Lorra"}
        config["passes"]["lora"]["eval_data_config"] = "rowz"

    problems = to_json(planned(change))["problems"]
    assert all(set(problem) == {"kind", "where", "message", "fix"} for problem in problems)
    kinds = [problem["kind"] for problem in problems]
    assert set(kinds) <= set(PROBLEM_KINDS)
    assert sorted(kinds) == sorted(
        ["unknown-key", "unsupported", "invalid-value", "missing-model", "missing-file", "unknown-pass", "missing-data"]
    )
    lines = [int(problem["where"].rpartition(":")[2]) for problem in problems]
    assert lines == sorted(lines)


@pytest.mark.parametrize("key", ["cache_dir", "output_dir"])
def test_folder_with_a_name_of_too_many_bytes(planned, only, key):
    assert "255 bytes" in only(planned(lambda c: c.update({key: "ä" * 200})), "invalid-value", key)


@pytest.fixture
def closed(tmp_path, monkeypatch):
    """A folder that this user may not look into."""
    folder = tmp_path / "closed"
    folder.mkdir()
    stat, access = Path.stat, os.access

    def refuse(path, **options):
        if folder in path.parents:
            raise PermissionError(13, "Permission denied", str(path))
        return stat(path, **options)

    monkeypatch.setattr(Path, "stat", refuse)
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != folder and access(path, mode))
    return folder


@pytest.mark.parametrize("key", ["cache_dir", "output_dir"])
def test_folder_below_a_closed_one_cannot_be_written_to(planned, only, closed, key):
    change = {key: str(closed / "below" / "that")}
    assert "cannot be written to" in only(planned(lambda c: c.update(change)), "invalid-value", key)


def test_model_in_a_closed_folder_is_told_to_be(planned, only, closed):
    message = only(planned(model_is(closed / "model")), "missing-model", "model_path")
    assert f"the folder '{closed}' cannot be read" in message


def test_damaged_index_of_the_weights_is_one_problem(planned, only, tmp_path):
    folder = write_model(tmp_path / "odd")
    (folder / "model.safetensors.index.json").write_text('{"weight_map": ')
    assert "model.safetensors.index.json is not JSON" in only(planned(model_is(folder)), "missing-model", "model_path")


PAGE = Path(__file__).parents[2] / "docs" / "errors.md"


def test_examples_of_the_page_on_errors_are_what_a_plan_says(planned, tmp_path):
    probe = here(has_nvidia=False)
    probe = replace(probe, modules=set(probe.modules) - {"onnxruntime_genai"})

    def names(config):
        systems_are(host={"device": "gpu", "execution_providers": ["CUDAExecutionProvider"]})(config)
        config["data_configs"][0]["load_dataset_config"]["data_files"] = "rowz.jsonl"
        config["passes"]["lora"] |= {"training_args": {"learning_rat": 1e-4}, "eval_data_config": "row"}
        config["passes"] |= {"again": {"type": "MergeAdapterWeight"}, "quantized": {"type": "SNPEConversion"}}
        config["input_model"]["model_path"] = "org/name"

    def order(config):
        config["passes"] = {"fp16": {"type": "OnnxFloatToFloat16"}, **config["passes"]}
        config["input_model"]["model_path"] = str(write_model(tmp_path / "cut"))
        weights = tmp_path / "cut" / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:-10])

    write_rows(tmp_path / "rows.jsonl")  # the nearest name of a file is looked for where the config lies
    problems = [*planned(names, offline=True, probe=probe).problems, *planned(order, probe=probe).problems]
    said = {(problem.kind, f"{problem.message} {problem.fix}") for problem in problems}
    examples = re.findall(r"^\| `([a-z-]+)` \| (.+) \|$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert len(examples) == len(PROBLEM_KINDS)
    for kind, example in examples:
        wanted = re.escape(example).replace(re.escape("..."), ".+")
        assert any(kind == other and re.search(wanted, text) for other, text in said), (example, said)


def preprocessed(**text):
    """Rows are made to samples like this."""
    return lambda config: config["data_configs"][0].update(pre_process_data_config=text)


@pytest.mark.parametrize("key", ["max_seq_len", "source_max_len", "target_max_len"])
def test_length_that_the_model_does_not_read_is_said_where_it_is_written_and_rows_are_cut(planned, tmp_path, key):
    plan = planned(preprocessed(strategy="pair", prompt_col="phrase", answer_col="tone", **{key: 257}))
    (told,) = [note for note in plan.translated if "is more than" in note]
    place, _, sentence = told.partition(": warning: ")
    assert f'"{key}"' in (tmp_path / "config.json").read_text().splitlines()[int(place.rpartition(":")[2]) - 1]
    assert sentence == f"{key} 257 is more than the 256 tokens that the model reads; rows are cut there"
    settings = plan.steps[0].data["rows"].pre_process_data_config
    lengths = [settings.source_max_len, settings.target_max_len]
    assert (sum(lengths) if key != "max_seq_len" else settings.max_seq_len) == 256
    fits = planned(preprocessed(strategy="pair", prompt_col="phrase", answer_col="tone", max_seq_len=256))
    assert "is more than" not in " ".join(fits.translated)


def test_prompt_and_target_that_do_not_fit_together_are_cut(planned):
    plan = planned(
        preprocessed(strategy="pair", source_max_len=200, target_max_len=100, prompt_col="phrase", answer_col="tone")
    )
    settings = plan.steps[0].data["rows"].pre_process_data_config
    assert (settings.source_max_len, settings.target_max_len) == (128, 100)
    assert "together more than the 256 tokens that the model reads" in " ".join(plan.translated)


def test_length_that_nobody_wrote_is_that_of_the_model(planned):
    plan = planned(preprocessed(text_template="{phrase}: {tone}"))
    assert plan.problems == ()
    assert plan.steps[0].data["rows"].pre_process_data_config.max_seq_len == 256
    assert "rows of 'rows' that are longer than the 256 tokens that the model reads are cut there" in plan.translated


def test_form_of_the_rows_is_decided_once_for_every_step_and_score(planned, tmp_path):
    folder = write_model(tmp_path / "chat")
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    turns = preprocessed(prompt_col="phrase", answer_col="tone")

    def change(config):
        turns(config)
        config["input_model"]["model_path"] = str(folder)
        config["quality"] = {"data_config": "rows"}

    plan = planned(change)
    for config in (plan.steps[0].data["rows"], plan.score.data):
        assert config.pre_process_data_config.chat_template is True
    assert "it should predict the last turn of the assistant" in " ".join(plan.translated)
    assert planned(turns).steps[0].data["rows"].pre_process_data_config.chat_template is False


def test_strategy_that_there_is_not_is_told_at_its_line_whether_its_rows_are_used_or_not(planned, only):
    def change(config, *, unused=False):
        config["data_configs"] += [{**config["data_configs"][0], "name": "others"}]
        settings = dict(config["data_configs"][0]["pre_process_data_config"], strategy="lin-by-line")
        config["data_configs"][unused]["pre_process_data_config"] = settings

    message = only(planned(change), "invalid-value", '"strategy": "lin-by-line"')
    assert "it must be join, join-random, join-sliding-window, line-by-line, line-by-line-random, pair" in message
    assert "Did you mean 'line-by-line'?" in message
    only(planned(lambda config: change(config, unused=True)), "invalid-value", '"strategy": "lin-by-line"')
