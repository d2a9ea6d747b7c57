import json

import pytest

from olivine.workflow.events import Other, Progress, RunStarted, Scored, StepCached, StepDone, Warned
from olivine.workflow.journal import HIDDEN, Journal, hide_secrets, read_journal

STARTED = RunStarted(workflow={"a": 1}, versions={})


def test_events_come_back_in_order_with_time_and_run(tmp_path):
    journal = Journal(tmp_path)
    step = StepDone(step="lora", key="k2", pass_name="lora", params={"r": 2}, parent_key="k1", facts={"n": 3})
    score = Scored(model="lora", step="lora", previous="base", drop=0.25, scores={"loss": 1.5, "n_rows": 4})
    written = [STARTED, step, StepCached(step="merge"), score, Warned(step="lora", message="short")]
    for event in written:
        journal.write(event)
    events = read_journal(tmp_path)
    assert events == written
    assert len({event.run for event in events}) == 1
    assert sorted(event.time for event in events) == [event.time for event in events]
    assert score.row == {"model": "lora", "format": "", "size_bytes": None, "loss": 1.5, "n_rows": 4, "drop": 0.25}


def test_progress_is_shown_and_not_kept(tmp_path):
    Journal(tmp_path).write(Progress(step="lora", done=1, total=2))
    assert not (tmp_path / "journal.jsonl").exists()


def test_journal_is_appended_to_and_the_last_run_can_be_read_alone(tmp_path):
    for name in ("first", "second"):
        Journal(tmp_path).write(RunStarted(workflow={"name": name}, versions={}))
    assert len(read_journal(tmp_path)) == 2
    assert [event.workflow for event in read_journal(tmp_path, last_run=True)] == [{"name": "second"}]


def test_line_cut_short_by_a_crash_spoils_no_other(tmp_path):
    Journal(tmp_path).write(STARTED)
    with (tmp_path / "journal.jsonl").open("a") as file:
        file.write('{"event": "step_do')
    Journal(tmp_path).write(STARTED)
    assert read_journal(tmp_path) == [STARTED, STARTED]


def test_line_of_another_version_is_read_and_kept_as_it_is(tmp_path):
    lines = [
        {"event": "danced", "run": "a", "time": 1.0, "with": "wolves"},
        {"event": "rows", "run": "a", "time": 2.0, "data": "without its other fields"},
        {"event": "warning", "run": "a", "time": 3.0, "step": "x", "message": "m", "colour": "red"},
    ]
    (tmp_path / "journal.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    events = read_journal(tmp_path)
    assert [type(event) for event in events] == [Other, Other, Warned]
    assert [event.to_json() for event in events] == lines


def test_line_of_an_earlier_version_names_its_step(tmp_path):
    line = {"event": "step_done", "run": "a", "time": 1.0, "key": "k", "name": "lora", "cached": False, "seconds": 2.0}
    (tmp_path / "journal.jsonl").write_text(json.dumps(line) + "\n")
    (event,) = read_journal(tmp_path)
    assert event == StepDone(step="lora", key="k", seconds=2.0)
    assert line.items() <= event.to_json().items()


def test_every_line_is_strict_json(tmp_path):
    scores = {"perplexity": float("inf"), "path": tmp_path, "text": "zeile\nzwei", "ok": True}
    Journal(tmp_path).write(Scored(model="base", scores=scores))
    (line,) = (tmp_path / "journal.jsonl").read_text().splitlines()
    event = json.loads(line, parse_constant=pytest.fail)
    assert (event["perplexity"], event["path"], event["ok"]) == (None, str(tmp_path), True)


@pytest.mark.parametrize(
    "key",
    ["HF_TOKEN", "hf_token", "token", "password", "client_secret", "AZURE_CLIENT_SECRET", "account_key", "api_key"],
)
def test_setting_that_is_secret_by_its_name_is_hidden(key):
    assert hide_secrets({"env": {key: "abc"}}) == {"env": {key: HIDDEN}}


@pytest.mark.parametrize("key", ["pad_token", "eos_token", "tokenizer", "n_tokens", "keyvault_name", "target"])
def test_setting_of_a_tokenizer_is_no_secret(key):
    assert hide_secrets({key: "</s>"}) == {key: "</s>"}


def test_switch_named_like_a_secret_is_none():
    assert hide_secrets({"hf_token": True}) == {"hf_token": True}


@pytest.mark.parametrize(
    "text",
    [
        "hf_abcdefghijklmnopqrstuvwx",
        "https://user:pass@host/x",
        "https://a.blob/x?se=1&sig=abc%2B",
        "sk-abcdefghijklmnopqrstuv",
    ],
)
def test_secret_is_hidden_wherever_it_stands(text):
    hidden = hide_secrets([f"could not open {text} today"])[0]
    assert HIDDEN in hidden
    assert "abc" not in hidden
    assert "pass" not in hidden


@pytest.mark.parametrize("value", ["e" * 400, "e/" * 3000, "a//b\\nul" * 40])
def test_secret_that_no_file_system_takes_as_a_name_is_hidden(monkeypatch, value):
    """CI services set tokens of many hundred characters."""
    monkeypatch.setenv("ACTIONS_RUNTIME_TOKEN", value)
    assert hide_secrets({"log": f"sent {value}"}) == {"log": f"sent {HIDDEN}"}


def test_secret_that_holds_another_is_hidden_whole(monkeypatch):
    monkeypatch.setenv("A_TOKEN", "correct horse")
    monkeypatch.setenv("B_TOKEN", "correct horse battery")
    assert hide_secrets(["key: correct horse battery"]) == [f"key: {HIDDEN}"]


def test_value_of_a_secret_variable_is_hidden_in_any_text(monkeypatch):
    monkeypatch.setenv("MY_API_KEY", "correct horse battery")
    assert hide_secrets({"log": "key=correct horse battery."}) == {"log": f"key={HIDDEN}."}
