"""LoRA on two nodes, each a process here with a disk of its own: the result of one, and what ends one ends both."""

import json
import socket
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import psutil
import pytest
from safetensors.torch import load_file
from test_lora import MACHINE, Lora, context, params
from test_several_devices import SETTINGS, assert_alike
from test_several_devices import train as train_here

from held import Held
from olivine.errors import OlivineError, RequestError
from olivine.models import Model
from olivine.passes.finetune._others import Others
from olivine.work import NodeLost, Team

NODE = """
import json, sys
from pathlib import Path
sys.path[:0] = {path!r}
from test_several_nodes import assist
assist(Path({model!r}), Path({folder!r}), {team!r}, {changes!r})
"""


def train(model, folder, name, team, **changes):
    where = replace(context(folder, name), machine=replace(MACHINE, n_nodes=2), team=team)
    changes = {"training_args": SETTINGS, "eval_dataset_size": 4} | changes
    return Lora(params(**changes)).run(Model("hf", model), where), where.report


def assist(model, folder, team, changes):
    """What node 2 does: its part of the work, and a word on how that ended."""
    team = Team(**team)
    try:
        _, report = train(model, folder, "second", team, **changes)
        outcome = {"devices": report.facts["devices"]}
    except OlivineError as error:
        outcome = {"message": str(error), "exit_code": error.exit_code, "is_lost": isinstance(error, NodeLost)}
    Path(team.outcomes).with_name("of-second.json").write_text(json.dumps({"1": outcome}))


class Second:
    """Node 2, in a process of its own."""

    def __init__(self, model, folder, **changes):
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]
        folder.mkdir(exist_ok=True)
        self.team = Team(0, 2, "127.0.0.1", port, str(folder / "of-second.json"))
        here = Path(__file__).parent
        other = asdict(replace(self.team, node=1, outcomes=str(folder / "of-first.json")))
        path = [str(here), str(here.parent)]
        script = NODE.format(path=path, model=str(model), folder=str(folder), team=other, changes=changes)
        self.process = psutil.Popen([sys.executable, "-c", script], stdout=subprocess.DEVNULL)

    def kill(self):
        """As a machine that goes away: all of it at once."""
        for process in (self.process, *self.process.children(recursive=True)):
            process.kill()


@pytest.mark.slow
def test_two_nodes_train_as_one_does(tiny_llama, tmp_path):
    one, _ = train_here(tiny_llama, tmp_path, "one", MACHINE)
    second = Second(tiny_llama, tmp_path / "nodes")
    two, report = train(tiny_llama, tmp_path / "nodes", "first", second.team)
    assert second.process.wait(60) == 0
    assert_alike(two, one)
    assert {path.name for path in two.path.iterdir()} == {path.name for path in one.path.iterdir()}
    assert [device["peak_memory_bytes"] > 0 for device in report.facts["devices"]] == [True, True]
    assert not list((tmp_path / "nodes" / "second" / "output").iterdir())


LONG = SETTINGS | {"max_steps": 12, "learning_rate": 1e-3}


@pytest.mark.slow
def test_node_that_dies_is_named_and_another_one_goes_on_from_the_checkpoint_of_the_first(
    tiny_llama, tmp_path, monkeypatch
):
    changes = {"training_args": LONG, "lora_dropout": 0.2}
    whole = Second(tiny_llama, tmp_path / "whole", **changes)
    expected, _ = train(tiny_llama, tmp_path / "whole", "first", whole.team, **changes)
    held = Held(tmp_path / "held", "checkpoint-6")
    monkeypatch.setenv("PYTHONPATH", held.pythonpath)
    cut = Second(tiny_llama, tmp_path / "cut", **changes)
    killer = held.then(cut.kill)
    with pytest.raises(NodeLost, match=r"node 2 of 2 is gone: .*by peer"):
        train(tiny_llama, tmp_path / "cut", "first", cut.team, **changes)
    killer.join()
    cut.process.wait()
    (tmp_path / "cut" / "second").rename(tmp_path / "disk that went away")
    again = Second(tiny_llama, tmp_path / "cut", **changes)
    resumed, report = train(tiny_llama, tmp_path / "cut", "first", again.team, **changes)
    assert min(report.steps) > 4
    for name, tensor in load_file(expected.path / "adapter_model.safetensors").items():
        assert tensor.equal(load_file(resumed.path / "adapter_model.safetensors")[name]), name


@pytest.mark.slow
def test_request_that_both_nodes_refuse_is_one_sentence(tiny_llama, tmp_path):
    second = Second(tiny_llama, tmp_path, target_modules=["q_prj"])
    with pytest.raises(RequestError) as caught:
        train(tiny_llama, tmp_path, "first", second.team, target_modules=["q_prj"])
    second.process.wait()
    assert "q_prj" in str(caught.value)
    assert "node" not in str(caught.value)


def others_that(tmp_path, **outcomes):
    path = tmp_path / "outcomes.json"
    path.write_text(json.dumps({node[1:]: outcome for node, outcome in outcomes.items()}))
    return Others(Team(0, 3, "127.0.0.1", 1, str(path)), news_seconds=0.1)


def failed(message, *, is_lost=False, exit_code=1):
    return {"message": message, "exit_code": exit_code, "is_lost": is_lost}


LOST = NodeLost(
    "RuntimeError: [/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:537] Connection closed by peer. This is "
    "typically caused by a remote worker hanging or bugs in the application."
)


def test_cause_is_that_of_the_node_that_lost_nobody(tmp_path):
    others = others_that(tmp_path, n1=failed("Connection reset by peer", is_lost=True), n2=failed("the disk is full"))
    assert str(others.cause(LOST)) == "the disk is full (node 3 of 3)"


def test_what_a_node_knows_of_itself_is_the_cause(tmp_path):
    others = others_that(tmp_path, n1=failed("the disk is full"), n2=failed("the disk is full"))
    own = OlivineError("the loss became nan")
    assert others.cause(own) is own


GONE = {"message": "it is gone", "exit_code": 1, "is_lost": True, "is_gone": True}


def test_node_that_is_known_to_be_gone_is_the_cause(tmp_path):
    others = others_that(tmp_path, n1={"devices": []}, n2=GONE)
    cause = others.cause(LOST)
    assert (type(cause), str(cause)) == (NodeLost, "node 3 of 3 is gone: Connection closed by peer")


def test_node_that_goes_away_when_its_part_is_done_costs_nothing_and_is_told(tmp_path):
    notes = []
    others = others_that(tmp_path, n1=GONE)
    assert others.devices(notes.append) == []
    of_result = "its part was done, and nothing of the result is lost"
    assert notes == [f"node 2 of 3 is gone; {of_result}", f"node 3 of 3 did not say how it ended; {of_result}"]
    assert Others(None).devices(notes.append) == []


def test_nodes_that_lost_each_other_are_named(tmp_path):
    lost = failed("Connection reset by peer", is_lost=True)
    told = others_that(tmp_path, n1=lost, n2=lost).cause(LOST)
    assert isinstance(told, NodeLost)
    assert str(told) == "the 3 nodes lost each other: Connection closed by peer"


@pytest.mark.slow
def test_node_that_failed_ends_the_others_though_they_have_not_noticed(tmp_path):
    others = others_that(tmp_path, n2=failed("the disk is full"))
    until = time.monotonic() + 60
    while not others.have_failed and time.monotonic() < until:
        time.sleep(0.1)
    assert others.have_failed
