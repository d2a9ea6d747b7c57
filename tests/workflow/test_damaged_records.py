"""Records that runs leave, damaged afterwards: what is read of them is whole, and nothing of them ends in a traceback."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from damage import assert_is_sentence, damaged, damaged_json, fuzzed
from olivine.config import load
from olivine.config.nodes import plain
from olivine.config.read import read
from olivine.errors import ConfigError, RequestError
from olivine.report import last_run, write_report
from olivine.systems._protocol import Job
from olivine.workflow.detached import all_runs
from olivine.workflow.durations import Durations
from olivine.workflow.events import KINDS, Other, event_of
from olivine.workflow.journal import read_journal

STEP = {"key": "a" * 8, "pass": "lora", "params": {"r": 4}, "parent": None, "parent_key": None, "host": None}
SCORE = {"model": "base", "format": "hf", "size_bytes": 10, "loss": 2.5, "label_accuracy": 0.5, "n_rows": 4}
JOURNAL = [
    {"event": "run_started", "workflow": {"passes": {"lora": {"type": "LoRA"}}}, "versions": {"torch": "2.13"}},
    {"event": "step_started", "step": "lora", **STEP, "description": "Fine-tune"},
    {"event": "warning", "step": "lora", "message": "look"},
    {"event": "step_done", "step": "lora", **STEP, "seconds": 1.5, "peak_memory_bytes": 5, "facts": {"loss": [1, 2]}},
    {"event": "score", "step": None, "key": "b", "previous": None, **SCORE},
    {"event": "run_done", "status": "done", "model": "/m", "output_dir": "/o", "scores": [SCORE], "missed": []},
]
LINES = [json.dumps({"run": "r1", "time": 1.0 + number, **record}) for number, record in enumerate(JOURNAL)]


def wounded(text):
    """The text as JSON with other words in it, as other bytes, or something else."""
    return st.one_of(damaged_json(text), damaged(text.encode()), st.binary(max_size=32))


@fuzzed
@given(draw=st.data())
def test_report_of_a_damaged_journal_is_drawn_or_refused(draw, tmp_path_factory):
    folder = tmp_path_factory.getbasetemp() / "damaged-journal"
    folder.mkdir(exist_ok=True)
    lines = [line.encode() for line in LINES]
    place = draw.draw(st.integers(0, len(lines) - 1))
    lines[place] = draw.draw(wounded(LINES[place]))
    (folder / "journal.jsonl").write_bytes(b"\n".join(lines) + b"\n")
    for event in read_journal(folder):
        assert isinstance(event.run, str)
    try:
        write_report([last_run(folder)], folder / "report.html")
    except RequestError as error:
        assert_is_sentence(error)


@pytest.mark.parametrize("kind", ["run_started", "step_done", "run_done", "warning"])
def test_event_whose_field_holds_what_it_never_does_is_kept_as_it_is(kind):
    (line,) = (line for line in LINES if json.loads(line)["event"] == kind)
    record = json.loads(line)
    assert type(event_of(record)) is KINDS[kind]
    for key, value in record.items():
        wrong = record | {key: 7 if isinstance(value, (str, dict, list)) else {"a": 1}}
        if key not in ("event", "run") and value is not None:
            assert event_of(wrong) == Other(record=wrong)


@fuzzed
@given(draw=st.data())
def test_damaged_record_of_a_detached_run_is_left_out_or_has_a_state(draw, tmp_path_factory):
    folder = tmp_path_factory.getbasetemp() / "damaged-runs"
    place = folder / "20260101-000000-aaaa"
    place.mkdir(parents=True, exist_ok=True)
    record = {
        "identity": place.name,
        "command": ["run", "--config", "c.json"],
        "folder": "/",
        "host": None,
        "output_dir": "/o",
        "started": 1.0,
        "pid": 2**22 + 1,
        "born": 1.0,
    }
    (place / "run.json").write_bytes(draw.draw(wounded(json.dumps(record))))
    (place / "ended.json").write_bytes(draw.draw(wounded('{"exit_code": 1}') | st.just(b'{"exit_code": 1}')))
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("OLIVINE_STATE", str(folder))
        for run in all_runs():
            assert run.identity == place.name
            assert run.to_json()["state"] in ("running", "lost", "done", "failed", "refused", "interrupted")


@fuzzed
@given(draw=st.data())
def test_damaged_durations_give_times_or_none(draw, tmp_path_factory):
    cache = tmp_path_factory.getbasetemp() / "damaged-durations"
    cache.mkdir(exist_ok=True)
    line = json.dumps({"kind": "lora", "params": "p", "n_parameters": 1000, "seconds": 2.5})
    (cache / "durations.jsonl").write_bytes(draw.draw(wounded(line)))
    seconds = Durations.of(cache).seconds("lora", {}, 2000)
    assert seconds is None or 0 <= seconds < float("inf")


@fuzzed
@given(draw=st.data())
def test_damaged_job_is_refused_in_a_sentence_or_is_a_job(draw, tmp_path):
    whole = Job("score", "score:base", tmp_path / "output", tmp_path / "scratch", params={"rows": [1]}).to_json()
    try:
        record = json.loads(draw.draw(damaged_json(json.dumps(whole))))
    except (ValueError, RecursionError):
        return
    if not isinstance(record, dict):
        return
    try:
        job = Job.from_json(record)
    except ValueError as error:
        assert_is_sentence(error)
        return
    assert Job.from_json(job.to_json()) == job


CONFIG = {
    "input_model": {"type": "HfModel", "model_path": "m"},
    "data_configs": [{"name": "rows", "load_dataset_config": {"data_files": "r.jsonl"}}],
    "passes": {"lora": {"type": "LoRA", "r": 4, "training_args": {"learning_rate": 1e-4}}},
    "output_dir": "out",
}


@fuzzed
@given(draw=st.data())
def test_damaged_config_is_refused_in_sentences_or_read_as_json_reads_it(draw, tmp_path_factory):
    path = tmp_path_factory.getbasetemp() / "damaged-config.json"
    path.write_bytes(draw.draw(wounded(json.dumps(CONFIG))))
    try:
        load(path)
    except ConfigError as error:
        for problem in error.problems():
            assert_is_sentence(problem)
        return
    assert plain(read(path).root) == json.loads(path.read_text(encoding="utf-8"))
