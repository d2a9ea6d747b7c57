"""olivine push, to a hub on this machine that speaks the real one's protocol."""

import json
import os
import subprocess
import sys

import pytest

import journals
from fake_hub import COMMIT, fake_hub
from olivine.report.handover import hand_over


@pytest.fixture
def out(tmp_path):
    """An output folder with all that a run leaves in one."""
    folder = tmp_path / "tone"
    journals.write(folder, journals.ordinary(folder))
    for name, content in (
        ("model/genai_config.json", "{}"),
        ("model/model.onnx.data", "w" * 5000),
        ("logs/lora.log", "x"),
    ):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(content)
    (folder / "workflow.json").write_text("{}")
    (folder / "model" / ".cache").write_text("none of theirs")
    hand_over(folder, lambda _: None)
    return folder


@pytest.fixture
def push(tmp_path):
    def push(hub, *arguments, token="hf_known", **more):
        told = os.environ | {"HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1", "HF_HOME": str(tmp_path / "home")}
        told |= {"HF_ENDPOINT": hub, "HF_TOKEN": token, **more}
        command = [sys.executable, "-m", "olivine", "push", *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, check=False, env=told)

    return push


OWN = {"README.md", "run.py", "metrics.json", "model/genai_config.json", "model/model.onnx.data"}


def test_model_and_what_lies_beside_it_are_uploaded_without_rows_and_paths(out, push):
    with fake_hub() as hub:
        done = push(hub.url, out, "someone/tone", "--private", "--json")
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout) == {"commit": f"{hub.url}/someone/tone/commit/{COMMIT}"}
        files = hub.pushed["someone/tone", "main"]
    assert files.keys() == OWN
    assert files["model/model.onnx.data"] == b"w" * 5000
    assert files["README.md"] == (out / "README.md").read_bytes()
    assert hub.created == {"someone/tone": True}
    assert "hf_known" not in done.stdout + done.stderr


def test_report_and_config_go_along_when_asked_for_and_to_a_branch(out, push):
    with fake_hub() as hub:
        done = push(hub.url, out, "someone/tone", "--with-run", "--branch", "next")
        assert done.returncode == 0, done.stderr
        assert hub.pushed["someone/tone", "next"].keys() == OWN | {"report.html", "workflow.json"}
    assert done.stdout == f"{hub.url}/someone/tone/commit/{COMMIT}\n"


def test_user_who_may_not_write_is_told_which_token_is_missing(out, push):
    with fake_hub() as hub:
        done = push(hub.url, out, "someone/tone", token="hf_unknown")
    assert done.returncode == 1
    assert "does not let this user write to 'someone/tone': set HF_TOKEN" in done.stderr.replace("\n    ", " ")
    assert "Traceback" not in done.stderr


def test_hub_that_refuses_or_is_away_is_told_in_a_sentence(out, push):
    with fake_hub() as hub:
        hub.answer = (400, b'{"error": "no room"}')
        done = push(hub.url, out, "someone/tone")
    assert done.returncode == 1
    assert "refuses the upload to 'someone/tone' (400)" in done.stderr
    away = push("http://127.0.0.1:9", out, "someone/tone")
    assert away.returncode == 1
    assert "Traceback" not in done.stderr + away.stderr
    assert "someone/tone" in away.stderr


@pytest.mark.parametrize(
    ("folder", "name", "offline", "says"),
    [
        (".", "tone", "0", "is no name of a repository; write it as USER/NAME"),
        ("model", "a/b", "0", "holds no 'model' to push; name the output_dir of a run"),
        ("nowhere", "a/b", "0", "as there is no such folder"),
        (".", "a/b", "1", "HF_HUB_OFFLINE keeps the network off"),
    ],
)
def test_what_cannot_be_pushed_is_refused_before_anything_is_sent(folder, name, offline, says, out, push):
    with fake_hub() as hub:
        done = push(hub.url, out / folder, name, HF_HUB_OFFLINE=offline)
        assert hub.asked == []
    assert done.returncode == 2
    assert says in " ".join(done.stderr.split())
