"""`olivine init` writes configs that `plan` accepts, whatever the rows; shells complete; editors get the schema."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import olivine
from olivine.cli import exit_code
from olivine.config import load
from olivine.workflow.plan import make_plan

ROWS = {
    "pairs.jsonl": [{"question": f"what is {n}?", "answer": f"it is {n}"} for n in range(10)],
    "chats.jsonl": [
        {"messages": [{"role": "user", "content": f"a {n}"}, {"role": "assistant", "content": "b"}]} for n in range(10)
    ],
    "texts.jsonl": [{"text": f"a sentence, number {n}, of some words"} for n in range(10)],
    "labels.jsonl": [{"id": n, "phrase": f"day {n}", "tone": "joy"} for n in range(10)],
}


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, rows in ROWS.items():
        Path(name).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return tmp_path


@pytest.fixture
def program(tmp_path):
    """A folder with the program `olivine`, as an installation has it."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "olivine").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m olivine "$@"\n')
    (folder / "olivine").chmod(0o755)
    source = str(Path(olivine.__file__).parent.parent)
    return os.environ | {"PATH": f"{folder}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": source}


def problems(path):
    return [str(problem) for problem in make_plan(load(Path(path)), offline=True).problems]


@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("output", ["olive-config.yaml", "olive-config.json"])
def test_config_of_any_rows_plans(rows, output, tiny_phi3, here):
    assert exit_code(["init", rows, "--yes", "--model", str(tiny_phi3), "--output", output, "--device", "cpu"]) == 0
    assert problems(output) == []


@pytest.mark.parametrize(
    "flags",
    [
        ["--method", "qlora"],
        ["--method", "full", "--ship", "fp32"],
        ["--method", "full", "--ship", "folder"],
        ["--method", "none"],
        ["--ship", "folder", "--max-drop", "0.5pp"],
        ["--text-template", 'Text: "{phrase}"\nTone: {tone}'],
        ["--prompt-col", "phrase", "--answer-col", "tone"],
    ],
)
def test_config_of_any_flags_plans(flags, tiny_phi3, here):
    assert exit_code(["init", "labels.jsonl", "--yes", "--device", "cpu", "--model", str(tiny_phi3), *flags]) == 0
    assert problems("olive-config.yaml") == []


@pytest.mark.parametrize("text", ["0.03", "3pp", "3%"])
def test_drop_is_written_as_in_other_commands(text, tiny_phi3, here, capsys):
    assert exit_code(["init", "labels.jsonl", "--yes", "--model", str(tiny_phi3), "--max-drop", text]) == 0
    assert load(Path("olive-config.yaml")).workflow.quality.max_drop == "3pp"
    assert exit_code(["init", "labels.jsonl", "--yes", "--model", str(tiny_phi3), "--max-drop", "3", "--force"]) == 2
    assert "write 0.01, 1% or 1pp" in capsys.readouterr().err


def test_guess_among_several_columns_is_told_with_the_others(tiny_phi3, here, capsys):
    rows = [f"The router {n} is slow,{('net', 'pay')[n % 2]},agent {'ABC'[n % 3]}" for n in range(12)]
    Path("mine.csv").write_text("\n".join(["Words,Queue,Agent", *rows]) + "\n", encoding="utf-8")
    assert exit_code(["init", "mine.csv", "--yes", "--model", str(tiny_phi3), "-o", "my own.yaml"]) == 0
    screen = capsys.readouterr()
    assert "! 'Agent' is a guess by its cells; 'Queue' would do as well: --answer-col" in screen.err
    assert "olivine run 'my own.yaml'" in screen.out
    assert max(map(len, Path("my own.yaml").read_text(encoding="utf-8").splitlines())) <= 110


@pytest.mark.parametrize("command", [["schema"], ["init", "labels.jsonl", "--yes", "--model", "m", "--force"]])
def test_file_that_has_no_room_is_named(command, here, capsys):
    assert exit_code([*command, "--output", "/dev/full"]) == 2
    assert "'/dev/full' cannot be written: no space left on device" in capsys.readouterr().err


def test_yaml_says_what_json_says(tiny_phi3, here):
    for output in ("a.yaml", "b.json"):
        exit_code(["init", "labels.jsonl", "--yes", "--model", str(tiny_phi3), "--device", "cpu", "-o", output])
    assert load(Path("a.yaml")).workflow == load(Path("b.json")).workflow


def test_columns_that_tell_nothing_are_asked_for_or_guessed(tiny_phi3, here, capsys):
    exit_code(["init", "labels.jsonl", "--yes", "--model", str(tiny_phi3)])
    settings = load(Path("olive-config.yaml")).workflow.data_configs[0].pre_process_data_config
    assert (settings.prompt_col, settings.answer_col) == ("phrase", "tone")
    assert "pairs of 'phrase' (user) and 'tone' (assistant)" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    ("header", "row", "pair"),
    [
        (
            "Ticket #,Words,Queue,Prio,e-mail",
            "{n},The router is slow {n},{label} desk,,a{n}@example.com",
            "Words,Queue",
        ),
        ("id,Frage,Antwort,Gebiet", "{n},Was ist {n} plus eins?,Das ist dann {n} und eins,Rechnen", "Frage,Antwort"),
        ("番号,質問,色,日", "{n},りんごは何個ありますかそして何色ですか{n},赤い,2024-01-0{n}", "質問,色"),
        ("left,right", "{n},{n}", "left,right"),
        ("id,mail,date", "{n},a{n}@example.com,2024-01-0{n} 10:00", None),
    ],
)
def test_columns_are_guessed_by_their_cells_and_never_by_their_place(header, row, pair, tiny_phi3, here, capsys):
    rows = [row.format(n=n, label=("billing", "network")[n % 2]) for n in range(8)]
    Path("mine.csv").write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    code = exit_code(["init", "mine.csv", "--yes", "--model", str(tiny_phi3)])
    if pair is None:
        assert code == 2
        assert "write --prompt-col and --answer-col, of: id, mail, date" in capsys.readouterr().err
        return
    settings = load(Path("olive-config.yaml")).workflow.data_configs[0].pre_process_data_config
    assert f"{settings.prompt_col},{settings.answer_col}" == pair
    assert problems("olive-config.yaml") == []


def test_columns_with_some_empty_cells_are_guessed_all_the_same(tiny_phi3, here):
    rows = [f"{n},it came on day {n} and broke,{'' if n == 7 else ('good', 'bad')[n % 2]}" for n in range(12)]
    Path("mine.csv").write_text("\n".join(["id,review,verdict", *rows]) + "\n", encoding="utf-8")
    assert exit_code(["init", "mine.csv", "--yes", "--model", str(tiny_phi3)]) == 0
    settings = load(Path("olive-config.yaml")).workflow.data_configs[0].pre_process_data_config
    assert (settings.prompt_col, settings.answer_col) == ("review", "verdict")


@pytest.mark.parametrize(
    ("separator", "encoding", "told"),
    [(";", "utf-8", "sep ';'"), (";", "cp1252", "sep ';' and encoding 'cp1252'"), (",", "utf-16", "encoding 'utf-16'")],
)
def test_table_of_another_office_is_read_as_it_is_written(separator, encoding, told, tiny_phi3, here, capsys):
    rows = [("question", "answer"), *((f"Wie heißt Nummer {n}?", "Käse") for n in range(8))]
    Path("mine.csv").write_text("\n".join(map(separator.join, rows)), encoding=encoding)
    assert exit_code(["init", "mine.csv", "--yes", "--model", str(tiny_phi3)]) == 0
    assert f"mine.csv is read with {told}" in " ".join(capsys.readouterr().err.split())
    assert problems("olive-config.yaml") == []


def test_new_line_of_a_template_is_typed_as_a_shell_has_it(tiny_phi3, here):
    exit_code(["init", "labels.jsonl", "--model", str(tiny_phi3), "--text-template", r"{phrase}\n{tone}"])
    settings = load(Path("olive-config.yaml")).workflow.data_configs[0].pre_process_data_config
    assert settings.text_template == "{phrase}\n{tone}"


@pytest.mark.skipif(os.name != "posix", reason="there are no pseudo-terminals")
def test_five_questions_are_asked_on_a_terminal(tiny_phi3, here, program):
    ours, theirs = os.openpty()
    os.write(ours, "\n".join([str(tiny_phi3), "labels.jsonl", "phrase", "", "folder", "cpu", "5", "5pp", ""]).encode())
    done = subprocess.run(["olivine", "init"], env=program, stdin=theirs, capture_output=True, text=True, check=False)
    os.close(ours)
    os.close(theirs)
    assert done.returncode == 0, done.stderr
    workflow = load(Path("olive-config.yaml")).workflow
    assert workflow.input_model.model_path == str(tiny_phi3)
    assert workflow.data_configs[0].pre_process_data_config.prompt_col == "phrase"
    assert list(workflow.passes) == ["tune", "merge"]
    assert workflow.quality.max_drop == "5pp"


def test_only_file_of_rows_is_found(tiny_phi3, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("mine.csv").write_text("question,answer\n" + "".join(f"a{n},b{n}\n" for n in range(8)))
    assert exit_code(["init", "--yes", "--model", str(tiny_phi3), "--device", "cpu"]) == 0
    assert problems("olive-config.yaml") == []


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["nowhere.jsonl"], "there is no file of rows 'nowhere.jsonl'"),
        (["rows.xlsx"], "no file of rows"),
        (["labels.jsonl", "--prompt-col", "phrase", "--answer-col", "tune"], "tune"),
        (["one.jsonl"], "the column word alone"),
        ([], "no rows are named"),
        (["--method", "none", "--ship", "folder"], "nothing would be done"),
        (["labels.jsonl", "-o", "nowhere/olive.yaml"], "there is no folder 'nowhere'"),
        (["labels.jsonl", "-o", "there.yaml"], "is there already"),
    ],
)
def test_wrong_requests_write_nothing_and_say_the_fix(arguments, told, here, capsys):
    Path("rows.xlsx").write_bytes(b"PK")
    Path("one.jsonl").write_text('{"word": "a"}\n')
    Path("there.yaml").write_text("mine: 1\n")
    before = {path.name: path.read_bytes() for path in here.iterdir()}
    assert exit_code(["init", "--yes", "--model", "nowhere/model", *arguments]) == 2
    assert told in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in here.iterdir()} == before


@pytest.mark.parametrize("output", ["olive-config.yaml", "olive-config.json"])
def test_config_names_the_schema_that_lies_beside_it(output, tiny_phi3, here):
    assert exit_code(["init", "pairs.jsonl", "--yes", "--editor", "--model", str(tiny_phi3), "-o", output]) == 0
    schema = json.loads(Path("olive-schema.json").read_text(encoding="utf-8"))
    assert "$schema" in schema["properties"]
    assert "olive-schema.json" in Path(output).read_text(encoding="utf-8").splitlines()["yaml" not in output]
    assert problems(output) == []


def test_schema_has_an_example_of_every_pass_that_people_write(capsys):
    assert exit_code(["schema"]) == 0
    definitions = json.loads(capsys.readouterr().out)["$defs"]
    from olivine.passes import passes

    without = {name for name in passes.own if not definitions[name].get("examples")}
    assert without == {"gguf", "gguf_base"}  # the plan puts them itself
    for name, plugin in passes.own.items():
        for example in definitions[name].get("examples", ()):
            assert passes.find(example["type"]) is plugin
            assert example.keys() <= definitions[name]["properties"].keys()
            assert plugin.Params.model_validate({key: value for key, value in example.items() if key != "type"})


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_shell_gets_a_script_of_its_own_language(shell, capsys):
    assert exit_code(["completion", shell]) == 0
    script = capsys.readouterr().out
    assert "_OLIVINE_COMPLETE" in script
    if (found := shutil.which(shell)) is not None:
        subprocess.run([found, "-n"], input=script, text=True, check=True)


@pytest.mark.parametrize(
    ("line", "expected"),
    [("olivine pl", ["plan"]), ("olivine passes LoR", ["LoRA", "lora"]), ("olivine run --offl", ["--offline"])],
)
@pytest.mark.skipif(os.name != "posix" or shutil.which("bash") is None, reason="no bash here")
def test_bash_completes(line, expected, program):
    words = " ".join(f"'{word}'" for word in line.split())
    script = (
        f'eval "$(olivine completion bash)"\nCOMP_WORDS=({words})\nCOMP_CWORD=$((${{#COMP_WORDS[@]}}-1))\n'
        'COMP_LINE="${COMP_WORDS[*]}"\n_olivine_completion olivine\nprintf "%s\\n" "${COMPREPLY[@]}"\n'
    )
    done = subprocess.run(["bash", "-c", script], env=program, capture_output=True, text=True, check=True)
    assert done.stdout.split() == expected


def test_completion_says_where_its_line_goes(monkeypatch, capsys):
    monkeypatch.setenv("SHELL", "/usr/bin/fish")
    assert exit_code(["completion"]) == 0
    assert "olivine completion fish | source" in capsys.readouterr().out


def test_no_command_has_an_option_twice():
    from collections import Counter

    from olivine.cli import COMMANDS, olivine

    for name in COMMANDS:
        command = olivine.get_command(None, name)
        for one in (command, *getattr(command, "commands", {}).values()):
            options = Counter(option for param in one.params for option in param.opts)
            assert [option for option, n in options.items() if n > 1] == [], one.name
