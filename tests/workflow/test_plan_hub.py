"""A model that is still on the hub is checked by its config and the headers of its weights, before and after it came."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from fake_hub import GATED, fake_hub
from tiny import tiny_model, write_rows


@pytest.fixture
def hub(tiny_llama, tiny_tied):
    with fake_hub(some__llama=tiny_llama, some__tied=tiny_tied) as server:
        yield server


@pytest.fixture
def olivine(hub, tmp_path):
    """Run a command on a config for a model of the hub, in a process with an empty cache of the hub."""

    def run(command, model, change=lambda config: None, **environment):
        rows = write_rows(tmp_path / "rows.jsonl")
        config = {
            "input_model": {"type": "HfModel", "model_path": model},
            "data_configs": [
                {
                    "name": "rows",
                    "load_dataset_config": {"data_name": "json", "data_files": str(rows)},
                    "pre_process_data_config": {"text_template": "{phrase}: {tone}", "max_seq_len": 32},
                }
            ],
            "passes": {"builder": {"type": "ModelBuilder", "precision": "int4", "int4_algo_config": "default"}},
            "cache_dir": str(tmp_path / "cache"),
            "output_dir": str(tmp_path / "out"),
        }
        change(config)
        (tmp_path / "config.json").write_text(json.dumps(config, indent=1))
        told = os.environ | {"HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": "0", "HF_HOME": str(tmp_path / "home")}
        told |= {"HF_HUB_DISABLE_TELEMETRY": "1", **environment}
        line = [sys.executable, "-m", "olivine", *command.split(), "--config", str(tmp_path / "config.json"), "--json"]
        done = subprocess.run(line, capture_output=True, text=True, check=False, env=told, timeout=300)
        return done.returncode, json.loads(done.stdout), done.stderr

    return run


def test_model_on_the_hub_is_planned_with_its_own_facts(olivine, hub, tiny_llama, tmp_path):
    code, plan, _ = olivine("plan", "some/llama")
    assert (code, plan["problems"]) == (0, [])
    size = sum(file.stat().st_size for file in tiny_llama.iterdir())
    assert 0.9 * size < plan["estimate"]["download_bytes"] <= size
    assert plan["estimate"]["n_parameters"] > 50_000
    assert not (tmp_path / "home" / "hub").exists()  # it was looked at and not fetched


def test_the_export_of_a_model_on_the_hub_is_proven_by_its_config_alone(olivine, tmp_path):
    code, plan, error = olivine("plan --prove", "some/llama")
    assert code == 0, error
    assert "up to 256 tokens" in plan["proof"]["proven"][0]
    assert not (tmp_path / "home" / "hub").exists()


def test_numbers_of_the_weights_stay_on_the_hub(tmp_path):
    from olivine.models import hub as looked

    large = tiny_model(tmp_path / "large", "llama", hidden_size=512, intermediate_size=2048)
    with fake_hub(some__large=large) as server:
        script = (
            "import sys; from pathlib import Path; from olivine.models.hub import sketch; "
            "print(sketch('some/large', None, Path(sys.argv[1]), trusted=False))"
        )
        told = os.environ | {"HF_ENDPOINT": server.url, "HF_HUB_OFFLINE": "0"}
        done = subprocess.run(
            [sys.executable, "-c", script, str(tmp_path / "sketch")],
            env=told,
            capture_output=True,
            text=True,
            check=True,
        )
        weights = (large / "model.safetensors").stat().st_size
        assert int(done.stdout) > weights > looked.SMALL_BYTES * 10
        assert server.n_sent < looked.SMALL_BYTES
        assert {path for path in server.asked if "some/large" not in path} == set()  # nobody is told who asks
    drawn = tmp_path / "sketch" / "model.safetensors"
    assert drawn.stat().st_size == weights
    assert drawn.read_bytes()[:1000] == (large / "model.safetensors").read_bytes()[:1000]


@pytest.mark.parametrize(
    ("model", "changes", "said"),
    [
        ("some/llama", {"extra_options": {"shared_embeddings": True}}, "this model has a head of its own"),
        ("some/tied", {"extra_options": {"shared_embeddings": True}}, ""),
        ("some/llama", {"int4_block_size": 128}, "does not divide the model's hidden_size 64"),
        ("some/none", {}, "the hub has no model 'some/none'"),
        (GATED, {}, "is gated"),
    ],
)
def test_what_is_wrong_with_a_model_of_the_hub_is_told_before_it_is_fetched(olivine, tmp_path, model, changes, said):
    code, plan, _ = olivine("plan", model, lambda config: config["passes"]["builder"].update(changes))
    told = [problem["message"] for problem in plan["problems"]]
    assert code == (2 if said else 0), told
    assert [said in message for message in told] == [True] * bool(said), told
    assert not any(str(Path("olivine-plan-")) in message for message in told)


def test_revision_that_is_not_there_is_told(olivine):
    change = {"load_kwargs": {"revision": "v9"}}
    _, plan, _ = olivine("plan", "some/llama", lambda config: config["input_model"].update(change))
    assert ["at revision 'v9'" in problem["message"] for problem in plan["problems"]] == [True]


def test_hub_that_gives_no_answer_is_a_network_problem(olivine):
    code, plan, _ = olivine("plan", "some/llama", HF_ENDPOINT="http://127.0.0.1:9")
    assert (code, [problem["kind"] for problem in plan["problems"]]) == (2, ["network"])


@pytest.mark.parametrize("answer", [(200, b"<html>log in</html>"), (500, b""), (200, b'{"siblings": 3}')])
def test_answer_that_is_none_of_the_hub_s_is_a_network_problem(olivine, hub, monkeypatch, answer):
    monkeypatch.setattr(hub, "answer", answer)
    code, plan, error = olivine("plan", "some/llama")
    assert (code, [problem["kind"] for problem in plan["problems"]]) == (2, ["network"]), error


def test_header_that_says_nonsense_is_a_damaged_model(olivine, hub, tmp_path, tiny_llama):
    damaged = tmp_path / "damaged"
    shutil.copytree(tiny_llama, damaged)
    weights = damaged / "model.safetensors"
    weights.write_bytes((2**60).to_bytes(8, "little") + weights.read_bytes()[8:])
    hub.models["some/damaged"] = damaged
    code, plan, _ = olivine("plan", "some/damaged")
    assert (code, [problem["kind"] for problem in plan["problems"]]) == (2, ["missing-model"])


def test_model_that_changed_on_its_way_is_checked_again(olivine, hub, tiny_llama, tmp_path):
    """The copy that comes is not the one that was planned: nothing runs on it, and nothing is delivered."""
    other = tmp_path / "other"
    shutil.copytree(tiny_llama, other)
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps(config | {"architectures": ["MambaForCausalLM"]}))
    # the files of the plan are those of the good copy, those of the fetch of the other
    seen = hub.models["some/llama"]

    n_files = len(list(seen.iterdir()))

    class Turning(dict):
        def __getitem__(self, name):
            fetches = sum("/resolve/" in path for path in hub.asked) > n_files
            return other if fetches else seen

        def get(self, name, default=None):
            return self[name]

    hub.models = Turning(hub.models)
    code, result, error = olivine("run", "some/llama")
    assert code == 1, error
    assert "'MambaForCausalLM' cannot be exported" in result["error"]
    assert not (tmp_path / "out" / "model").exists()
