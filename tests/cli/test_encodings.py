"""Output in encodings that lack characters: pipes on Windows, old terminals, the locale C."""

import io
import json
import sys

import pytest

from olivine.cli import exit_code
from olivine.cli._process import write_anything
from olivine.cli._screen import Screen
from olivine.workflow.events import StepDone

OFFICE = ["cp1252", "cp437", "cp932", "ascii"]
ROWS = [{"質問": f"Wo ist → {n}? 🔴", "答え": "ja «é»"} for n in range(12)]


@pytest.fixture
def config(tiny_llama, tmp_path):
    rows = tmp_path / "行.jsonl"
    rows.write_text("".join(json.dumps(row) + "\n" for row in ROWS), encoding="utf-8")
    path = tmp_path / "config.json"
    content = {
        "input_model": {"type": "HfModel", "model_path": str(tiny_llama)},
        "data_configs": [
            {
                "name": "行→",
                "load_dataset_config": {"data_name": "json", "data_files": rows.name},
                "pre_process_data_config": {"prompt_col": "質問", "answer_col": "答え"},
            }
        ],
        "passes": {"tune": {"type": "LoRA", "train_data_config": "行→", "eval_dataset_size": 4}},
        "output_dir": str(tmp_path / "出"),
        "cache_dir": str(tmp_path / "cache"),
    }
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


@pytest.fixture
def output(monkeypatch):
    """Gives what the command prints in an encoding: exit code, standard output, standard error."""

    def of(encoding, *words):
        streams = {name: io.TextIOWrapper(io.BytesIO(), encoding, write_through=True) for name in ("stdout", "stderr")}
        with monkeypatch.context() as patch:
            for name, stream in streams.items():
                patch.setattr(sys, name, stream)
            write_anything()
            code = exit_code(list(map(str, words)))
            written = [getattr(sys, name).buffer.getvalue().decode(encoding) for name in streams]
        return code, *written

    return of


@pytest.mark.parametrize("encoding", OFFICE)
def test_what_an_encoding_lacks_is_said_in_plain_characters(encoding, config, output):
    code, text, _ = output(encoding, "plan", config)
    assert code == 0
    assert ("\\u8cea\\u554f" in text, "'\\u884c->'" in text) == (encoding != "cp932",) * 2
    assert ("質問" in text, "'行→'" in text) == (encoding == "cp932",) * 2


@pytest.mark.parametrize("encoding", ["utf-8", *OFFICE])
@pytest.mark.parametrize("command", [["migrate"], ["plan", "--json"]], ids=" ".join)
def test_json_says_the_same_in_every_encoding(command, encoding, config, output):
    name, *flags = command
    _, text, _ = output(encoding, name, config, *flags)
    assert any("行→" in value for value in strings(json.loads(text)))


def strings(value):
    if isinstance(value, str):
        yield value
    for one in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from strings(one)


def test_samples_are_shown_where_the_quotes_of_trained_text_are_missing(config, output):
    code, text, _ = output("cp932", "data", config, "--samples", "1")
    assert code == 0
    assert "<<" in text


def test_lines_of_steps_are_plain_where_there_are_no_other_characters(monkeypatch):
    monkeypatch.setattr(sys, "stderr", io.TextIOWrapper(io.BytesIO(), "ascii", write_through=True))
    write_anything()
    Screen()(StepDone(step="a → b", seconds=1.0))
    assert sys.stderr.buffer.getvalue() == b"+ a -> b: 1.0 s\n"


def test_prompt_in_the_locale_c_is_the_text_that_was_typed(tiny_llama, output):
    bytes_that_were_not_read = "顧客".encode().decode("ascii", "surrogateescape")
    said = [
        output("utf-8", "chat", tiny_llama, "--max-new-tokens", "2", "--prompt", text)
        for text in ("顧客", bytes_that_were_not_read)
    ]
    assert said[0][:2] == said[1][:2]
