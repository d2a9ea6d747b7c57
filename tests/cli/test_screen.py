"""What a person sees while a run goes on."""

import io
import re
import sys

import pytest

from olivine.cli._screen import Screen, duration, score_table, table_notes
from olivine.workflow.events import Noted, Progress, RunDone, RunStarted, StepDone, StepStarted


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize("width", [80, 120])
def test_bar_share_and_numbers_fit_into_a_terminal(width, monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setenv("TERM", "xterm")
    screen = Screen()
    description = "Fine-tune with LoRA: " + "a sentence that is longer than the terminal is wide " * 3
    screen(StepStarted(step="lora", description=description))
    metrics = {
        "loss": 1.23456,
        "tokens_per_second": 12345,
        "share_of_peak": 0.42,
        "memory_gb": 21.337,
        "seconds_left": 9,
    }
    screen(Progress(step="lora", done=45, total=100, metrics=metrics))
    screen._progress.refresh()
    screen(StepDone(step="lora", seconds=1.0))
    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", terminal.getvalue())
    assert "45 %" in shown
    assert "loss 1.235  12,345 tok/s  42% of peak  21.3 GB" in shown
    assert "…" not in shown
    assert shown.splitlines()[0].startswith("lora: Fine-tune with LoRA")
    assert "✓ lora: 1.0 s" in shown


def test_log_file_gets_a_line_for_each_step_and_no_bar(monkeypatch, capsys):
    screen = Screen()
    screen(StepStarted(step="lora", description="Fine-tune"))
    screen(Progress(step="lora", done=45, total=100, metrics={"loss": 1.0}))
    screen(StepDone(step="lora", seconds=1.0))
    assert capsys.readouterr().err == "lora: Fine-tune ...\n✓ lora: 1.0 s\n"


def test_steps_are_counted_notes_are_told_and_the_whole_time(capsys):
    screen = Screen(["lora", "merge"])
    screen(RunStarted(workflow={}, versions={}))
    screen(StepStarted(step="score:base", description="Measure"))
    screen(StepStarted(step="merge", description="Merge"))
    screen(Noted(step="merge", message="going on from step 6 of 16"))
    screen(StepDone(step="merge", seconds=3725.0))
    screen(RunDone(status="done"))
    told = capsys.readouterr().err.splitlines()
    assert told[:4] == [
        "score:base: Measure ...",
        "merge (step 2 of 2): Merge ...",
        "merge: going on from step 6 of 16",
        "✓ merge: 1 h 02 min",
    ]
    assert re.fullmatch(r"all in [\d.]+ s", told[4])


def test_whole_time_counts_from_the_command_and_not_from_the_first_step(capsys, monkeypatch):
    seconds = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: seconds[-1])
    screen = Screen()
    seconds.append(125.0)  # the look at the data
    screen(RunStarted(workflow={}, versions={}))
    seconds.append(130.0)
    screen(RunDone(status="done"))
    assert capsys.readouterr().err == "all in 30.0 s\n"


@pytest.mark.parametrize(
    ("seconds", "told"), [(0.04, "0.0 s"), (99.9, "99.9 s"), (125, "2 min 05 s"), (7260, "2 h 01 min")]
)
def test_times_are_told_as_people_do(seconds, told):
    assert duration(seconds) == told


def seam(name, **values):
    return {"model": name, "n_rows": 48, "size_bytes": 1_234_567_890, **values}


LARGEST = {"label_accuracy": 1.0, "drop": 0.999, "loss": 10.123, "kl": 11.1234, "top1_agreement": 1.0}


def test_table_fits_80_columns_and_cuts_what_is_too_long():
    rows = [seam("base", loss=10.0, label_accuracy=0.0), seam("a-name-that-nobody-would-want-to-read-twice", **LARGEST)]
    table = score_table(rows)
    assert {len(line) for line in table} == {80}
    assert table[0].split("|")[1].strip() == "model"
    assert "a-name-that-nob" in table[3]
    assert "-99.9%" in table[3]


def test_table_has_no_column_without_a_number():
    (title, _, line) = score_table([seam("base", loss=1.5)])
    assert title.split() == ["|", "model", "|", "loss", "|", "size", "|"]
    assert line == "| base  | 1.500 | 1.2 GB |"


def test_number_that_is_none_is_shown_as_such():
    (_, _, line) = score_table([seam("base", loss=None, no_number=["loss", "perplexity"])])
    assert line == "| base  | none | 1.2 GB |"


def test_rows_that_were_left_out_are_told_for_each_model():
    rows = [seam("base"), seam("build", n_left_out=3, n_other_tokens=2, n_empty=5)]
    assert table_notes(rows) == [
        "build: 3 rows are longer than the model reads, and left out",
        "build: 5 answers are empty",
        "build: 2 prompts have other tokens in onnxruntime-genai",
    ]


def test_standard_error_of_accuracies_is_told_once_the_largest():
    shares = [("base", 0.0, 0.003), ("lora", 0.875, 0.0262), ("build", 0.9, 0.0238)]
    rows = [seam(name, n_rows=160, label_accuracy=p, label_accuracy_standard_error=e) for name, p, e in shares]
    assert table_notes(rows) == ["Accuracy: ± 2.6 points (160 rows), one standard error."]
    assert table_notes([seam("base", n_rows=160, loss=1.5)]) == []


def test_numbers_of_plugins_are_told_a_line_each():
    names = ["opening", "letters"]
    rows = [
        seam("base", opening=0.25, letters=12.0, of_plugins=names),
        seam("build", opening=0.5, letters=None, of_plugins=names),
    ]
    assert table_notes(rows) == ["opening: base 0.25, build 0.5", "letters: base 12, build none"]


def test_model_without_a_tokenizer_of_the_runtime_is_marked():
    (note,) = table_notes([seam("base"), seam("build", token_ids_only=True)])
    assert note == "build: asked in token ids: onnxruntime-genai reads no tokenizer of it"


@pytest.mark.parametrize("no_color", ["", "1"])
def test_no_color_is_honoured_by_every_command(no_color, monkeypatch):
    from olivine.cli import olivine

    monkeypatch.setenv("NO_COLOR", no_color)
    with olivine.make_context("olivine", ["passes", "lora"]) as context:
        olivine.invoke(context)
        assert context.color is (False if no_color else None)  # click writes no colours where it is False
