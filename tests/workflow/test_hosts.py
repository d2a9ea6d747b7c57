"""A plan asks the systems where steps will run, and what they have stands in the keys."""

import json
from dataclasses import replace

import pytest

from olivine.config import load
from olivine.errors import OlivineError
from olivine.store.hashes import Hashes
from olivine.systems import Installed, Probe, System, systems
from olivine.workflow.engine import run
from olivine.workflow.keys import plan_keys
from olivine.workflow.plan import make_plan
from olivine.workflow.words import lines
from tiny import write_rows
from toy_system import Toy

pytestmark = pytest.mark.usefixtures("warm")

VERSIONS = {**Installed(), "torch": "9.9"}


class Box(Toy):
    """A folder whose packages are others, it says."""

    def probe(self) -> Probe:
        return replace(super().probe(), versions=VERSIONS, n_cores=77)


class Deaf(System):
    """Gives no answer."""

    def probe(self):
        raise OlivineError("the line is dead")

    def worker(self):
        raise AssertionError


@pytest.fixture
def config(tmp_path, tiny_llama, monkeypatch):
    """Write a config whose passes run on the systems `box` and `deaf`; loads it."""
    info = tmp_path / "boxes" / "boxes-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: boxes\nVersion: 1.0\n")
    points = "".join(f"{kind.__name__.lower()} = {__name__}:{kind.__name__}\n" for kind in (Box, Deaf))
    (info / "entry_points.txt").write_text(f"[olivine.systems]\n{points}")
    monkeypatch.syspath_prepend(info.parent)
    systems.forget()
    write_rows(tmp_path / "rows.jsonl")

    def write(**changes):
        said = {
            "input_model": {"type": "HfModel", "model_path": str(tiny_llama)},
            "systems": {"far": {"type": "box", "folder": str(tmp_path / "far")}, "gone": {"type": "deaf"}},
            "passes": {"small": {"type": "rtn", "group_size": 16}},
            "quality": {"enabled": False},
            "cache_dir": str(tmp_path / "cache"),
            "output_dir": str(tmp_path / "out"),
        }
        (tmp_path / "far").mkdir(exist_ok=True)
        path = tmp_path / "config.json"
        path.write_text(json.dumps(said | changes, indent=1))
        return load(path)

    yield write
    systems.forget()


def test_key_of_a_step_holds_the_versions_of_its_host(config, tmp_path):
    here, there = make_plan(config()), make_plan(config(host="far"))
    assert here.problems == there.problems == ()
    assert (there.steps[0].host, there.machine.n_cores) == ("far", 77)
    hashes = Hashes(tmp_path)
    own, far = (plan_keys(plan, plan.input_model, hashes).models["small"] for plan in (here, there))
    assert own != far
    same = replace(there.steps[0], versions=Installed(), machine=here.machine)
    assert plan_keys(replace(there, steps=(same,)), there.input_model, hashes).models["small"] == own


def test_system_that_cannot_be_reached_is_one_problem_in_one_sentence(config):
    for changes in ({"host": "gone"}, {"passes": {"small": {"type": "rtn", "group_size": 16, "host": "gone"}}}):
        (problem,) = make_plan(config(**changes)).problems
        assert problem.kind == "network"
        assert problem.message == "the system 'gone' gives no answer: the line is dead."


def test_package_that_the_host_lacks_is_told_of_the_host(config, monkeypatch):
    monkeypatch.setitem(VERSIONS, "transformers", "4.1")
    (problem,) = make_plan(config(host="far")).problems
    assert "transformers 4.1 is installed on the system 'far'" in problem.message


def test_settings_of_a_plugin_are_checked_where_they_stand(config):
    (problem,) = make_plan(config(host="far", systems={"far": {"type": "box", "foldre": "x"}})).problems[:1]
    assert (problem.kind, problem.where.rpartition(":")[2].isdigit()) == ("unknown-key", True)
    assert "'foldre'" in problem.message


def test_host_of_one_pass_runs_that_pass_alone(config, tmp_path):
    passes = {"small": {"type": "rtn", "group_size": 16, "host": "far"}}
    plan = make_plan(config(passes=passes))
    assert (plan.problems, plan.steps[0].host) == ((), "far")
    heard = []
    assert run(plan, heard.append).status == "done"
    assert heard[0].hosts["far"]["torch"] == "9.9"
    assert heard[0].versions["torch"] == Installed()["torch"]
    assert [(event.step, event.host) for event in heard if event.kind == "step_done"] == [("small", "far")]
    assert list((tmp_path / "far" / "files").iterdir())
    assert (tmp_path / "out" / "model" / "config.json").is_file()


@pytest.mark.slow
def test_target_is_where_models_are_measured(config, tmp_path):
    """The steps run here; what each model scores is found out there, from files that went by content."""
    load = {"data_name": "json", "data_files": str(tmp_path / "rows.jsonl")}
    text = {"text_template": "{phrase} {tone}", "max_seq_len": 64}
    rows = {"name": "rows", "load_dataset_config": load, "pre_process_data_config": text}
    plan = make_plan(config(target="far", data_configs=[rows], quality={"data_config": "rows"}))
    assert plan.problems == ()
    heard = []
    assert [row["model"] for row in run(plan, heard.append).scores] == ["base", "small"]
    done = {event.step: event.host for event in heard if event.kind == "step_done"}
    assert done == {"data": None, "score:base": "far", "small": None, "score:small": "far"}


def test_plan_says_where_its_steps_run(config):
    assert any("on the system 'far', 77 cores" in line for line in lines(make_plan(config(host="far"))))


def test_disk_of_the_host_is_told_when_it_is_too_small(config, monkeypatch):
    monkeypatch.setattr(Box, "probe", lambda self: replace(Toy.probe(self), disk_bytes=1000))
    (problem,) = make_plan(config(host="far")).problems
    assert "of disk are needed on the system 'far', but 1 kB are free" in problem.message


def test_host_with_another_olivine_is_refused(config, monkeypatch):
    monkeypatch.setattr(Box, "probe", lambda self: replace(Toy.probe(self), olivine="0.0.1"))
    (problem,) = make_plan(config(host="far")).problems
    assert "the system 'far' has olivine 0.0.1, but this is" in problem.message


def test_environment_of_a_target_on_which_nothing_runs_need_not_be_here(config, tmp_path):
    def planned(provider, **roles):
        accelerators = [{"execution_providers": [provider]}]
        there = {"type": "PythonEnvironment", "python_environment_path": str(tmp_path / "none")}
        return make_plan(config(systems={"aim": there | {"accelerators": accelerators}}, **roles))

    plan = planned("QNNExecutionProvider", target="aim")
    assert plan.problems == ()
    assert any("the target 'aim' is not here (there is no Python environment" in note for note in plan.translated)
    for refused in (planned("CPUExecutionProvider", target="aim"), planned("QNNExecutionProvider", host="aim")):
        assert any("there is no Python environment" in one.message for one in refused.problems)
