import json

import pytest

from olivine.workflow.journal import HIDDEN, Journal, hide_secrets, read_journal


def test_events_come_back_in_order_with_time_and_run(tmp_path):
    journal = Journal(tmp_path)
    journal.write("run_started", workflow={"a": 1})
    journal.write("run_done")
    events = list(read_journal(tmp_path))
    assert [event["event"] for event in events] == ["run_started", "run_done"]
    assert events[0]["run"] == events[1]["run"]
    assert events[0]["time"] <= events[1]["time"]


def test_journal_is_appended_to_and_the_last_run_can_be_read_alone(tmp_path):
    for index in range(2):
        Journal(tmp_path).write("run_started", index=index)
    assert len(list(read_journal(tmp_path))) == 2
    assert [event["index"] for event in read_journal(tmp_path, last_run=True)] == [1]


def test_line_cut_short_by_a_crash_spoils_no_other(tmp_path):
    Journal(tmp_path).write("run_started")
    with (tmp_path / "journal.jsonl").open("a") as file:
        file.write('{"event": "step_do')
    Journal(tmp_path).write("run_started")
    assert [event["event"] for event in read_journal(tmp_path)] == ["run_started", "run_started"]


def test_every_line_is_strict_json(tmp_path):
    Journal(tmp_path).write("score", perplexity=float("inf"), path=tmp_path, text="zeile\nzwei", ok=True)
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
