import json
import os
import time

import pytest

from olivine.errors import ConfigError, GoalMissed, Problem, RequestError, StepFailed
from olivine.models import Model
from olivine.store.entries import Cache
from olivine.store.hashes import Hashes, hash_file
from olivine.systems import Ahead, SystemParams
from olivine.systems.local import Local
from olivine.workflow.deliver import LINKED_BYTES
from olivine.workflow.engine import hashing, run
from olivine.workflow.journal import read_journal
from olivine.workflow.keys import cached, plan_keys
from olivine.workflow.workers import Workers

THREE = (("one", "write", {"text": "a"}), ("two", "write", {"text": "b"}), ("three", "write", {"text": "c"}))


def test_result_lies_in_output_dir_with_config_and_journal(fakes, tmp_path):
    result = run(fakes.plan(tmp_path, *THREE))
    assert result.model == tmp_path / "out" / "model"
    assert (result.model / "part0.safetensors").read_bytes() == b"c" * 1000
    workflow = json.loads((tmp_path / "out" / "workflow.json").read_text())
    assert workflow["passes"]["two"]["text"] == "b"
    assert workflow["environment"]["olivine"]
    events = [event.kind for event in read_journal(tmp_path / "out")]
    assert events == ["run_started", *["step_started", "step_done"] * 3, "delivered", "run_done"]
    assert [step["name"] for step in result.steps] == ["one", "two", "three"]
    assert all(step["peak_memory_bytes"] > 10_000_000 for step in result.steps)


def test_large_file_is_told_of_before_it_is_hashed(tmp_path):
    small, large, told = tmp_path / "small", tmp_path / "large", []
    small.write_bytes(b"a" * 99)
    large.write_bytes(b"a" * 100)
    read = hashing(told.append, large_bytes=100)
    assert [read(small), read(large)] == [hash_file(small), hash_file(large)]
    assert [event.message for event in told] == ["reading large, 100 B, to know it from others"]


def test_second_run_starts_no_worker_and_writes_no_model(fakes, tmp_path, monkeypatch):
    plan = fakes.plan(tmp_path, *THREE)
    first = run(plan)
    before = (first.model / "part0.safetensors").stat()
    monkeypatch.setattr("subprocess.Popen", None)
    again = run(plan)
    assert [step["cached"] for step in again.steps] == [True, True, True]
    after = (first.model / "part0.safetensors").stat()
    assert (after.st_mtime_ns, after.st_ino) == (before.st_mtime_ns, before.st_ino)
    assert cached(plan) == {"one", "two", "three"}


def test_worker_imports_what_is_ahead_before_it_has_a_job_and_offline_from_the_start(fakes, tmp_path, monkeypatch):
    """A module that the pass works with notes that it was imported, and whether the network was off by then."""
    note = tmp_path / "imported"
    written = f"open({str(note)!r}, 'w').write(os.environ.get('HF_HUB_OFFLINE', 'on line'))"
    (tmp_path / "slow_to_import.py").write_text(f"import os\n{written}\n")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ["PYTHONPATH"]]))
    monkeypatch.delenv("HF_HUB_OFFLINE")
    plan = fakes.plan(tmp_path, *THREE)
    with Workers.of([(None, Local(SystemParams()))], plan.cache_dir) as workers:
        workers.warm(Ahead(("write",), offline=True), None)
        deadline = time.monotonic() + 120
        while not (note.exists() and note.read_text()) and time.monotonic() < deadline:
            time.sleep(0.05)
    assert note.read_text() == "1"
    note.unlink()
    run(plan)
    assert note.read_text() == "1"
    note.unlink()
    run(plan)  # all of it is in the cache
    assert not note.exists()


def test_changed_param_runs_that_step_and_those_after_it(fakes, tmp_path):
    run(fakes.plan(tmp_path, *THREE))
    changed = (THREE[0], ("two", "write", {"text": "B"}), THREE[2])
    assert cached(fakes.plan(tmp_path, *changed)) == {"one"}
    again = run(fakes.plan(tmp_path, *changed))
    assert [step["cached"] for step in again.steps] == [True, False, False]


def test_steps_of_one_parent_share_its_result(fakes, tmp_path):
    plan = fakes.plan(tmp_path, *THREE)
    forked = tuple(
        step if step.name != "three" else type(step)(**{**vars(step), "parent": "one"}) for step in plan.steps
    )
    keys = plan_keys(fakes.plan(tmp_path, *THREE, steps=forked), plan.input_model, Hashes(plan.cache_dir))
    direct = fakes.plan(tmp_path, THREE[0], THREE[2])
    assert keys.models["three"] == plan_keys(direct, plan.input_model, Hashes(plan.cache_dir)).models["three"]


@pytest.mark.parametrize(
    ("how", "cause"),
    [
        ("raise", "RuntimeError: the flux capacitor is empty"),
        ("request", "train.jsonl:37: the field 'phrase' is missing"),
        ("memory", "out of memory"),
        ("kill", "SIGKILL"),
        ("exit", "exit code 3"),
        ("sysexit", "exit code 4"),
        ("segfault", "SIGSEGV"),
        ("orphan", "exit code 5"),
        ("input", "EOFError"),
    ],
)
def test_failure_names_step_cause_and_log_and_leaves_nothing(fakes, tmp_path, how, cause):
    plan = fakes.plan(tmp_path, ("good", "write", {}), ("bad", "fail", {"how": how}))
    with pytest.raises(StepFailed, match="step 'bad' failed") as caught:
        run(plan)
    error = caught.value
    assert cause in str(error)
    assert (error.step, error.exit_code) == ("bad", 1)
    assert "about to fail" in error.log.read_text()
    assert "Traceback" not in str(error)
    assert not (tmp_path / "out" / "model").exists()
    assert not list((tmp_path / "cache" / "building").iterdir())
    assert cached(plan) == {"good"}
    events = read_journal(tmp_path / "out")
    assert [event.kind for event in events[-2:]] == ["step_failed", "run_failed"]
    assert cause in events[-2].cause


def test_crash_shows_the_end_of_the_log(fakes, tmp_path):
    with pytest.raises(StepFailed) as caught:
        run(fakes.plan(tmp_path, ("bad", "fail", {"how": "exit"})))
    assert "about to fail" in caught.value.tail
    assert "the log ends: about to fail" in str(caught.value)


def test_failure_is_not_cached_and_the_next_run_tries_again(fakes, tmp_path):
    plan = fakes.plan(tmp_path, ("shaky", "fail", {"once": str(tmp_path / "failed")}))
    with pytest.raises(StepFailed):
        run(plan)
    assert run(plan).model.is_dir()


def test_what_a_pass_prints_does_not_break_the_protocol(fakes, tmp_path):
    run(fakes.plan(tmp_path, ("noisy", "fail", {"how": "noise"})))
    log = (tmp_path / "out" / "logs" / "noisy.log").read_text()
    for text in ("printed by Python", "printed by native code", "printed by a child", '{"event": "done"'):
        assert text in log


def test_warnings_reach_the_screen_and_the_journal(fakes, tmp_path, capsys):
    result = run(fakes.plan(tmp_path, ("warned", "fail", {"how": "warn"})), fakes.loud)
    assert "warning warned the rows are short" in capsys.readouterr().out
    assert any(event.kind == "warning" and event.step == "warned" for event in read_journal(tmp_path / "out"))
    assert result.steps[0]["facts"]["n_short"] == 3


def test_notes_reach_the_listener_the_journal_and_the_log(fakes, tmp_path):
    heard = []
    run(fakes.plan(tmp_path, ("noted", "fail", {"how": "note"})), heard.append)
    told = [event.message for event in heard if event.kind == "note"]
    assert told == ["going on from step 6 of 16", "compiling loops"]  # by a Reporter, and by a logger of ours
    assert [event.message for event in read_journal(tmp_path / "out") if event.kind == "note"] == told
    log = (tmp_path / "out" / "logs" / "noted.log").read_text()
    assert all(message in log for message in told)


def test_secret_of_the_environment_is_in_no_journal(fakes, tmp_path, monkeypatch):
    monkeypatch.setenv("SOME_TOKEN", "hunter2hunter2")
    workflow = {"systems": {"a": {"config": {"environment_variables": {"HF_TOKEN": "hf_abcdefghijklmnopqrst"}}}}}
    run(fakes.plan(tmp_path, ("warned", "fail", {"how": "warn"}), workflow=workflow))
    for file in ("journal.jsonl", "workflow.json"):
        text = (tmp_path / "out" / file).read_text()
        assert "hunter2" not in text
        assert "hf_abc" not in text


def test_step_name_with_slashes_stays_in_the_log_folder(fakes, tmp_path):
    run(fakes.plan(tmp_path, ("../../up", "write", {})))
    assert [path.name for path in (tmp_path / "out" / "logs").iterdir()] == ["-up.log"]


def test_model_outside_of_the_output_folder_is_a_bug_of_the_pass(fakes, tmp_path):
    with pytest.raises(TypeError, match=r"pass 'stray' gave a model at .* outside"):
        run(fakes.plan(tmp_path, ("away", "stray", {})))
    assert read_journal(tmp_path / "out")[-1].kind == "run_failed"


def test_adapter_is_delivered_beside_the_model(fakes, tmp_path):
    result = run(fakes.plan(tmp_path, ("adapter", "adapt", {}), ("full", "write", {})))
    assert (tmp_path / "out" / "adapter" / "adapter_config.json").is_file()
    assert (result.model / "part0.safetensors").is_file()


def test_delivered_adapter_names_its_base_and_the_cached_one_does_not(fakes, tmp_path):
    run(fakes.plan(tmp_path, ("adapter", "adapt", {})))
    for folder in ("adapter", "model"):  # where the adapter is all that is delivered, it is the model too
        delivered = json.loads((tmp_path / "out" / folder / "adapter_config.json").read_text())
        assert delivered["base_model_name_or_path"] == str(tmp_path / "base")
    workflow = {"input_model": {"model_path": "owner/model"}}  # which lay in the hub's cache
    run(fakes.plan(tmp_path, ("adapter", "adapt", {}), workflow=workflow))
    delivered = json.loads((tmp_path / "out" / "adapter" / "adapter_config.json").read_text())
    assert delivered["base_model_name_or_path"] == "owner/model"
    texts = {path.read_text() for path in (tmp_path / "cache" / "steps").glob("*/content/adapter_config.json")}
    assert "{}" in texts  # the step's own result names no place


def test_cached_adapter_is_bound_to_the_present_place_of_its_base(fakes, tmp_path):
    steps = (("adapter", "adapt", {}), ("scaled", "scale", {}))
    run(fakes.plan(tmp_path, *steps))
    (tmp_path / "base").rename(tmp_path / "moved")
    plan = fakes.plan(tmp_path, *steps, input_model=Model("hf", tmp_path / "moved"))
    assert cached(plan) == {"adapter", "scaled"}
    entry = Cache(plan.cache_dir).lookup(plan_keys(plan, plan.input_model, Hashes(plan.cache_dir)).models["scaled"])
    assert entry.result["model"]["base"] == "${input.base}"
    assert str(tmp_path) not in json.dumps(entry.result)
    run(plan)


def test_older_model_stays_until_the_new_one_is_complete(fakes, tmp_path):
    run(fakes.plan(tmp_path, ("good", "write", {"text": "old"})))
    with pytest.raises(StepFailed):
        run(fakes.plan(tmp_path, ("bad", "fail", {})))
    assert (tmp_path / "out" / "model" / "part0.safetensors").read_bytes().startswith(b"old")
    run(fakes.plan(tmp_path, ("good", "write", {"text": "new", "n_files": 1})))
    assert sorted(path.name for path in (tmp_path / "out" / "model").iterdir()) == ["config.json", "part0.safetensors"]
    assert not list((tmp_path / "out").glob("*.partial"))


def test_delivered_file_that_was_changed_is_delivered_again(fakes, tmp_path):
    plan = fakes.plan(tmp_path, ("good", "write", {}))
    part = run(plan).model / "part0.safetensors"
    part.write_bytes(b"changed")
    run(plan)
    assert part.read_bytes() == b"a" * 1000


def test_large_files_are_linked_and_small_ones_copied(fakes, tmp_path, monkeypatch):
    assert LINKED_BYTES > 1000
    monkeypatch.setattr("olivine.workflow.deliver.LINKED_BYTES", 500)
    model = run(fakes.plan(tmp_path, ("good", "write", {}))).model
    assert (model / "part0.safetensors").stat().st_nlink == 2
    assert (model / "config.json").stat().st_nlink == 1


def test_damaged_entry_is_noticed_and_made_again(fakes, tmp_path, capsys):
    plan = fakes.plan(tmp_path, *THREE)
    run(plan)
    key = plan_keys(plan, plan.input_model, Hashes(plan.cache_dir)).models["two"]
    part = plan.cache_dir / "steps" / key / "content" / "part1.safetensors"
    part.write_bytes(part.read_bytes()[:-1])
    result = run(plan, fakes.loud)
    assert [step["cached"] for step in result.steps] == [True, False, True]
    assert "'part1.safetensors' has 999 bytes, not 1000" in capsys.readouterr().out


def test_plan_with_problems_is_not_run(fakes, tmp_path):
    plan = fakes.plan(tmp_path, *THREE, problems=(Problem("unsupported", "x", "no."),))
    with pytest.raises(ConfigError):
        run(plan)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("place", ["output_dir", "cache_dir"])
def test_file_in_the_way_is_one_sentence(fakes, tmp_path, place):
    (tmp_path / "file").write_text("")
    with pytest.raises(RequestError, match=f"{place} '.*file.*a file is in the way"):
        run(fakes.plan(tmp_path, *THREE, **{place: tmp_path / "file"}))


def test_file_where_the_model_goes_is_one_sentence(fakes, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "model").write_text("mine")
    with pytest.raises(RequestError, match="is a file, but a folder goes there"):
        run(fakes.plan(tmp_path, *THREE))
    assert (tmp_path / "out" / "model").read_text() == "mine"


@pytest.mark.parametrize("name", ["journal.jsonl", "workflow.json"])
def test_folder_where_a_file_goes_is_one_sentence(fakes, tmp_path, name):
    (tmp_path / "out" / name).mkdir(parents=True)
    with pytest.raises(RequestError, match=f"{name}' is a folder, but a file goes there"):
        run(fakes.plan(tmp_path, *THREE))
    assert [path.name for path in (tmp_path / "out").iterdir()] == [name]


def test_folder_that_cannot_be_made_is_one_sentence(fakes, tmp_path):
    with pytest.raises(RequestError, match="output_dir '/proc/olivine' cannot be written to"):
        run(fakes.plan(tmp_path, *THREE, output_dir=type(tmp_path)("/proc/olivine")))


def test_missing_input_model_is_one_sentence(fakes, tmp_path):
    with pytest.raises(RequestError, match="nowhere' does not exist"):
        run(fakes.plan(tmp_path, *THREE, input_model=Model("hf", tmp_path / "nowhere")))


def _plant_scores(plan, **scores):
    """Put scores into the cache, as an earlier run would have."""
    cache = Cache(plan.cache_dir)
    cache.prepare()
    keys = plan_keys(plan, plan.input_model, Hashes(plan.cache_dir))
    for name, numbers in scores.items():
        result = {"scores": numbers, "samples": [_sample(name)]}
        key = keys.scores[None if name == "base" else name]
        cache.obtain(key, f"score:{name}", lambda content, result=result: result)


def _sample(generated):
    return {"prompt": "cheap: ", "expected": "joy", "generated": generated}


def _scored_plan(fakes, tmp_path, max_drop):
    return fakes.plan(tmp_path, *THREE[:2], score=True, quality={"max_drop": max_drop})


def test_drop_within_the_goal_is_done(fakes, tmp_path):
    plan = _scored_plan(fakes, tmp_path, "3pp")
    _plant_scores(plan, base={"label_accuracy": 0.2}, one={"label_accuracy": 0.96}, two={"label_accuracy": 0.93})
    result = run(plan)
    assert result.status == "done"
    assert [row["model"] for row in result.scores] == ["base", "one", "two"]
    assert result.scores[2]["drop"] == pytest.approx(0.03)
    assert result.samples == [_sample("two")]


def test_drop_past_the_goal_names_the_seam_and_keeps_the_model(fakes, tmp_path):
    plan = _scored_plan(fakes, tmp_path, 0.03)
    _plant_scores(plan, base={"label_accuracy": 0.2}, one={"label_accuracy": 0.96}, two={"label_accuracy": 0.92})
    with pytest.raises(
        GoalMissed, match=r"fell by 4.0 points from 'one' \(96.0%\) to 'two' \(92.0%\).*allows 3.0"
    ) as caught:
        run(plan)
    told = [event.message for event in read_journal(plan.output_dir) if event.kind == "warning"]
    assert not [message for message in told if "fell by" in message]  # once is enough
    assert caught.value.result.model.is_dir()
    assert caught.value.result.status == "goal missed"
    done = read_journal(plan.output_dir)[-1]
    assert (done.kind, done.status) == ("run_done", "goal missed")


def test_model_that_broke_on_the_way_misses_the_goal_without_numbers(fakes, tmp_path):
    plan = _scored_plan(fakes, tmp_path, None)
    _plant_scores(
        plan, base={"loss": 1.0}, one={"loss": float("nan"), "degenerate": "NaN logits in 3 of 3 rows"}, two={}
    )
    with pytest.raises(GoalMissed, match="'one' is broken, 'base' was not: NaN logits"):
        run(plan)


def test_score_of_rows_that_changed_is_not_taken_from_the_cache(fakes, tmp_path):
    plan = _scored_plan(fakes, tmp_path, None)
    _plant_scores(plan, base={}, one={}, two={})
    assert {"score:base", "score:one", "score:two"} <= cached(plan)
    with (tmp_path / "rows.jsonl").open("a") as file:
        file.write('{"phrase": "no", "tone": "fear"}\n')
    assert not {"score:base", "score:one", "score:two"} & cached(plan)


def test_goal_that_is_no_share_is_refused_before_anything_runs(fakes, tmp_path):
    with pytest.raises(RequestError, match=r"quality\.max_drop"):
        run(_scored_plan(fakes, tmp_path, "three"))
    assert not (tmp_path / "out").exists()


def _in_hub_cache(folder, name, *files):
    """A model as huggingface_hub keeps it."""
    kept = folder / f"models--{name.replace('/', '--')}"
    snapshot = kept / "snapshots" / "0123456789abcdef0123456789abcdef01234567"
    snapshot.mkdir(parents=True)
    (kept / "refs").mkdir()
    (kept / "refs" / "main").write_text(snapshot.name)
    for file in files:
        (snapshot / file).write_text("{}")
    return snapshot


def _hub_plan(fakes, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    return fakes.plan(tmp_path, *THREE[:1], input_model=None, hub_name="someone/tiny")


def test_hub_model_is_fetched_once(fakes, tmp_path, monkeypatch):
    plan = _hub_plan(fakes, tmp_path, monkeypatch)
    _in_hub_cache(tmp_path / "hub", "someone/tiny", "config.json", "model.safetensors")
    assert cached(plan) == frozenset()
    assert [step["name"] for step in run(plan).steps] == ["fetch:someone/tiny", "one"]
    monkeypatch.setattr("subprocess.Popen", None)
    assert run(plan).steps[0]["name"] == "one"
    assert cached(plan) == {"one"}


def test_hub_model_that_is_gone_from_the_hub_cache_is_fetched_again(fakes, tmp_path, monkeypatch):
    plan = _hub_plan(fakes, tmp_path, monkeypatch)
    snapshot = _in_hub_cache(tmp_path / "hub", "someone/tiny", "config.json", "model.safetensors")
    run(plan)
    snapshot.rename(tmp_path / "elsewhere")
    with pytest.raises(
        StepFailed, match="step 'fetch:someone/tiny' failed: the model 'someone/tiny' is not in the hub's local cache"
    ) as caught:
        run(plan)
    assert caught.value.exit_code == 1
    (tmp_path / "elsewhere").rename(snapshot)
    run(plan)


def test_pickled_hub_model_is_refused(fakes, tmp_path, monkeypatch):
    plan = _hub_plan(fakes, tmp_path, monkeypatch)
    _in_hub_cache(tmp_path / "hub", "someone/tiny", "config.json", "pytorch_model.bin")
    with pytest.raises(StepFailed, match="has no safetensors; convert its weights, pickled ones are not read"):
        run(plan)
