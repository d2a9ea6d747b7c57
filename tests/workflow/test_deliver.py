"""What a user trusts a run with: the output folder, the input model, rows that are edited meanwhile."""

import json
import threading
import time

import pytest

from olivine.errors import RequestError, StepFailed
from olivine.models import Model
from olivine.workflow.engine import run
from olivine.workflow.folders import overlaps
from olivine.workflow.keys import cached

GOOD = ("good", "write", {"text": "a", "n_files": 2})


def _names(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_delivered_folder_holds_what_the_result_holds_and_nothing_of_an_earlier_one(fakes, tmp_path):
    """The files that both results have are the same, so nothing would need to be copied."""
    run(fakes.plan(tmp_path, ("good", "write", {"n_files": 3})))
    model = run(fakes.plan(tmp_path, ("good", "write", {"n_files": 1}))).model
    assert _names(model) == ["config.json", "part0.safetensors"]


@pytest.mark.parametrize("name", ["report.html", "workflow.json", "model"])
def test_what_a_killed_run_has_half_written_goes_though_all_is_delivered(fakes, tmp_path, name):
    plan = fakes.plan(tmp_path, ("one", "write", {}))
    run(plan)
    (tmp_path / "out" / f".{name}-{'0' * 32}.partial").write_text("half")
    run(plan)
    assert not list((tmp_path / "out").glob(".*.partial"))


def test_adapter_of_an_earlier_workflow_goes(fakes, tmp_path):
    run(fakes.plan(tmp_path, ("adapter", "adapt", {}), GOOD))
    assert (tmp_path / "out" / "adapter").is_dir()
    run(fakes.plan(tmp_path, GOOD))
    assert not (tmp_path / "out" / "adapter").exists()


def test_folder_that_no_run_delivered_stays(fakes, tmp_path):
    for name in ("adapter", "notes"):
        (tmp_path / "out" / name).mkdir(parents=True)
        (tmp_path / "out" / name / "mine").write_text("mine")
    run(fakes.plan(tmp_path, GOOD))
    assert _names(tmp_path / "out" / "adapter") == _names(tmp_path / "out" / "notes") == ["mine"]


@pytest.mark.parametrize("text", ["a", "b"])
def test_users_own_and_edited_files_in_the_model_folder_are_kept_beside_it(fakes, tmp_path, capsys, text):
    """With the same result again, and with another one."""
    model = run(fakes.plan(tmp_path, GOOD)).model
    (model / "README.md").write_text("mine")
    (model / "config.json").write_text('{"mine": 1}')
    run(fakes.plan(tmp_path, ("good", "write", {"text": text})), fakes.loud)
    assert _names(model) == ["config.json", "part0.safetensors", "part1.safetensors"]
    assert (model / "config.json").read_text() == "{}"
    kept = tmp_path / "out" / "kept" / "model"
    assert {name: (kept / name).read_text() for name in _names(kept)} == {
        "README.md": "mine",
        "config.json": '{"mine": 1}',
    }
    assert "'README.md' and 1 more in" in capsys.readouterr().out
    run(fakes.plan(tmp_path, ("good", "write", {"text": text})))
    assert not (tmp_path / "out" / "kept" / "model-2").exists()


def test_lost_record_of_what_was_delivered_costs_nothing_of_the_users(fakes, tmp_path):
    model = run(fakes.plan(tmp_path, GOOD)).model
    (tmp_path / "out" / ".delivered.json").write_text("[")
    (model / "README.md").write_text("mine")
    run(fakes.plan(tmp_path, ("good", "write", {"text": "b"})))
    assert (tmp_path / "out" / "kept" / "model" / "README.md").read_text() == "mine"
    assert _names(model) == ["config.json", "part0.safetensors", "part1.safetensors"]


def test_link_in_place_of_the_model_folder_is_replaced_and_what_it_names_stays(fakes, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "mine").write_text("mine")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "model").symlink_to(elsewhere)
    model = run(fakes.plan(tmp_path, GOOD)).model
    assert not model.is_symlink()
    assert _names(elsewhere) == ["mine"]
    assert not list((tmp_path / "out").glob(".*.partial"))


def test_edit_through_a_link_of_a_delivered_file_is_noticed_and_does_not_spoil_the_cache(fakes, tmp_path, monkeypatch):
    monkeypatch.setattr("olivine.workflow.deliver.LINKED_BYTES", 500)
    plan = fakes.plan(tmp_path, GOOD)
    part = run(plan).model / "part0.safetensors"
    assert not part.stat().st_mode & 0o222
    part.chmod(0o644)
    part.write_bytes(b"b" * 1000)
    again = run(plan)
    assert [step["cached"] for step in again.steps] == [False]
    assert part.read_bytes() == b"a" * 1000
    assert (tmp_path / "out" / "kept" / "model" / "part0.safetensors").read_bytes() == b"b" * 1000


@pytest.mark.parametrize("name", ["model", "adapter", "model/deep", "link"])
def test_input_model_that_the_result_would_replace_is_refused_and_stays(fakes, tmp_path, name):
    place = tmp_path / "out" / name.replace("link", "model")
    place.mkdir(parents=True)
    model = fakes.input_model(place)
    if name == "link":
        (tmp_path / "link").symlink_to(place)
        model = Model("hf", tmp_path / "link")
    plan = fakes.plan(tmp_path, GOOD, input_model=model)
    with pytest.raises(RequestError, match=r"the input model '.*' lies in '.*', which the result replaces"):
        run(plan)
    assert _names(place) == ["config.json", "model.safetensors"]
    assert not (tmp_path / "cache").exists()
    assert not (tmp_path / "out" / "journal.jsonl").exists()


@pytest.mark.parametrize("name", ["a\0b", "\ud800", "x" * 300])
@pytest.mark.parametrize("key", ["output_dir", "cache_dir"])
def test_folder_that_no_file_system_takes_is_one_sentence(fakes, tmp_path, key, name):
    with pytest.raises(RequestError, match=f"{key} .* cannot be written to"):
        run(fakes.plan(tmp_path, GOOD, **{key: tmp_path / name}))


def test_rows_in_the_model_folder_are_refused_and_stay(fakes, tmp_path):
    folder = tmp_path / "out" / "model"
    folder.mkdir(parents=True)
    plan = fakes.plan(tmp_path, GOOD, score=True)
    plan = type(plan)(**{**vars(plan), "score": fakes.rows(folder)})
    with pytest.raises(RequestError, match="the data file"):
        run(plan)
    assert _names(folder) == ["rows.jsonl"]


@pytest.mark.parametrize(
    ("cache_dir", "output_dir", "key"),
    [
        ("out/model", "out", "cache_dir"),
        ("out/model/a", "out", "cache_dir"),
        ("out/adapter", "out", "cache_dir"),
        ("cache", "cache/scratch", "output_dir"),
        ("cache", "cache/steps/x", "output_dir"),
        ("cache", "cache", None),
        ("out/cache", "out", None),
        ("cache", "cache/out", None),
        ("out/models", "out", None),
    ],
)
def test_folders_that_would_destroy_one_another_are_told(tmp_path, cache_dir, output_dir, key):
    found = list(overlaps(tmp_path / cache_dir, tmp_path / output_dir, []))
    assert [one[0] for one in found] == ([key] if key else [])


@pytest.mark.parametrize(
    ("cache_dir", "output_dir"), [("cache", "cache"), ("out/cache", "out"), ("cache", "cache/out")]
)
def test_folders_within_one_another_that_do_no_harm_are_served(fakes, tmp_path, cache_dir, output_dir):
    plan = fakes.plan(tmp_path, GOOD, cache_dir=tmp_path / cache_dir, output_dir=tmp_path / output_dir)
    for _ in range(2):
        assert _names(run(plan).model) == ["config.json", "part0.safetensors", "part1.safetensors"]
    assert cached(plan) == {"good"}


def _while_at_work(begun, edit):
    """Edit something as soon as the step has begun; it ends after that."""

    def wait():
        give_up = time.monotonic() + 60
        while not begun.exists() and time.monotonic() < give_up:
            time.sleep(0.01)
        edit()
        begun.with_name("edited").touch()

    thread = threading.Thread(target=wait)
    thread.start()
    return thread


def _slow(begun, **params):
    return "slow", "write", {"counter": str(begun), "until": str(begun.with_name("edited")), **params}


def _reading(fakes, tmp_path, begun, **changes):
    plan = fakes.plan(tmp_path, _slow(begun, data="rows"))
    step = type(plan.steps[0])(**{**vars(plan.steps[0]), "data": {"rows": fakes.rows(tmp_path).data}, **changes})
    return type(plan)(**{**vars(plan), "steps": (step,)})


@pytest.mark.parametrize("what", ["rows.jsonl", "script.py", "base/model.safetensors", "base/config.json"])
def test_result_of_a_file_that_was_edited_meanwhile_is_not_kept(fakes, tmp_path, what):
    begun, script, edited = tmp_path / "begun", tmp_path / "script.py", tmp_path / what
    script.write_text("1")
    plan = _reading(fakes, tmp_path, begun, files=(script,))
    before = edited.read_bytes()
    thread = _while_at_work(begun, lambda: edited.write_bytes(before[:-1] + b"?"))
    with pytest.raises(StepFailed, match=f"{edited.name}' was edited while the run was at work") as caught:
        run(plan)
    thread.join()
    assert caught.value.exit_code == 1
    edited.write_bytes(before)
    assert not cached(plan)
    assert [step["cached"] for step in run(plan).steps] == [False]


def test_file_that_is_gone_after_the_step_fails_it_in_a_sentence(fakes, tmp_path):
    plan = _reading(fakes, tmp_path, tmp_path / "begun")
    thread = _while_at_work(tmp_path / "begun", (tmp_path / "rows.jsonl").unlink)
    with pytest.raises(StepFailed, match="while the run was at work"):
        run(plan)
    thread.join()


def test_file_that_was_only_touched_is_the_same(fakes, tmp_path):
    plan = _reading(fakes, tmp_path, tmp_path / "begun")
    rows = tmp_path / "rows.jsonl"
    thread = _while_at_work(tmp_path / "begun", lambda: rows.write_bytes(rows.read_bytes()))
    assert run(plan).model.is_dir()
    thread.join()


def test_edited_rows_do_not_matter_to_steps_that_read_none(fakes, tmp_path):
    begun = tmp_path / "begun"
    plan = fakes.plan(tmp_path, _slow(begun), GOOD)
    rows = fakes.rows(tmp_path).data.load_dataset_config.data_files
    thread = _while_at_work(begun, lambda: (tmp_path / rows).write_text("{}\n"))
    assert run(plan).model.is_dir()
    thread.join()


def test_resolved_workflow_with_text_that_utf8_lacks_is_written(fakes, tmp_path):
    run(fakes.plan(tmp_path, GOOD, workflow={"passes": {"\ud800": {}}}))
    assert "\ud800" in json.loads((tmp_path / "out" / "workflow.json").read_text())["passes"]
