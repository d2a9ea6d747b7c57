"""The program as a process: signals, pipes that close, what it prints for programs."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from olivine.cli import exit_code
from olivine.workflow.journal import read_journal

OLIVINE = [sys.executable, "-m", "olivine"]


@pytest.fixture
def hanging(fakes, tiny_llama, tmp_path):
    """A config whose one pass hangs until it is ended, and the file with the id of its process."""
    pid_file = tmp_path / "pid"
    config = {
        "input_model": {"type": "HfModel", "model_path": str(tiny_llama)},
        "passes": {"hanging": {"type": "fail", "how": "hang", "pid_file": str(pid_file)}},
        "quality": {"enabled": False},
        "cache_dir": str(tmp_path / "cache"),
        "output_dir": str(tmp_path / "out"),
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    return tmp_path / "config.json", pid_file


@pytest.mark.skipif(os.name != "posix", reason="sends signals")
@pytest.mark.parametrize(("name", "code"), [("SIGTERM", 143), ("SIGHUP", 129), ("SIGINT", 130)])
def test_signal_ends_a_run_in_order(hanging, tmp_path, name, code):
    """As docker stop and a closed terminal send them; the second of two does not cut the tidying up in two."""
    config, pid_file = hanging
    process = subprocess.Popen([*OLIVINE, "run", "--config", config], stderr=subprocess.PIPE, text=True)
    give_up = time.monotonic() + 60
    while not pid_file.exists():
        assert process.poll() is None
        assert time.monotonic() < give_up
        time.sleep(0.02)
    for _ in range(2):
        process.send_signal(getattr(signal, name))
    _, errors = process.communicate(timeout=300)
    assert process.returncode == code
    said = errors.splitlines()[-1]
    assert "in step 'hanging'; finished steps are kept" in said
    assert (name in said) == (name != "SIGINT")
    assert "Traceback" not in errors
    assert not psutil.pid_exists(int(pid_file.read_text()))
    assert read_journal(tmp_path / "out")[-1].kind == "run_interrupted"
    assert not list((tmp_path / "cache" / "locks").glob("run-*"))


@pytest.mark.skipif(os.name != "posix", reason="as a shell does")
@pytest.mark.parametrize(("command", "code"), [("passes", 0), ("schema", 0), ("plan --config missing.json --json", 2)])
def test_reader_that_goes_away_does_not_change_the_exit_code(tmp_path, command, code):
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [*OLIVINE, *command.split()], stdout=write, stderr=subprocess.PIPE, text=True, cwd=tmp_path, check=False
    )
    os.close(write)
    assert done.returncode == code
    assert "Traceback" not in done.stderr
    assert "Broken" not in done.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is full")
def test_output_that_cannot_be_written_is_one_sentence():
    with Path("/dev/full").open("w") as full:
        done = subprocess.run([*OLIVINE, "schema"], stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.splitlines() == ["olivine: No space left on device: standard output"]


@pytest.mark.parametrize("command", ["plan", "run"])
@pytest.mark.parametrize("text", [None, "{", '{"passes": 1}', "[1]"])
def test_config_that_does_not_read_is_told_as_json_too(tmp_path, capsys, command, text):
    path = tmp_path / "config.json"
    if text is not None:
        path.write_text(text)
    assert exit_code([command, "--config", str(path), "--json"]) == 2
    told = json.loads(capsys.readouterr().out)
    assert told["problems"]
    assert all(set(problem) == {"kind", "where", "message", "fix"} for problem in told["problems"])


def test_printed_json_is_strict_and_keeps_secrets(capsys, monkeypatch):
    from olivine.cli._common import print_json

    monkeypatch.setenv("SOME_TOKEN", "hunter2hunter2")
    print_json({"kl": float("nan"), "x": [float("inf")], "hf_token": "abc", "s": "a hunter2hunter2", "t": "\ud800é"})
    told = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    assert told == {"kl": None, "x": [None], "hf_token": "(hidden)", "s": "a (hidden)", "t": "\ud800é"}


def test_name_that_no_file_system_takes_is_one_sentence(tmp_path, capsys):
    for name in ("x" * 300, "x/" * 3000):
        assert exit_code(["plan", "--config", name]) == 2
        assert exit_code(["chat", name]) == 2
        assert exit_code(["parity", name, name]) == 2
    assert "Traceback" not in capsys.readouterr().err
