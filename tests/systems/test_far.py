"""Workers that call in, and jobs in a queue: who may, and what becomes of them when one side goes away."""

import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from dataclasses import asdict, replace

import pytest

from olivine.errors import OlivineError, StepFailed
from olivine.models import Model
from olivine.store.hashes import Hashes, hash_file
from olivine.store.remote import Mirror, RemoteFiles
from olivine.systems import WORKER, ConnectedWorker, Job, opened
from olivine.systems._line import TOKEN, Line, Refused, greet_parent, greet_worker
from olivine.systems._parcel import parcel
from olivine.systems._pieces import Pieces, write_end, write_job
from olivine.systems._scratch import resumable
from olivine.testing.tiny import tiny_checkpoint
from olivine.work import Machine
from toy_far import Process, Queue


@pytest.fixture
def job(tmp_path):
    """A job that writes a model out."""
    model = Model("hf", tiny_checkpoint(tmp_path / "model")).to_json()
    (tmp_path / "scratch").mkdir()
    machine = asdict(Machine("cpu", "CPUExecutionProvider", 2**34, 2**36, 1, offline=True))

    def make(name="output"):
        (tmp_path / name).mkdir()
        log = str(tmp_path / f"{name}.log")
        return Job("materialize", "try", tmp_path / name, tmp_path / "scratch", model=model, machine=machine, log=log)

    return make


@pytest.fixture
def ends():
    """Both ends of a line."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        called = socket.create_connection(server.getsockname())
        accepted, _ = server.accept()
    lines = [Line(accepted), Line(called)]
    yield lines
    for line in lines:
        line.close()


def _greeted(ends, token, other):
    """What each side says of a line between a parent and a worker, each with its token."""
    said = {}

    def greet(side, greeting, *arguments):
        try:
            said[side] = greeting(*arguments)
        except (Refused, ConnectionError) as error:
            said[side] = error

    worker = threading.Thread(target=greet, args=("worker", greet_parent, ends[1], other))
    worker.start()
    greet("parent", greet_worker, ends[0], token, lambda: 7)
    worker.join()
    return said


def test_line_is_open_to_who_has_the_token(ends):
    assert _greeted(ends, "one", "one") == {"parent": None, "worker": 7}


def test_line_is_closed_to_who_has_another_token(ends):
    said = _greeted(ends, "one", "another")
    assert isinstance(said["parent"], Refused)
    assert isinstance(said["worker"], Refused)


def test_worker_does_not_believe_a_parent_without_the_token(ends):
    """Who only repeats what it hears has no proof."""

    def greet():
        with pytest.raises(Refused):
            greet_parent(ends[1], "one")

    worker = threading.Thread(target=greet)
    worker.start()
    ends[0].send({"nonce": "n"})
    heard = ends[0].read()
    assert "one" not in json.dumps(heard)
    ends[0].send({"proof": heard["proof"], "after": 0})
    worker.join(timeout=20)
    assert not worker.is_alive()


def test_worker_whose_parent_is_silent_leaves(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        port = nobody.getsockname()[1]
    command = [sys.executable, *WORKER, "--connect", f"127.0.0.1:{port}", "--patience", "0.2", "--store", str(tmp_path)]
    done = subprocess.run(command, env=os.environ | {TOKEN: "one"}, timeout=120, check=False)
    assert done.returncode == 3
    (log,) = (tmp_path / "logs").iterdir()
    assert "the parent cannot be reached" in log.read_text()


def test_worker_that_never_calls_is_named(job, tmp_path):
    def start(arguments, environment):
        return Process(subprocess.Popen([sys.executable, "-c", "import time; time.sleep(100)"]))

    with ConnectedWorker(start, "127.0.0.1", patience_seconds=0.5) as worker, pytest.raises(OlivineError) as failed:
        worker.run(job(), lambda *_: None)
    assert "its worker has not called for 0 seconds" in str(failed.value)


def test_what_a_far_worker_prints_stands_in_the_log_of_the_job(job, tmp_path):
    broken = job()
    (tmp_path / "model" / "model.safetensors").write_bytes(b"none")
    (tmp_path / "there").mkdir()
    queue = Queue(Queue.Params(url=str(tmp_path / "files"), folder=str(tmp_path / "there")))
    with opened(queue, tmp_path / "cache") as worker, pytest.raises(OlivineError):
        worker.run(broken, lambda *_: None)
    assert "Traceback" in broken.log_path.read_text()


@pytest.mark.slow
def test_job_that_is_in_the_queue_is_followed_and_not_submitted_again(job, tmp_path):
    """By another process, at any time: while it runs, and when it is done."""
    (tmp_path / "there").mkdir()
    submitted, results, has_started = [], [], threading.Event()

    class Counted(Queue):
        def submit(self, name, arguments):
            submitted.append(name)
            return super().submit(name, arguments)

    queue = Counted(Counted.Params(url=str(tmp_path / "files"), folder=str(tmp_path / "there")))

    def run(name):
        rounded = replace(job(name), kind="pass", name="rtn", params={"group_size": 16})
        with opened(queue, tmp_path / "cache") as worker:
            results.append(worker.run(rounded, hear))

    def hear(event, _):
        if event != "submitted":  # which is told before the job goes
            has_started.set()

    first = threading.Thread(target=run, args=("first",))
    first.start()
    assert has_started.wait(timeout=120)
    run("second")
    first.join()
    run("third")
    assert len(submitted) == 1
    assert len(results) == 3
    shutil.rmtree(tmp_path / "files" / "files")
    run("fourth")  # what was made lies there no longer
    assert len(submitted) == 2
    for name in ("second", "third", "fourth"):
        assert (tmp_path / name / "model.safetensors").read_bytes() == (
            tmp_path / "first" / "model.safetensors"
        ).read_bytes()


def test_job_of_a_run_that_is_lost_is_ended_by_its_title(fakes, job, tmp_path):
    """By somebody else, who knows no more of it."""
    (tmp_path / "there").mkdir()
    far, other = (Queue(Queue.Params(url=str(tmp_path / "files"), folder=str(tmp_path / "there"))) for _ in range(2))
    slow, titles, ended = (
        replace(job(), kind="pass", name="write", params={"n_files": 400, "pause_seconds": 0.1}),
        [],
        [],
    )

    def listen(event, told):
        titles.extend([told["title"]] if event == "submitted" else [])
        if event == "started":
            ended.extend([other.end_job(titles[0]) == str(told["pid"]), other.end_job("of no job")])

    with opened(far, tmp_path / "cache") as worker, pytest.raises(StepFailed, match="its worker was killed"):
        worker.run(slow, listen)
    assert ended == [True, None]
    assert far.end_job(titles[0]) is None  # it is not at work any more


def test_address_that_cannot_be_reached_for_a_while_is_asked_again(job, tmp_path):
    """A laptop that was closed finds its job when it is opened."""
    (tmp_path / "there").mkdir()
    n_asked = iter(range(10**6))

    class Flaky(RemoteFiles):
        def names(self, folder):
            if 1 < next(n_asked) < 5:
                raise OlivineError("the network is down")
            return super().names(folder)

    class Closed(Queue):
        def files(self):
            return Flaky(self.params.url)

    queue = Closed(Closed.Params(url=str(tmp_path / "files"), folder=str(tmp_path / "there")))
    with opened(queue, tmp_path / "cache") as worker:
        worker.run(job(), lambda *_: None)
    assert next(n_asked) > 5


@pytest.mark.slow
def test_queue_is_waited_for_once(job, tmp_path):
    """The second job goes to the worker that did the first, though they are different ones."""
    (tmp_path / "there").mkdir()
    queue, submitted = Queue(Queue.Params(url=str(tmp_path / "files"), folder=str(tmp_path / "there"))), []
    submit = queue.submit
    queue.submit = lambda name, arguments: submitted.append(name) or submit(name, arguments)
    heard = []
    with opened(queue, tmp_path / "cache") as worker:
        for name in ("first", "second"):
            worker.run(replace(job(name), step=name), lambda event, _: heard.append(event))
            assert (tmp_path / name / "model.safetensors").is_file()
        (process,) = [queue.processes[identity] for identity in queue.processes if queue.ended(identity) is None]
    assert (len(submitted), [event for event in heard if event not in ("progress", "submitted")]) == (1, ["started"])
    assert process.wait(timeout=300) == 0


def test_one_job_of_a_file_says_its_events_in_another(job, tmp_path):
    """As a batch system without an address for files runs it."""
    (tmp_path / "job.json").write_text(json.dumps(job().to_json()))
    command = [sys.executable, *WORKER, "--job", str(tmp_path / "job.json"), "--events", str(tmp_path / "events")]
    subprocess.run(command, check=True, timeout=300)
    events = [json.loads(line)["event"] for line in (tmp_path / "events").read_text().splitlines()]
    assert [event for event in events if event != "progress"] == ["started", "done"]


@pytest.mark.slow
def test_worker_that_is_started_again_goes_on_where_the_one_before_was_taken_away(job, tmp_path):
    """Jobs that ended are not done again, and no piece of the events is written over."""
    queue = Queue(Queue.Params(url=str(tmp_path / "files"), folder=str(tmp_path)))
    sent = parcel(job(), Hashes(tmp_path / "cache"))
    for hashed, source in sent.sources.items():
        queue.put(source, hashed)
    for number in (1, 2):
        write_job(queue.far, "worker", number, sent.job)
        write_end(queue.far, "worker")
        where = ["--store", str(tmp_path / f"disk-{number}"), "--files", str(tmp_path / "files")]
        subprocess.run([sys.executable, *WORKER, "--batch", "worker", *where], check=True, timeout=300)
    events = [fields["event"] for fields in Pieces(queue.far, "worker").new()]
    assert [event for event in events if event != "progress"] == ["started", "done", "started", "done"]


def test_scratch_folder_on_a_disk_that_goes_away_is_brought_back(tmp_path):
    far = RemoteFiles(str(tmp_path / "files"))
    scratches = [tmp_path / disk / "scratch" / "key" for disk in ("first", "second", "third")]
    for scratch in scratches:
        scratch.mkdir(parents=True)
    stores = [Mirror(scratch.parent.parent, far) for scratch in scratches]
    with pytest.raises(KeyError), resumable(scratches[0], stores[0], pause_seconds=0.05):
        (scratches[0] / "checkpoint-1").mkdir()
        (scratches[0] / "checkpoint-1" / "weights").write_bytes(b"one")
        while b"weights" not in (far.read("scratch/key.json") or b""):
            time.sleep(0.05)
        raise KeyError
    with resumable(scratches[1], stores[1], pause_seconds=0.05):
        brought = scratches[1] / "checkpoint-1" / "weights"
        assert brought.read_bytes() == b"one"
        brought.write_bytes(b"two")
        while far.missing([hash_file(brought)]):
            time.sleep(0.05)
    with resumable(scratches[2], stores[2]):
        assert list(scratches[2].iterdir()) == []  # the job was done
