"""What a person sees while a run goes on."""

import io
import re
import sys

import pytest

from olivine.cli._screen import Screen


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
    screen.step_started("lora", "Fine-tune with LoRA: " + "a sentence that is longer than the terminal is wide " * 3)
    metrics = {
        "loss": 1.23456,
        "tokens_per_second": 12345,
        "share_of_peak": 0.42,
        "memory_gb": 21.337,
        "seconds_left": 9,
    }
    screen.progress("lora", 45, 100, metrics)
    screen._progress.refresh()
    screen.step_done("lora", "1.0 s")
    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", terminal.getvalue())
    assert "45 %" in shown
    assert "loss 1.235  12,345 tok/s  42% of peak  21.3 GB" in shown
    assert "…" not in shown
    assert shown.splitlines()[0].startswith("lora: Fine-tune with LoRA")
    assert "✓ lora: 1.0 s" in shown


def test_log_file_gets_a_line_for_each_step_and_no_bar(monkeypatch, capsys):
    screen = Screen()
    screen.step_started("lora", "Fine-tune")
    screen.progress("lora", 45, 100, {"loss": 1.0})
    screen.step_done("lora", "1.0 s")
    assert capsys.readouterr().err == "lora: Fine-tune ...\n✓ lora: 1.0 s\n"
