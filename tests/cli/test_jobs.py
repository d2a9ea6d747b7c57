"""Runs that are left to themselves are found again, followed, gone on with and ended."""

import json
import shutil
import time

import psutil
import pytest

from olivine.cli import exit_code
from olivine.workflow.detached import all_runs, find


@pytest.fixture
def config(tmp_path, tiny_llama, monkeypatch):
    """Write a config of one quick step; detached runs are kept in a folder of the test."""
    monkeypatch.setenv("OLIVINE_STATE", str(tmp_path / "state"))

    def write(model=tiny_llama):
        said = {
            "input_model": {"type": "HfModel", "model_path": str(model)},
            "passes": {"small": {"type": "rtn", "group_size": 16}},
            "quality": {"enabled": False},
            "cache_dir": str(tmp_path / "cache"),
            "output_dir": str(tmp_path / "out"),
        }
        (tmp_path / "config.json").write_text(json.dumps(said))
        return str(tmp_path / "config.json")

    yield write
    for run in all_runs():
        if run.is_at_work:
            psutil.Process(run.pid).kill()


def _until(holds):
    until = time.monotonic() + 240
    while not holds():
        assert time.monotonic() < until
        time.sleep(0.1)


@pytest.mark.slow
def test_detached_run_is_followed_to_its_end_and_its_result_fetched(config, tmp_path, capsys):
    assert exit_code(["run", config(), "--detach"]) == 0
    run = find(None)
    assert f"olivine jobs attach {run.identity}" in capsys.readouterr().out
    assert exit_code(["jobs", "attach"]) == 0
    told = capsys.readouterr()
    assert f"model: {tmp_path / 'out' / 'model'}" in told.out
    assert "small" in told.err
    assert exit_code(["jobs", "ls", "--json"]) == 0
    (record,) = json.loads(capsys.readouterr().out)
    assert (record["identity"], record["state"], record["exit_code"]) == (run.identity, "done", 0)
    assert exit_code(["jobs", "fetch", run.identity[:8], "--to", str(tmp_path / "fetched")]) == 0
    assert (tmp_path / "fetched" / "config.json").is_file()
    assert exit_code(["jobs", "fetch", "--to", str(tmp_path / "fetched")]) == 2
    assert exit_code(["jobs", "cancel"]) == 2


def test_detached_run_that_ended_leaves_no_zombie_in_the_process_that_began_it(config, tmp_path):
    assert exit_code(["run", config(), "--detach"]) == 0
    run = find(None)
    psutil.Process(run.pid).kill()
    _until(lambda: not psutil.pid_exists(run.pid))


@pytest.mark.slow
def test_run_that_was_lost_with_its_machine_goes_on(config, tmp_path, capsys):
    exit_code(["run", config(), "--detach"])
    run = find(None)
    psutil.Process(run.pid).kill()
    _until(lambda: find(None).state == "lost")
    assert exit_code(["jobs", "fetch"]) == 1
    assert "is lost and has no result to fetch" in capsys.readouterr().err
    assert exit_code(["jobs", "attach"]) == 0
    assert (tmp_path / "out" / "model" / "config.json").is_file()
    assert len(all_runs()) == 1


def test_failure_of_a_detached_run_is_that_of_attach(config, tmp_path, tiny_llama, capsys):
    model = tmp_path / "model"
    shutil.copytree(tiny_llama, model)
    exit_code(["run", config(model), "--detach"])
    run = find(None)
    shutil.rmtree(model)
    assert exit_code(["jobs", "attach"]) in (1, 2)
    assert find(None).state in ("failed", "refused")
    capsys.readouterr()
    assert exit_code(["jobs", "logs", run.identity]) == 0
    assert "does not exist" in capsys.readouterr().err


def test_cancelled_run_has_ended_with_all_that_it_started(config, capsys):
    exit_code(["run", config(), "--detach"])
    run = find(None)
    _until(lambda: not run.is_at_work or run.screen.stat().st_size)
    started = psutil.Process(run.pid).children(recursive=True) if run.is_at_work else []
    code = exit_code(["jobs", "cancel", run.identity])
    assert (code, find(None).state) in ((0, "interrupted"), (2, "done"), (0, "done"))
    assert not [child for child in started if child.is_running() and child.status() != psutil.STATUS_ZOMBIE]


def test_wrong_config_is_refused_before_anything_is_detached(config, tmp_path):
    assert exit_code(["run", config(tmp_path / "none"), "--detach"]) == 2
    assert all_runs() == []


def test_system_that_is_not_defined_is_refused(config, capsys):
    assert exit_code(["run", config(), "--on", "nowhere"]) == 2
    assert "host names the system 'nowhere', which is not defined" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["ls", "logs", "attach", "fetch", "cancel"])
def test_without_runs_every_command_says_so(config, capsys, name):
    config()
    assert exit_code(["jobs", name]) == (0 if name == "ls" else 2)
    assert "no run was detached" in (said := capsys.readouterr().err) or "there is no detached run" in said


def test_id_that_is_none_or_several_is_named(config, tmp_path, capsys):
    config()
    for name in ("20260101-000000-aaaa", "20260101-000000-aabb"):
        record = {"identity": name, "command": [], "folder": ".", "host": None, "output_dir": "o", "started": 0.0}
        (tmp_path / "state" / name).mkdir(parents=True)
        (tmp_path / "state" / name / "run.json").write_text(json.dumps(record))
    assert exit_code(["jobs", "fetch", "20260101-000000-aa"]) == 2
    assert "is the beginning of 20260101-000000-aaaa, 20260101-000000-aabb" in capsys.readouterr().err
    assert exit_code(["jobs", "fetch", "2027"]) == 2
    assert "there is no detached run '2027'" in capsys.readouterr().err
