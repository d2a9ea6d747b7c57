"""Nodes of one worker that meet where files go: who is called, what each is told of the others, and who comes back."""

import json
import threading
import time
from pathlib import Path

import pytest

from olivine.errors import OlivineError, RequestError
from olivine.messages import Events
from olivine.store.remote import RemoteFiles
from olivine.systems import Job
from olivine.systems._nodes import Ending, Nodes, free_port, helping, spreads
from olivine.systems._pieces import write_end, write_job
from olivine.work import NodeLost, Team

LOOK = 0.02


@pytest.fixture
def far(tmp_path):
    """An address where a worker's first job lies: the next comes when it has ended."""
    far = RemoteFiles((tmp_path / "far").as_uri())
    write_job(far, "worker", 1, a_job(step="step1"))
    return far


def a_job(step="step", kind="pass", name="lora", n_nodes=2):
    return Job(kind, step, Path("${output}"), Path("scratch"), name, machine={"n_nodes": n_nodes})


class Heard:
    """The events of a job."""

    def __init__(self):
        self.events = []

    def write(self, line):
        self.events.append(json.loads(line))
        return len(line)

    def flush(self):
        pass


class Second:
    """Node 2, which does its part of the jobs as `run` says."""

    def __init__(self, far, folder, run, number=1):
        self.jobs, self.run = [], run
        nodes = Nodes(far, "worker", 1, 2, look_seconds=LOOK)
        self.thread = threading.Thread(target=nodes.help, args=(self._done, number, folder / "second"), daemon=True)
        self.thread.start()

    def _done(self, job, team):
        self.jobs.append((job.step, team))
        return self.run(job, team)


def led(far, folder, run, number=1, **settings):
    """What node 1 comes to with a job, and its events."""
    nodes, heard = Nodes(far, "worker", 0, 2, "127.0.0.1", look_seconds=LOOK), Heard()
    job = a_job(step=f"step{number}")
    try:
        done = nodes.led(number, run, **settings)(Job(**{**vars(job), "scratch": folder / "scratch"}), Events(heard))
    finally:
        write_end(far, "worker")
    return done, heard.events


def test_both_do_a_job_at_one_address_and_the_first_has_the_result(far, tmp_path):
    second = Second(far, tmp_path, lambda *_: {"devices": [{"peak_memory_bytes": 7}]})
    teams = []
    result, _ = led(far, tmp_path, lambda job, _: teams.append(Team(**job.team)) or {"model": 1})
    assert result == {"model": 1}
    second.thread.join(30)
    assert not second.thread.is_alive()  # it was told that no more jobs come
    ((step, there),) = second.jobs
    assert (step, there.node, there.n_nodes) == ("step1", 1, 2)
    assert (teams[0].node, teams[0].address, teams[0].port) == (0, there.address, there.port)


def test_job_that_the_first_does_alone_is_passed_over(far, tmp_path):
    second = Second(far, tmp_path, lambda *_: {"devices": []})
    write_job(far, "worker", 2, a_job(step="step2"))
    led(far, tmp_path, lambda *_: {}, number=2)
    second.thread.join(30)
    assert [step for step, _ in second.jobs] == ["step2"]


def test_node_at_work_is_told_how_the_other_ended(far, tmp_path):
    failed = {"message": "the disk is full", "exit_code": 1, "is_lost": False}
    Second(far, tmp_path, lambda *_: failed)

    def wait(job, _):
        path = Path(Team(**job.team).outcomes)
        while not path.is_file():
            pass
        return json.loads(path.read_text())

    told, _ = led(far, tmp_path, wait)
    assert told == {"1": failed}


def test_job_begins_again_when_a_node_that_was_lost_is_back(far, tmp_path):
    """Whoever comes back, as a process that remembers nothing, joins in the next attempt."""
    attempts, seconds = [], [Second(far, tmp_path, lambda *_: {"devices": []})]

    def run(job, _):
        attempts.append(Team(**job.team))
        if len(attempts) == 1:
            seconds.append(Second(far, tmp_path / "again", lambda *_: {"devices": []}))
            raise NodeLost("node 2 of 2 is gone")
        return {"model": 1}

    result, events = led(far, tmp_path, run)
    assert result == {"model": 1}
    assert [event["message"] for event in events if event["event"] == "note"] == [
        "node 2 of 2 is gone; the step goes on from its last checkpoint when all nodes are there"
    ]
    assert len({team.outcomes for team in attempts}) == 2


def test_node_that_is_lost_again_and_again_ends_the_job(far, tmp_path):
    def lose(*_):
        raise NodeLost("node 2 of 2 is gone")

    Second(far, tmp_path, lambda *_: {"devices": []})
    with pytest.raises(NodeLost, match="node 2 of 2 is gone"):
        led(far, tmp_path, lose)


def test_refusal_of_the_first_is_its_own_and_begins_nothing_again(far, tmp_path):
    def refuse(*_):
        raise RequestError("there is no module 'q_prj'")

    second = Second(far, tmp_path, lambda *_: {"devices": []})
    with pytest.raises(RequestError, match="q_prj"):
        led(far, tmp_path, refuse)
    second.thread.join(30)
    assert len(second.jobs) == 1


def test_node_that_comes_late_is_waited_for_and_that_is_told(far, tmp_path):
    heard, late = Heard(), threading.Event()
    heard.flush = late.set

    def come():
        late.wait(30)
        Second(far, tmp_path, lambda *_: {"devices": []})

    threading.Thread(target=come, daemon=True).start()
    nodes = Nodes(far, "worker", 0, 2, "127.0.0.1", look_seconds=LOOK)
    job = Job(**{**vars(a_job()), "scratch": tmp_path / "scratch"})
    assert nodes.led(1, lambda *_: {"model": 1}, untold_seconds=0.05)(job, Events(heard)) == {"model": 1}
    told = [event["message"] for event in heard.events if event["event"] == "note"]
    assert told == ["node 2 of 2 is waited for: all begin together"]


def test_node_whose_first_was_killed_leaves_its_attempt_and_joins_the_next(far, tmp_path):
    """The first says nothing when it is killed, and a line to it may hang for long."""
    ended, is_over = [], threading.Event()

    def help_until_told(job, team):
        while not is_over.is_set() and not Path(team.outcomes).is_file():
            time.sleep(LOOK)
        if Path(team.outcomes).is_file():
            ended.append(json.loads(Path(team.outcomes).read_text()))
        return {"devices": []}

    second = Second(far, tmp_path, help_until_told)
    killed = threading.Event()

    def never_come_back(*_):
        killed.set()
        threading.Event().wait(60)

    threading.Thread(target=led, args=(far, tmp_path / "killed", never_come_back), daemon=True).start()
    assert killed.wait(30)

    def begin_anew(*_):
        is_over.set()
        return {"model": 1}

    result, _ = led(far, tmp_path, begin_anew)
    assert result == {"model": 1}
    assert [outcomes["0"]["is_lost"] for outcomes in ended] == [True]
    assert len({team.outcomes for _, team in second.jobs}) == 2


def test_node_that_does_not_come_is_named(far, tmp_path):
    with pytest.raises(OlivineError, match=r"node 2 of 2 did not come within 0\.001 minutes"):
        led(far, tmp_path, lambda *_: {}, come_seconds=0.06)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [({}, True), ({"n_nodes": 1}, False), ({"name": "merge"}, False), ({"kind": "score", "name": ""}, False)],
)
def test_only_fine_tuning_on_several_nodes_is_done_together(fields, expected):
    assert spreads(a_job(**fields)) is expected


def test_helper_has_a_scratch_folder_of_its_own_and_the_same_job(tmp_path):
    job, team = a_job(), Team(1, 2, "127.0.0.1", 1, str(tmp_path))
    other = helping(job, team)
    assert other.scratch != job.scratch
    assert other.title != job.title
    assert Job(**{**vars(other), "scratch": job.scratch}).title == job.title  # which nodes do it is no other job


def test_end_of_a_helper_is_heard_from_its_events():
    ending = Ending()
    events = Events(ending)
    events.progress(1, 2)
    error = {"type": "NodeLost", "message": "Connection closed by peer", "exit_code": 1, "traceback": ""}
    events.send("failed", error=error)
    assert ending.outcome == {"message": "Connection closed by peer", "exit_code": 1, "is_lost": True}
    events.send("done", result={"facts": {"devices": [{"peak_memory_bytes": 7}]}})
    assert ending.outcome == {"devices": [{"peak_memory_bytes": 7}]}


def test_port_that_is_taken_is_replaced_by_another():
    port = free_port()
    assert free_port(port) == port
    import socket

    with socket.create_server(("", port)):
        assert free_port(port) != port
