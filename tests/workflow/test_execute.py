"""Results and scores are what they are alone, each made once, whoever asks and how many at once."""

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from olivine.errors import StepFailed
from olivine.store.entries import Cache
from olivine.systems import SystemParams, Worker
from olivine.systems.local import Local
from olivine.workflow.events import StepCached, StepDone, StepStarted
from olivine.workflow.execute import Execution
from olivine.workflow.workers import Pool, Workers
from olivine.workflow.workshop import Workshop


@pytest.fixture
def workshop(tmp_path):
    """Make a workshop with n workers in a folder of its own; its events are in the list beside it."""
    opened = []

    def workshop(name, n_workers=1):
        events = []
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        store, pool = Cache(folder / "cache"), Workers({None: Pool(Local(SystemParams()).worker, n_workers)})
        store.prepare()
        opened.extend([store, pool])
        return Workshop(folder, store, pool, events.append), events

    yield workshop
    for one in opened:
        one.close()


def forked(fakes, folder, n_bytes=1000, *, is_together=False):
    """A plan of two steps from one parent, and the file in which every step that is made leaves a line.

    is_together: the two do not end before both have begun.
    """
    counter = folder / "counter"
    names = ("trunk", "left", "right")
    params = {"counter": str(counter), "n_bytes": n_bytes}
    together = {name: {"n_together": 3} for name in names[1:] if is_together}
    plan = fakes.plan(
        folder, *((name, "write", {"text": name[0], **params, **together.get(name, {})}) for name in names)
    )
    right = replace(plan.steps[2], parent="trunk")
    return replace(plan, steps=(*plan.steps[:2], right)), counter


def ask(execution, steps):
    """Ask for the steps from as many threads, all at once; gives the files of their results."""
    barrier = threading.Barrier(len(steps))

    def result(step):
        barrier.wait()
        execution.result(step)
        entry = execution.entry(step)
        return {name: (entry.content / name).read_bytes() for name in entry.files}

    with ThreadPoolExecutor(len(steps)) as pool:
        return list(pool.map(result, steps))


@pytest.mark.parametrize("n_workers", [1, 2])
def test_threads_get_what_they_get_alone_and_each_result_is_made_once(fakes, tmp_path, workshop, n_workers):
    plan, counter = forked(fakes, tmp_path)
    alone = Execution(plan, plan.input_model, workshop("alone")[0])
    expected = [ask(alone, [step])[0] for step in plan.steps]
    counter.unlink()
    plan, _ = forked(fakes, tmp_path, is_together=n_workers == 2)
    shop, events = workshop("together", n_workers)
    together = Execution(plan, plan.input_model, shop)
    trunk, left, right = plan.steps
    assert ask(together, [left, right, trunk, left]) == [expected[1], expected[2], expected[0], expected[1]]
    processes = counter.read_text().split()
    assert len(processes) == 3
    assert len(set(processes)) == n_workers
    assert sorted(event.step for event in events if isinstance(event, StepStarted)) == ["left", "right", "trunk"]


def test_plans_of_one_workshop_share_what_they_have_in_common(fakes, tmp_path, workshop):
    """As the trials of a search do, at once."""
    plan, counter = forked(fakes, tmp_path)
    shop, events = workshop("search", 2)
    trials = [replace(plan, steps=(plan.steps[0], step)) for step in plan.steps[1:]]
    executions = [Execution(trial, plan.input_model, shop) for trial in trials]
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda execution: execution.result(execution.plan.steps[-1]), executions))
    assert len(counter.read_text().split()) == 3
    trunk = [event for event in events if isinstance(event, StepDone) and event.step == "trunk"]
    assert {type(event) for event in trunk} == {StepDone, StepCached}


def test_failure_of_one_thread_leaves_the_other_its_result(fakes, tmp_path, workshop):
    plan = fakes.plan(tmp_path, ("good", "write", {"pause_seconds": 0.05}), ("bad", "fail", {"how": "exit"}))
    plan = replace(plan, steps=(plan.steps[0], replace(plan.steps[1], parent=None)))
    execution = Execution(plan, plan.input_model, workshop("run", 2)[0])
    with ThreadPoolExecutor(2) as pool:
        good, bad = (pool.submit(execution.result, step) for step in plan.steps)
        assert (good.result().path / "part1.safetensors").is_file()
        with pytest.raises(StepFailed, match="step 'bad' failed"):
            bad.result()


def test_events_say_where_a_result_comes_from(fakes, tmp_path, workshop):
    plan, _ = forked(fakes, tmp_path)
    shop, events = workshop("run")
    execution = Execution(plan, plan.input_model, shop)
    execution.result(plan.steps[2])
    keys = execution.keys.models
    started = [event for event in events if isinstance(event, StepStarted)]
    told = [(event.step, event.pass_name, event.parent, event.parent_key, event.key) for event in started]
    assert told == [
        ("trunk", "write", None, keys[None], keys["trunk"]),
        ("right", "write", "trunk", keys["trunk"], keys["right"]),
    ]
    assert started[1].params == plan.steps[2].params
    done = [event for event in events if isinstance(event, StepDone)]
    assert [event.key for event in done] == [event.key for event in started]


def test_step_sees_the_models_that_its_own_was_made_from_and_those_it_names(fakes, tmp_path, workshop):
    plan, _ = forked(fakes, tmp_path)
    jobs = []

    class Recorder(Worker):
        def run(self, job, listen):
            jobs.append(job)
            (job.output / "config.json").write_text("{}")
            return {"model": {"format": "hf", "path": str(job.output)}}

        def close(self):
            """Nothing was started."""

        kill = close

    shop = replace(workshop("run")[0], workers=Workers({None: Pool(Recorder)}))
    last = replace(plan.steps[2], name="last", parent="right", models=("left",))
    plan = replace(plan, steps=(*plan.steps, last))
    Execution(plan, plan.input_model, shop).result(last)
    assert {job.step: list(job.models) for job in jobs} == {
        "trunk": ["input"],
        "right": ["input", "trunk"],
        "left": ["input", "trunk"],
        "last": ["input", "trunk", "left", "right"],
    }
