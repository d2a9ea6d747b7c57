"""What users must be able to rely on, seen on one real run of the main job from the command line."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import onnx
import onnxruntime
import onnxruntime_genai
import pytest

from olivine.config.schema import DataConfig
from olivine.models import Model
from olivine.models.loading import load_causal_lm, load_tokenizer
from olivine.passes import Context, Machine, passes
from reports import Told
from tiny import tiny_model, write_rows

MACHINE = Machine("cpu", "CPUExecutionProvider", 8 * 10**9, 10**12, 2)
N_ROWS, N_HELD_OUT = 160, 40
# Every process of a run imports this module by itself: whoever looks up or calls another machine leaves its name here.
SPY = """
import os, socket
def _told(name, real):
    def call(*arguments, **more):
        with open(os.environ["CALLS"], "a") as file:
            file.write(f"{name} {arguments[-1]}\\n")
        return real(*arguments, **more)
    return call
socket.getaddrinfo = _told("getaddrinfo", socket.getaddrinfo)
class _Socket(socket.socket):
    def connect(self, address):
        if self.family != getattr(socket, "AF_UNIX", None):
            _told("connect", lambda *_: None)(address)
        return super().connect(address)
socket.socket = _Socket
"""


def command(folder, *arguments):
    """The result of `olivine ...` as a user calls it, in `folder`."""
    (folder / "spy").mkdir(exist_ok=True)
    (folder / "spy" / "sitecustomize.py").write_text(SPY)
    paths = [str(folder / "spy"), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths), "CALLS": str(folder / "calls")}
    environment.pop("HF_HUB_OFFLINE")
    line = [sys.executable, "-m", "olivine", *map(str, arguments)]
    return subprocess.run(line, cwd=folder, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """A folder in which a tiny Phi-3 was taught a closed-form task, merged, and built in int4."""
    folder = tmp_path_factory.mktemp("acceptance")
    tiny_model(folder / "model", "phi3")
    write_rows(folder / "train.jsonl", N_ROWS)
    text = {
        "text_template": "{phrase} is {tone}",
        "train_on": "completion",
        "strategy": "line-by-line",
        "max_seq_len": 64,
    }
    training = {
        "max_steps": 120,
        "per_device_train_batch_size": 8,
        "gradient_accumulation_steps": 1,
        "learning_rate": 0.01,
    }
    step = {"type": "LoRA", "train_data_config": "rows", "eval_dataset_size": N_HELD_OUT, "training_args": training}
    config = {
        "input_model": {"type": "HfModel", "model_path": "model"},
        "data_configs": [
            {"name": "rows", "load_dataset_config": {"data_files": "train.jsonl"}, "pre_process_data_config": text}
        ],
        "passes": {"lora": step, "merge": {"type": "MergeAdapterWeights"}, "builder": {"type": "ModelBuilder"}},
        "quality": {"max_drop": "3pp"},
        "cache_dir": "cache",
        "output_dir": "out",
    }
    (folder / "config.json").write_text(json.dumps(config, indent=1))
    ran = command(folder, "run", "--config", "config.json", "--offline", "--json")
    assert ran.returncode == 0, ran.stderr
    return folder, json.loads(ran.stdout)


def test_every_seam_keeps_what_the_adapter_learned(done):
    _, result = done
    scores = {row["model"]: row for row in result["scores"]}
    assert scores["base"]["label_accuracy"] < 0.5
    for name in ("lora", "merge", "builder"):
        assert scores[name]["label_accuracy"] >= 0.95, scores
        assert scores[name]["n_rows"] == N_HELD_OUT
    assert scores["merge"]["kl"] < 1e-3


def test_merged_logits_are_those_of_base_and_adapter(done):
    folder, _ = done
    adapter = Model("adapter", folder / "out" / "adapter", base=Model("hf", folder / "model"))
    context = Context(folder / "merged", folder / "scratch", MACHINE, Told())
    for place in (context.output, context.scratch):
        place.mkdir()
    merge = passes.classes["merge"]
    merged = merge(merge.Params()).run(adapter, context)
    ids = load_tokenizer(merged)("day 7 was grey is sadness", add_special_tokens=False, return_tensors="pt").input_ids
    assert (load_causal_lm(merged)(ids).logits - load_causal_lm(adapter)(ids).logits).abs().max() <= 1e-3


def test_built_model_ends_its_answers(done):
    folder, _ = done
    model = onnxruntime_genai.Model(str(folder / "out" / "model"))
    tokenizer = onnxruntime_genai.Tokenizer(model)
    n_ended = 0
    for index in range(100):
        word = ("sunny", "grey", "dark", "odd")[index % 4]
        params = onnxruntime_genai.GeneratorParams(model)
        params.set_search_options(max_length=64, do_sample=False)
        generator = onnxruntime_genai.Generator(model, params)
        generator.append_tokens(tokenizer.encode(f"day {index} was {word} is"))
        while not generator.is_done():
            generator.generate_next_token()
        n_ended += (
            len(generator.get_sequence(0)) < 64
        )  # it stopped by itself; the end token is not part of the sequence
    assert n_ended >= 99


def test_graph_is_valid_and_every_weight_lies_in_the_folder(done, tmp_path):
    moved = tmp_path / "elsewhere"
    shutil.copytree(done[0] / "out" / "model", moved)
    graph = onnx.load(str(moved / "model.onnx"), load_external_data=False)
    onnxruntime.InferenceSession(str(moved / "model.onnx"))  # onnx.checker knows none of onnxruntime's own operators
    assert graph.ByteSize() < 200_000  # whatever the size of the model, its weights are not in the 2 GB of a protobuf
    for one in graph.graph.initializer:
        place = {entry.key: entry.value for entry in one.external_data}
        if place:
            assert Path(place["location"]).name == place["location"]
            n_bytes = (moved / place["location"]).stat().st_size
            assert int(place.get("offset", 0)) + int(place["length"]) <= n_bytes
    assert any(one.external_data for one in graph.graph.initializer)


def test_failed_step_is_told_to_a_program_and_leaves_the_last_model_whole(done):
    folder, _ = done
    before = {file.name: file.read_bytes() for file in (folder / "out" / "model").iterdir()}
    rate = "passes.lora.training_args.learning_rate=1e30"
    failed = command(folder, "run", "--config", "config.json", "--offline", "--json", "--set", rate)
    assert failed.returncode == 1
    said = json.loads(failed.stdout)
    assert (said["status"], said["step"]) == ("failed", "lora")
    assert "lower training_args.learning_rate" in said["cause"]
    assert Path(said["log"]).is_file()
    assert "Traceback" not in failed.stderr
    assert {file.name: file.read_bytes() for file in (folder / "out" / "model").iterdir()} == before
    again = command(folder, "run", "--config", "config.json", "--offline", "--json")
    assert all(step["cached"] for step in json.loads(again.stdout)["steps"])


def test_flag_that_would_share_an_untied_head_is_an_error_and_not_gibberish(done):
    folder, _ = done
    flag = "passes.builder.extra_options.shared_embeddings=true"
    refused = command(folder, "run", "--config", "config.json", "--offline", "--set", flag)
    assert refused.returncode == 2
    assert "this model has a head of its own" in refused.stderr + refused.stdout


def states(folder, *arguments):
    planned = command(folder, "plan", "--config", "config.json", "--offline", "--json", *arguments)
    return [step["cached"] for step in json.loads(planned.stdout)["steps"]]


def test_changed_quantizer_reuses_the_rest_and_a_changed_row_nothing(done):
    folder, _ = done
    assert states(folder) == [True, True, True]
    assert states(folder, "--set", "passes.builder.int4_block_size=16") == [True, True, False]
    rows = folder / "train.jsonl"
    before = rows.read_text()
    rows.write_text(before.replace("day 3 was odd", "day 3 was very odd"))
    assert states(folder) == [False, False, False]
    rows.write_text(before)
    assert states(folder) == [True, True, True]


def test_no_process_of_an_offline_run_calls_another_machine(done):
    folder, _ = done
    calls = folder / "calls"
    assert not calls.exists(), calls.read_text()
    command(folder, "doctor")
    environment = os.environ | {"PYTHONPATH": str(folder / "spy"), "CALLS": str(calls)}
    line = [sys.executable, "-c", "import socket; socket.getaddrinfo('localhost', 80)"]
    subprocess.run(line, env=environment, check=True)
    assert calls.read_text().startswith("getaddrinfo ")  # the spy would have told
    calls.unlink()


@pytest.mark.parametrize(
    ("architecture", "modules"),
    [
        ("phi3", {"qkv_proj", "o_proj", "gate_up_proj", "down_proj"}),
        *(
            (name, {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"})
            for name in ("llama", "qwen2", "qwen3", "gemma")
        ),
    ],
)
def test_attention_and_mlp_are_trained_by_default(architecture, modules, tmp_path):
    plugin = passes.classes["lora"]
    folder = tiny_model(tmp_path / "model", architecture)
    rows = write_rows(tmp_path / "rows.jsonl", 8)
    config = DataConfig.model_validate(
        {
            "name": "rows",
            "load_dataset_config": {"data_files": str(rows)},
            "pre_process_data_config": {"text_template": "{phrase} is {tone}", "strategy": "line-by-line"},
        }
    )
    context = Context(tmp_path / "output", tmp_path / "scratch", MACHINE, Told(), {"rows": config})
    for place in (context.output, context.scratch):
        place.mkdir()
    params = plugin.Params(train_data_config="rows", training_args={"max_steps": 2, "learning_rate": 0.01})
    adapter = plugin(params).run(Model("hf", folder), context)
    assert set(json.loads((adapter.path / "adapter_config.json").read_text())["target_modules"]) == modules
    assert context.report.facts["n_trained_parameters"] > 0
