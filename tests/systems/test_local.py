import os
import signal
from pathlib import Path

import psutil
import pytest

from olivine.errors import StepFailed
from olivine.messages import ending
from olivine.systems import SystemParams
from olivine.systems.local import Local


def _ignore(event, fields):
    pass


def test_worker_stays_warm_between_jobs(job, tmp_path):
    pids = tmp_path / "pids"
    with Local(SystemParams()).worker() as worker:
        for _ in range(2):
            worker.run(job("write", counter=str(pids)), _ignore)
    first, second = pids.read_text().split()
    assert first == second
    assert not psutil.pid_exists(int(first))


def test_job_after_a_crash_gets_a_new_worker(job):
    with Local(SystemParams()).worker() as worker:
        with pytest.raises(StepFailed, match=r"step 'step0' failed: its worker crashed \(SIGSEGV\)"):
            worker.run(job("fail", how="segfault"), _ignore)
        assert worker.run(job("write"), _ignore)["model"]["format"] == "hf"


def test_crash_in_native_code_leaves_the_python_stack_in_the_log(job):
    crashing = job("fail", how="segfault")
    with Local(SystemParams()).worker() as worker, pytest.raises(StepFailed):
        worker.run(crashing, _ignore)
    assert "in _segfault" in Path(crashing.log).read_text()


def test_job_after_memory_ran_out_gets_a_new_worker(job, tmp_path):
    pids = tmp_path / "pids"
    with Local(SystemParams()).worker() as worker:
        worker.run(job("write", counter=str(pids)), _ignore)
        with pytest.raises(StepFailed, match="out of memory: MemoryError: a tensor of 3 TB"):
            worker.run(job("fail", how="memory"), _ignore)
        worker.run(job("write", counter=str(pids)), _ignore)
    first, second = pids.read_text().split()
    assert first != second


@pytest.mark.skipif(os.name != "posix", reason="forks")
def test_child_that_holds_the_pipe_does_not_hang_the_run(job):
    before = {child.pid for child in psutil.Process().children(recursive=True)}
    with Local(SystemParams()).worker() as worker, pytest.raises(StepFailed, match="exit code 5"):
        worker.run(job("fail", how="orphan"), _ignore)
    assert {child.pid for child in psutil.Process().children(recursive=True)} <= before


def test_progress_and_warnings_arrive_in_order(job):
    heard = []
    with Local(SystemParams()).worker() as worker:
        worker.run(job("write", n_files=3), lambda event, fields: heard.append((event, fields)))
    assert heard[0][0] == "started"
    assert heard[-1] == ("progress", {"done": 3, "total": 3, "metrics": {"loss": pytest.approx(1 / 3)}})


def test_listener_that_fails_ends_the_worker(job, tmp_path):
    pid_file = tmp_path / "pid"

    def fail(event, fields):
        if pid_file.exists():
            raise ZeroDivisionError

    with Local(SystemParams()).worker() as worker, pytest.raises(ZeroDivisionError):
        # the step warns after it has written its process id
        worker.run(job("fail", how="warn", pid_file=str(pid_file)), fail)
    assert not psutil.pid_exists(int(pid_file.read_text()))


def test_worker_that_cannot_start_is_named(job, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", "")
    broken = tmp_path / "olivine"
    broken.mkdir()
    (broken / "__init__.py").write_text("raise ImportError('a broken installation')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with (
        Local(SystemParams()).worker() as worker,
        pytest.raises(StepFailed, match=r"exit code 1; the log ends: .*a broken installation"),
    ):
        worker.run(job("write"), _ignore)


def test_file_in_the_current_folder_does_not_stand_in_for_a_library(job, tmp_path, monkeypatch):
    (tmp_path / "pydantic.py").write_text("raise ImportError('the wrong pydantic')")
    monkeypatch.chdir(tmp_path)
    with Local(SystemParams()).worker() as worker:
        worker.run(job("write"), _ignore)


@pytest.mark.parametrize(
    ("code", "memory_ran_out", "words"),
    [
        (3, False, "ended with exit code 3"),
        (0xC0000005, False, "crashed (0xC0000005)"),
        (-signal.SIGSEGV, False, "crashed (SIGSEGV)"),
        (-signal.SIGTERM, False, "was ended from outside (SIGTERM)"),
        (-9, True, "was killed by the kernel: out of memory"),
        (-9, False, "was killed (SIGKILL): by someone, or because the memory allowed to it ran out"),
    ],
)
def test_end_of_a_process_is_told_in_words(code, memory_ran_out, words):
    assert ending(code, memory_ran_out=memory_ran_out) == words
