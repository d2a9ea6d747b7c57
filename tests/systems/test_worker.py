import importlib.util
import io
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from olivine import memory
from olivine.errors import DataError
from olivine.messages import Events, sentence
from olivine.systems import Job

WORKER = [sys.executable, "-m", "olivine.systems._worker"]


def _events(text):
    return [json.loads(line) for line in text.splitlines()]


def test_job_survives_json(job):
    made = job("write", text="x")
    assert Job.from_json(json.loads(json.dumps(made.to_json()))) == made


@pytest.mark.parametrize(
    ("name", "how", "exit_code", "event"),
    [("write", None, 0, "done"), ("fail", "raise", 1, "failed"), ("fail", "request", 2, "failed")],
)
def test_job_file_ends_with_its_exit_code(job, tmp_path, name, how, exit_code, event):
    file = tmp_path / "job.json"
    file.write_text(json.dumps(job(name, **({"how": how} if how else {})).to_json()))
    done = subprocess.run([*WORKER, "--job", str(file)], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == exit_code
    assert _events(done.stdout)[-1]["event"] == event


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a disk without room")
@pytest.mark.parametrize(("name", "how", "event"), [("write", None, "done"), ("fail", "raise", "failed")])
def test_log_without_room_neither_stops_a_job_nor_hides_how_it_ended(job, tmp_path, name, how, event):
    file = tmp_path / "job.json"
    asked = replace(job(name, **({"how": how} if how else {})), log="/dev/full")
    file.write_text(json.dumps(asked.to_json()))
    done = subprocess.run([*WORKER, "--job", str(file)], capture_output=True, text=True, timeout=300, check=False)
    assert _events(done.stdout)[-1]["event"] == event
    assert done.stderr == ""


@pytest.mark.skipif(os.name != "posix", reason="limits the size of files")
def test_disk_without_room_is_named_where_a_library_does_not_say_so(job, tmp_path):
    file = tmp_path / "job.json"
    file.write_text(json.dumps(job("fail", how="raise").to_json()))
    limited = "import resource, runpy; resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000));"
    code = f"{limited} runpy.run_module('olivine.systems._worker', run_name='__main__', alter_sys=True)"
    done = subprocess.run([sys.executable, "-c", code, "--job", str(file)], capture_output=True, text=True, check=False)
    message = _events(done.stdout)[-1]["error"]["message"]
    assert message.startswith("the disk is full: File too large: ")
    assert message.endswith("(RuntimeError: the flux capacitor is empty)")


def test_worker_ends_with_its_input(fakes):
    done = subprocess.run(WORKER, input="", capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0
    assert [event["event"] for event in _events(done.stdout)] in ([], ["started"])


def test_unknown_pass_names_the_environment(job, tmp_path):
    file = tmp_path / "job.json"
    file.write_text(json.dumps(job("nonsense").to_json()))
    done = subprocess.run([*WORKER, "--job", str(file)], capture_output=True, text=True, timeout=300, check=False)
    error = _events(done.stdout)[-1]["error"]
    assert "has no pass 'nonsense'" in error["message"]
    assert "Traceback" in error["traceback"]


def test_worker_reports_nothing_and_draws_no_bars(job, tmp_path):
    """No telemetry, whatever library a pass uses; offline when the machine is."""
    code = (
        "import os, sys; sys.argv[1:] = ['--job', sys.argv[1]]\n"
        "from olivine.systems import _worker; _worker.main()\n"
        "names = ['HF_HUB_DISABLE_TELEMETRY', 'DO_NOT_TRACK', 'HF_HUB_OFFLINE', 'TQDM_DISABLE']\n"
        "assert [os.environ.get(name) for name in names] == ['1'] * 4"
    )
    file = tmp_path / "job.json"
    file.write_text(json.dumps(job("write").to_json()))
    subprocess.run([sys.executable, "-c", code, str(file)], check=True, timeout=300, capture_output=True)


def _told_by_openmp(**given):
    """What torch's OpenMP says of itself in a process that a worker's environment was prepared for."""
    code = (
        "import ctypes, os, sys\n"
        "from olivine.systems._environment import prepare\n"
        "prepare(os.environ)\n"
        "ctypes.CDLL(sys.argv[1])"
    )
    folders = [Path(one) for one in importlib.util.find_spec("torch").submodule_search_locations]
    libraries = [
        path for folder in folders for where in ("lib", "../torch.libs") for path in folder.glob(f"{where}/libgomp*")
    ]
    if not libraries and sys.platform != "linux":
        pytest.skip(f"torch brings no libgomp on {sys.platform}")
    names = {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME"}
    environment = {name: value for name, value in os.environ.items() if name not in names}
    command = [sys.executable, "-c", code, str(libraries[0])]
    environment |= {"OMP_DISPLAY_ENV": "VERBOSE", **given}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=True).stderr


def test_threads_that_wait_spin_briefly_unless_somebody_says_otherwise():
    assert "GOMP_SPINCOUNT = '1000'" in _told_by_openmp()
    assert "GOMP_SPINCOUNT = '7'" in _told_by_openmp(GOMP_SPINCOUNT="7")
    passive = _told_by_openmp(OMP_WAIT_POLICY="PASSIVE")
    assert "OMP_WAIT_POLICY = 'PASSIVE'" in passive
    assert "GOMP_SPINCOUNT = '0'" in passive


class _Scalar:
    def item(self):
        return 0.5


def test_events_hold_json_values_only():
    stream = io.StringIO()
    Events(stream).send("done", result={"loss": _Scalar()})
    assert _events(stream.getvalue()) == [{"event": "done", "result": {"loss": 0.5}}]
    with pytest.raises(TypeError, match="no JSON value"):
        Events(stream).send("done", result={"loss": object()})


def test_flood_of_progress_is_thinned_but_the_end_is_told():
    stream = io.StringIO()
    events = Events(stream)
    for done in range(10_001):
        events.progress(done, 10_000)
    told = _events(stream.getvalue())
    assert len(told) < 1000
    assert told[-1]["done"] == 10_000


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (DataError("train.jsonl:37: no 'phrase'"), "train.jsonl:37: no 'phrase'"),
        (MemoryError(), "out of memory: MemoryError"),
        (
            RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: 3 TB"),
            "out of memory: RuntimeError",
        ),
        (
            OSError(28, "No space left on device", "model.safetensors"),
            "the disk is full: No space left on device: model.safetensors",
        ),
        (OSError(2, "No such file or directory", "a.json"), "No such file or directory: a.json"),
        (
            RuntimeError("Error while serializing: No space left on device (os error 28)"),
            "the disk is full: Error while",
        ),
        (
            RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 11840 vs 11732"),
            "torch could not write or read a file: [enforce fail",
        ),
        (KeyError("x"), "KeyError: 'x'"),
        (ValueError(), "ValueError"),
    ],
)
def test_error_is_told_in_a_line(error, said):
    assert sentence(error).startswith(said)
    assert "\n" not in sentence(error)


def test_peak_memory_counts_what_was_used_since_the_restart():
    memory.restart_peak()
    before = memory.peak_bytes()
    block = bytearray(64 * 2**20)
    block[::4096] = b"x" * len(block[::4096])
    assert memory.peak_bytes() > before + 60 * 2**20
    del block
    assert memory.kernel_kills() >= 0


def test_job_whose_log_cannot_be_opened_is_done_all_the_same(tmp_path):
    log, job = tmp_path / "a-folder.log", tmp_path / "job.json"
    log.mkdir()
    record = Job("probe", "probe", tmp_path / "output", tmp_path / "scratch", log=str(log)).to_json()
    job.write_text(json.dumps(record))
    command = [sys.executable, "-m", "olivine.systems._worker", "--job", str(job)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert [json.loads(line)["event"] for line in done.stdout.splitlines()][-1] == "done", done.stderr


@pytest.mark.parametrize(
    ("text", "why"), [("{", "Expecting"), ("[]", "no job"), ('{"kind": "bake"}', "it has no step")]
)
def test_file_that_holds_no_job_is_refused_in_a_sentence(text, why, tmp_path):
    job = tmp_path / "job.json"
    job.write_text(text)
    command = [sys.executable, "-m", "olivine.systems._worker", "--job", str(job)]
    refused = subprocess.run(command, capture_output=True, text=True, check=False)
    assert refused.returncode == 1
    assert refused.stderr.startswith(f"{job} holds no job: ")
    assert why in refused.stderr
    assert "Traceback" not in refused.stderr
