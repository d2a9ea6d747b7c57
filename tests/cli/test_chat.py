"""olivine chat, with a tiny model in transformers, which has no chat template: texts are gone on with."""

import json
import re
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from olivine.cli import exit_code
from olivine.models.adapter import name_base
from olivine.runtimes.chat import open_chat
from tiny import tiny_model

pytestmark = pytest.mark.usefixtures("warm")

PACE = r"\d+ tokens?, [\d,.]+ tokens/s"


def asked(capsys, *arguments):
    code = exit_code(["chat", *map(str, arguments)])
    told = capsys.readouterr()
    return code, told.out, told.err


def test_answer_comes_piece_by_piece_and_is_counted(tiny_llama):
    chat, pieces = open_chat(tiny_llama), []
    answer = chat.answer("day", 8, pieces.append)
    assert "".join(pieces) == answer
    assert 1 <= chat.n_written <= 8
    assert len(pieces) > 1


def test_pace_stands_on_standard_error_and_the_answer_alone_on_standard_output(tiny_llama, capsys):
    code, out, err = asked(capsys, tiny_llama, "--raw", "-p", "day", "--max-new-tokens", "4")
    assert code == 0
    assert out.startswith("day")
    assert "tokens/s" not in out
    assert re.fullmatch(PACE, err.strip().splitlines()[-1])


@pytest.mark.parametrize("name", ["prompts.txt", "prompts.jsonl"])
def test_every_line_of_a_file_is_answered_by_itself(name, tiny_llama, tmp_path, capsys):
    texts = ["what a day", "my dog", "what a day"]
    lines = [json.dumps({"prompt": text}) if name.endswith("l") else text for text in texts]
    (tmp_path / name).write_text("\n\n".join(lines) + "\n")
    code, out, err = asked(capsys, tiny_llama, "--raw", "--prompts", tmp_path / name, "--max-new-tokens", "4")
    assert code == 0
    parts = re.split(r"^> ", out, flags=re.MULTILINE)[1:]
    assert [part.splitlines()[0] for part in parts] == texts
    assert parts[0] == parts[2]
    assert len(re.findall(PACE, err)) == 3


@pytest.mark.parametrize("width", ["100", "40"])
def test_two_models_answer_side_by_side(width, tiny_llama, tiny_phi3, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", width)
    code, out, err = asked(capsys, tiny_llama, "--compare", tiny_phi3, "--raw", "-p", "day", "--max-new-tokens", "6")
    assert (code, err) == (0, "")
    assert out.count("tokens/s") == 2
    assert (" | " in out) == (width == "100")
    assert all(len(line) <= 100 for line in out.splitlines())


def test_model_beside_itself_answers_the_same(tiny_llama, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    _, out, _ = asked(capsys, tiny_llama, "--compare", tiny_llama, "--raw", "-p", "day", "--max-new-tokens", "4")
    assert out.rstrip().endswith("both answer the same")


@pytest.mark.parametrize(
    ("content", "says"),
    [("{no", r"p\.jsonl:1 is no JSON"), ('{"text": "a"}', r"p\.jsonl:1 has no text under 'prompt'")],
)
def test_file_of_prompts_that_is_none_is_told_with_its_line(content, says, tiny_llama, tmp_path, capsys):
    (tmp_path / "p.jsonl").write_text(content)
    code, _, err = asked(capsys, tiny_llama, "--prompts", tmp_path / "p.jsonl")
    assert code == 2
    assert re.search(says, err.replace("\n    ", " "))


def test_two_ways_to_ask_exclude_each_other(tiny_llama, tmp_path, capsys):
    code, _, err = asked(capsys, tiny_llama, "-p", "a", "--prompts", tmp_path / "p.txt")
    assert code == 2
    assert "--prompt and --prompts exclude each other" in err


def test_adapter_answers_on_the_base_that_it_names_or_that_is_given(tiny_llama, llama_adapter, tmp_path, capsys):
    adapter = Path(shutil.copytree(llama_adapter, tmp_path / "adapter"))
    name_base(adapter, str(tiny_llama), None)
    code, by_name, told = asked(capsys, adapter, "--raw", "-p", "day", "--max-new-tokens", "6")
    assert (code, len(told.splitlines())) == (0, 1)  # the pace, and no warning of a library
    name_base(adapter, "someone/model", None)
    question = ("--raw", "-p", "day", "--max-new-tokens", "6")
    assert asked(capsys, adapter, "--base", tiny_llama, *question)[:2] == (0, by_name)
    assert asked(capsys, tiny_llama, *question)[1] != by_name
    code, _, told = asked(capsys, adapter, *question)
    assert code == 2
    assert "name its base with --base" in told


def test_answer_ends_where_the_template_ends_a_turn(tmp_path, capsys):
    """A head of zeros writes the first token for ever, which ends a turn, and which no generation config names."""
    model = tiny_model(tmp_path / "model")
    weights = load_file(model / "model.safetensors")
    save_file(
        weights | {"lm_head.weight": weights["lm_head.weight"] * 0}, model / "model.safetensors", {"format": "pt"}
    )
    template = "{% for m in messages %}{{ m.content }}{% if m.role == 'assistant' %}<s>{% endif %}{% endfor %}"
    (model / "chat_template.jinja").write_text(template)
    code, _, told = asked(capsys, model, "-p", "day", "--max-new-tokens", "8")
    assert (code, told.splitlines()[-1].startswith("1 token,")) == (0, True)
