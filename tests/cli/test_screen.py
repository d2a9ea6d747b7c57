"""What a person sees while a run goes on."""

import io
import re
import sys
import threading

import pytest
from rich.console import Console, Group

from olivine.cli._board import Board, sparkline
from olivine.cli._pulse import Pulse
from olivine.cli._screen import Screen, _metric
from olivine.workflow.columns import note_on, score_table, table_notes
from olivine.workflow.events import (
    Noted,
    Progress,
    RunDone,
    RunStarted,
    Scored,
    StepDone,
    StepFailed,
    StepStarted,
    TrialDone,
    TrialStarted,
    Warned,
)
from olivine.workflow.units import duration


class Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self):
        return True

    @property
    def shown(self):
        """All that was ever drawn, without what moves the cursor or sets a colour."""
        return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", self.getvalue())


def as_terminal(monkeypatch):
    """Standard error as a terminal of 80 columns and 24 lines."""
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("LINES", "24")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    return terminal


def board(width=80, height=24, names=("lora", "merge", "build"), encoding="utf-8"):
    """A board at a clock of its own, and what it looks like on a console of that size."""
    now = [100.0]
    board = Board(names, _metric, clock=lambda: now[0])
    file = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    console = Console(file=file, width=width, height=height, force_terminal=True, color_system=None)

    def look(**more):
        with console.capture() as capture:
            console.print(Group(*board.lines(console, **more)))
        return capture.get().splitlines()

    return board, now, look


METRICS = {"loss": 1.23456, "tokens_per_second": 12345, "share_of_peak": 0.42, "memory_gb": 21.337}


def test_board_shows_the_state_of_every_step_and_the_progress_of_those_at_work():
    shown, now, look = board(width=120)
    shown.end("lora", "cached", "cached")
    shown.add("lora", "23 MB")
    shown.start("build", "Export")
    for step, loss in enumerate((4.0, 3.0, 2.0, 1.23456), 1):
        now[0] += 10
        shown.move("build", step * 10, 100, METRICS | {"loss": loss})
    shown.close()
    assert look() == ["✓ lora   cached  23 MB", "· merge", "- build"]
    shown.start("build", "Export")
    shown.move("build", 10, 100, METRICS)
    now[0] += 30
    shown.move("build", 40, 100, METRICS)
    lines = look()
    assert re.fullmatch(r". build  30.0 s  Export", lines[2])
    assert lines[3] == ("  ━━━━━━━━────────────  40 %  1:00 left  loss 1.235  ▁▁  12,345 tok/s  42% of peak  21.3 GB")
    shown.close()


def test_time_that_is_left_is_that_of_the_stage_a_step_is_in():
    shown, now, look = board(width=120)
    shown.start("build", "Export")
    for done in (10, 4000):
        shown.move("build", done, 4000, {"reading": "4.0 of 4.0 GB"})
        now[0] += 10
    assert look()[3].endswith("100 %  0:00 left  reading 4.0 of 4.0 GB")
    for done in (1, 3):
        shown.move("build", done, 10, {})
        now[0] += 10
    assert look()[3].endswith(" 30 %  1:10 left")
    shown.close()


@pytest.mark.parametrize("width", [20, 40, 80, 200])
def test_no_line_is_wider_than_the_terminal_and_share_and_time_are_never_cut(width):
    shown, _, look = board(width, names=("a-name-that-nobody-would-want-to-read-twice", "b"))
    shown.start("b", "a sentence that is longer than the terminal is wide " * 5)
    shown.move("b", 45, 100, METRICS | {"seconds_left": 7})
    lines = look()
    assert all(len(line) <= width for line in lines)
    assert (" 45 %  0:07 left" in lines[2]) == (width >= 40)
    assert " 45 %" in "".join(lines) or width < 20
    shown.close()


def test_long_list_keeps_what_is_at_work_in_sight():
    shown, _, look = board(height=10, names=[f"step{n}" for n in range(40)])
    for n in range(25):
        shown.end(f"step{n}", "done", "1.0 s")
    shown.start("step25", "Work")
    lines = look()
    assert len(lines) == 8
    assert "lines above" in lines[0]
    assert any("step25" in line for line in lines)
    shown.close()
    assert len(look(is_last=True)) == 25 + 1


def test_steps_join_the_list_where_they_belong():
    shown, _, look = board()
    for name in ("data", "score:base", "lora", "score:lora", "materialize:lora", "prove"):
        shown.end(name, "done")
    names = [line.split()[1] for line in look()]
    assert names == ["data", "score:base", "lora", "score:lora", "materialize:lora", "prove", "merge", "build"]


def test_console_that_knows_no_unicode_gets_plain_characters():
    shown, _, look = board(encoding="cp1252", width=60)
    shown.end("lora", "done", "1.0 s")
    shown.start("merge", "Merge")
    shown.move("merge", 1, 2, METRICS)
    shown.move("merge", 2, 2, METRICS)
    assert "".join(look()).isascii()
    shown.close()


@pytest.mark.parametrize(("values", "line"), [([1, 2, 3, 4, 5, 6, 7, 8], "▁▂▃▄▅▆▇█"), ([2, 2], "▁▁")])
def test_sparkline_rises_with_its_values(values, line):
    assert sparkline(values) == line
    assert len(sparkline(range(1000))) == 16


def test_board_stays_when_the_run_is_done_and_warnings_stand_above_it(monkeypatch):
    terminal = as_terminal(monkeypatch)
    screen = Screen(["lora", "merge"])
    screen(RunStarted(workflow={}, versions={}))
    screen(StepStarted(step="lora", description="Fine-tune with LoRA"))
    screen(Progress(step="lora", done=45, total=100, metrics=METRICS))
    screen(Warned(step="lora", message="half of the answers are empty"))
    screen(StepDone(step="lora", seconds=1.0))
    screen(Scored(model="lora", step="lora", size_bytes=23_000_000))
    screen(StepStarted(step="merge", description="Merge"))
    screen(StepFailed(step="merge", cause="no room"))
    screen.close()
    assert "! lora: half of the answers are empty" in terminal.shown
    assert terminal.shown.splitlines()[-2:] == ["✓ lora   1.0 s  23 MB", "✗ merge  failed"]
    assert terminal.getvalue().rstrip().endswith("\x1b[?25h")  # the cursor is back


def test_no_color_is_honoured_by_the_board(monkeypatch):
    terminal = as_terminal(monkeypatch)
    monkeypatch.setenv("NO_COLOR", "1")
    screen = Screen()
    screen(StepStarted(step="lora", description="Fine-tune"))
    screen(StepDone(step="lora", seconds=1.0))
    screen.close()
    assert "✓ lora" in terminal.shown
    assert not re.search(r"\x1b\[(3|9|4)\dm|\x1b\[\d+;3\dm", terminal.getvalue())


@pytest.mark.parametrize("dumb", [True, False])
def test_dumb_terminal_and_no_progress_get_lines(dumb, monkeypatch):
    terminal = as_terminal(monkeypatch)
    if dumb:
        monkeypatch.setenv("TERM", "dumb")
    screen = Screen(progress=dumb)
    screen(StepStarted(step="lora", description="Fine-tune"))
    screen(Progress(step="lora", done=45, total=100, metrics=METRICS))
    screen(StepDone(step="lora", seconds=1.0))
    assert terminal.shown == "lora: Fine-tune ...\n✓ lora: 1.0 s\n"


def pulse(**more):
    """A pulse at a clock of its own, and the lines that it printed."""
    now, lines = [100.0], []
    return Pulse(lines.append, _metric, clock=lambda: now[0], **more), now, lines


def test_log_hears_of_a_long_step_once_a_minute_with_the_share_that_is_done():
    beating, now, lines = pulse()
    beating.start("tune")
    beating.start("data")
    for seconds in range(0, 180, 5):
        now[0] = 100.0 + seconds
        beating.move("tune", seconds, 360, {"loss": 0.5, "seconds_left": 360 - seconds})
        beating.beat()
    assert lines == [
        "tune: 17%, at work for 60.0 s, 5:00 left, loss 0.500",
        "data: at work for 60.0 s",
        "tune: 33%, at work for 2 min 00 s, 4:00 left, loss 0.500",
        "data: at work for 2 min 00 s",
    ]
    beating.close()


def test_step_that_has_ended_or_takes_less_than_a_minute_is_not_told_of_again():
    beating, now, lines = pulse()
    beating.start("tune")
    now[0] += 59
    beating.beat()
    beating.end("tune")
    beating.move("tune", 1, 2, {})  # what was on its way when it ended
    now[0] += 1000
    beating.beat()
    assert lines == []
    beating.close()
    beating.beat()
    assert lines == []


def test_lines_of_a_log_come_by_themselves():
    """No event is needed: a library that computes for minutes sends none."""
    told = threading.Event()
    beating = Pulse(lambda line: told.set(), _metric, seconds=0.05)
    beating.start("build")
    assert told.wait(20)
    beating.close()


def test_screen_without_a_list_moves_the_pulse_and_ends_it(capsys):
    screen = Screen(["tune"], progress=False)
    screen(StepStarted(step="tune", description="Fine-tune"))
    assert any(thread.name == "pulse" for thread in threading.enumerate())
    screen(Progress(step="tune", done=1, total=4, metrics={}))
    screen(StepFailed(step="tune", cause="no room"))
    screen.close()
    assert capsys.readouterr().err == "tune (step 1 of 1): Fine-tune ...\n"


def test_trial_begins_with_every_step_waiting(monkeypatch):
    terminal = as_terminal(monkeypatch)
    screen = Screen(["lora"])
    screen(StepStarted(step="lora", description="Fine-tune"))
    screen(StepDone(step="lora", seconds=1.0))
    screen(TrialDone(trial=1, point={"r": 8}, outcome="measured", values={"loss": 0.5}, seconds=2.0))
    screen(TrialStarted(trial=2, point={"r": 16}, n_trials=4))
    screen.close()
    assert "trial 1: loss 0.500, 2.0 s" in terminal.shown
    assert "trial 2 of 4: r 16" in terminal.shown
    assert terminal.shown.splitlines()[-1] != "✓ lora  1.0 s"


def test_step_that_the_chosen_trial_has_not_is_not_in_the_list_that_stays(monkeypatch):
    terminal = as_terminal(monkeypatch)
    screen = Screen(["lora", "q", "build"])
    for step in ("lora", "build"):
        screen(StepStarted(step=step, description="Work"))
        screen(StepDone(step=step, seconds=1.0))
    screen.close()
    assert terminal.shown.splitlines()[-2:] == ["✓ lora   1.0 s", "✓ build  1.0 s"]


def test_doubt_of_a_plan_looks_like_a_warning(capsys):
    screen = Screen()
    screen.note("every model is scored on the held-out rows")
    screen.note("warning: half of them are also trained on")
    assert capsys.readouterr().err == (
        "note: every model is scored on the held-out rows\n! half of them are also trained on\n"
    )


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


@pytest.mark.parametrize("width", [70, 60, 50, 40])
def test_narrow_table_spares_columns_and_keeps_what_was_asked_for(width):
    rows = [seam("base", loss=10.0, label_accuracy=0.0), seam("merge_adapter_weights", **LARGEST)]
    table = score_table(rows, width)
    assert {len(line) for line in table} == {len(table[0])}
    assert len(table[0]) <= width
    assert all(title in table[0].split() for title in ("model", "accuracy", "loss", "size"))


def test_note_names_columns_that_are_there():
    rows = [seam("base"), seam("quantize", cosine=0.99, largest_difference=0.1)]
    assert "Same top" not in note_on(rows)
    rows_of_text = [seam("base", loss=10.0, label_accuracy=0.0), seam("merge_adapter_weights", **LARGEST)]
    assert "KL" in note_on(rows_of_text)
    assert note_on(rows_of_text, 40) == ""
    assert "rank one class first" in note_on([*rows, seam("again", cosine=0.9, top1_agreement=0.5)])


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


def test_accuracy_of_no_right_answer_is_said_to_tell_nothing():
    """0.0 % from the base to the result would else pass for a goal that is kept."""
    numbers = {"n_rows": 40, "label_accuracy": 0.0, "label_accuracy_standard_error": 0.01, "loss": 5.0}
    rows = [seam("base", **numbers), seam("build", **numbers)]
    (note,) = table_notes(rows)
    assert note.startswith("Accuracy: no row is answered right")
    assert "the loss" in note
    (note,) = table_notes([*rows, {**rows[0], "label_accuracy": 0.025}])
    assert note.startswith("Accuracy: ± 1.0 points")


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
