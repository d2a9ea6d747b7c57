"""Nothing is sent home, and nothing is left in HOME: by no process of ours, without a CI that hides it."""

import json
import os
import subprocess
import sys

import pytest

from tiny import write_rows

# onnxruntime is silent by itself where it sees one of these
HIDING = ("CI", "TF_BUILD", "GITHUB_ACTIONS", "GITLAB_CI", "CIRCLECI", "ORT_DISABLE_TELEMETRY", "XDG_CACHE_HOME")


@pytest.fixture
def at_home(tmp_path):
    """Run the program with a HOME of its own, as on a user's machine."""
    home = tmp_path / "home"
    home.mkdir()
    environment = {name: value for name, value in os.environ.items() if name not in HIDING} | {"HOME": str(home)}

    def call(*arguments):
        command = [sys.executable, *map(str, arguments)]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)

    call.left = lambda: [str(path.relative_to(home)) for path in home.rglob("*") if path.is_file()]
    return call


@pytest.mark.slow
def test_run_doctor_and_chat_leave_no_device_id_and_no_events_in_home(at_home, tiny_llama, tmp_path):
    config = {
        "input_model": {"type": "HfModel", "model_path": str(tiny_llama)},
        "data_configs": [
            {
                "name": "rows",
                "load_dataset_config": {"data_files": str(write_rows(tmp_path / "rows.jsonl", 4))},
                "pre_process_data_config": {"text_template": "{phrase}: {tone}"},
            }
        ],
        "passes": {"builder": {"type": "ModelBuilder", "precision": "int4"}},
        "quality": {"data_config": "rows"},
        "cache_dir": str(tmp_path / "cache"),
        "output_dir": str(tmp_path / "out"),
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    done = at_home("-m", "olivine", "run", "--config", tmp_path / "config.json")
    assert done.returncode == 0, done.stderr
    at_home("-m", "olivine", "doctor")
    answer = at_home("-m", "olivine", "chat", tmp_path / "out" / "model", "--raw", "-p", "joy", "--max-new-tokens", "2")
    assert answer.returncode == 0, answer.stderr
    assert not [name for name in at_home.left() if "Microsoft" in name or "deviceid" in name.lower()]


def test_switches_are_set_by_importing_the_package_and_a_users_own_win(monkeypatch):
    code = "import os, olivine; print(os.environ['ORT_DISABLE_TELEMETRY'], os.environ['HF_HUB_DISABLE_TELEMETRY'])"
    monkeypatch.delenv("ORT_DISABLE_TELEMETRY", raising=False)
    monkeypatch.setenv("HF_HUB_DISABLE_TELEMETRY", "mine")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["1", "mine"]
