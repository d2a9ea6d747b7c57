"""What is wrong with data is said before anything runs, all at once, without a heavy library."""

import json
import os
import subprocess
import sys

import pytest
from data_tools import config, write_jsonl

from olivine.data import _check as implementation
from olivine.data import check

GOOD = {"phrase": "so glad", "tone": "joy"}
TEMPLATE = "{phrase} is {tone}"


@pytest.fixture
def there(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def problems(settings):
    return [(problem.kind, str(problem)) for problem in check(settings)]


def test_good_data_has_no_problem(there):
    write_jsonl(there / "train.jsonl", [GOOD] * 3)
    assert problems(config(there, text_template=TEMPLATE)) == []


def test_missing_file_names_the_nearest_one_and_where_it_was_looked_for(there):
    write_jsonl(there / "train.jsonl", [GOOD])
    ((kind, message),) = problems(config(there, "trian.jsonl"))
    assert kind == "missing-file"
    assert message == (
        f"data config 'tones': there is no data file 'trian.jsonl' (looked in {there}). Did you mean 'train.jsonl'?"
    )


def test_pipe_in_a_folder_of_data_is_passed_over(there):
    (there / "rows").mkdir()
    os.mkfifo(there / "rows" / "pipe.jsonl")
    write_jsonl(there / "rows" / "a.jsonl", [GOOD])
    assert problems(config(there, "rows", text_template=TEMPLATE)) == []


@pytest.mark.parametrize("load", [{"data_files": "rows"}, {"data_files": None, "data_dir": "rows"}])
def test_dead_link_in_a_folder_of_data_is_named(there, load):
    (there / "rows").mkdir()
    write_jsonl(there / "rows" / "a.jsonl", [GOOD])
    (there / "rows" / "b.jsonl").symlink_to(there / "gone.jsonl")
    ((kind, message),) = problems(config(there, load=load, text_template=TEMPLATE))
    assert kind == "missing-file"
    assert "b.jsonl' is a link to nothing" in message


def test_folder_with_thousands_of_others_is_none_of_data(there):
    for index in range(5_001):
        (there / "disk" / str(index)).mkdir(parents=True)
    for name in ("disk", "disk/**/*.jsonl"):
        ((_, message),) = problems(config(there, name))
        assert f"'{there / 'disk'}' has more than 5,000 folders in it: name the files." in message


def test_each_missing_file_is_a_problem(there):
    found = problems(config(there, {"train": ["a.jsonl", "b*.jsonl"], "test": "c.jsonl"}))
    assert [kind for kind, _ in found] == ["missing-file"] * 3


@pytest.mark.parametrize("content", ["", "\n\n", "[]"])
def test_empty_file_is_a_problem(there, content):
    (there / "train.json").write_text(content)
    ((kind, message),) = problems(config(there, "train.json"))
    assert kind == "missing-data"
    assert message.startswith("train.json: the file ")


def test_misspelt_column_is_one_problem_that_lists_the_columns(there):
    write_jsonl(there / "a.jsonl", [GOOD] * 9)
    write_jsonl(there / "b.jsonl", [GOOD] * 9)
    ((kind, message),) = problems(config(there, ["a.jsonl", "b.jsonl"], text_template="{phrase} {tnoe}"))
    assert kind == "invalid-value"
    assert message == (
        "data config 'tones': 'text_template' needs the column 'tnoe', which the data does not have; "
        "its columns are: phrase, tone. Did you mean 'tone'?"
    )


def test_malformed_rows_are_named_by_line(there):
    lines = [json.dumps(GOOD)] * 40
    lines[36] = '{"phrase": '
    lines[38] = json.dumps({"tone": "x"})
    lines[39] = json.dumps({"phrase": None, "tone": "joy"})
    (there / "train.jsonl").write_text("\n".join(lines))
    found = problems(config(there, text_template=TEMPLATE))
    assert [kind for kind, _ in found] == ["missing-data"] * 3
    assert found[0][1].startswith("train.jsonl:37: not JSON: ")
    assert found[1][1] == "train.jsonl:39: the row has no column 'phrase'; its columns are: tone."
    assert found[2][1] == "train.jsonl:40: the column 'phrase' is empty: fill it, or remove the row."


def test_many_wrong_rows_are_not_all_shown(there):
    (there / "train.jsonl").write_text("{}\n" * 3 + "nonsense\n" * 98)
    found = problems(config(there))
    assert len(found) == implementation.N_SHOWN + 1
    assert "93 more rows" in found[-1][1]


def test_csv_and_text_are_checked_too(there):
    (there / "a.csv").write_text("phrase,tone\na,joy\nb\n")
    found = problems(config(there, "a.csv", load={"data_name": "csv"}, text_template=TEMPLATE))
    assert [text.split(": ")[0] for _, text in found] == ["a.csv:3"]
    (there / "a.txt").write_text("x\n")
    found = problems(config(there, "a.txt", load={"data_name": "text"}, text_template=TEMPLATE))
    assert [kind for kind, _ in found] == ["invalid-value"] * 2


def test_of_a_large_file_only_the_first_row_is_read(there, monkeypatch):
    monkeypatch.setattr(implementation, "SCANNED_BYTES", 50)
    (there / "train.jsonl").write_text(json.dumps(GOOD) + "\n" + "nonsense\n" * 9)
    assert problems(config(there, text_template=TEMPLATE)) == []
    assert [kind for kind, _ in problems(config(there, text_template="{x}"))] == ["invalid-value"]


def test_messages_of_chats_are_checked(there):
    write_jsonl(there / "train.jsonl", [{"messages": [{"role": "user"}]}])
    ((_, message),) = problems(config(there, chat_template=True))
    assert message == "train.jsonl:1: 'messages[0].content' must be text, but is None."


def test_settings_are_checked_before_files(there):
    found = problems(config(there, "none.jsonl", strategy="join-random", text_template="{a.b}"))
    assert [kind for kind, _ in found] == ["invalid-value"] * 2


def test_split_that_is_not_there_is_a_problem(there):
    write_jsonl(there / "train.jsonl", [GOOD])
    ((kind, message),) = problems(config(there, load={"split": "validation"}, text_template=TEMPLATE))
    assert kind == "missing-data"
    assert "no split 'validation'; there is: train. Set split to train." in message


def test_reader_without_files_is_a_problem(there):
    ((kind, message),) = problems(config(there, None))
    assert kind == "missing-data"
    assert "'data_name: json' names no file" in message


def test_hub_without_network_is_a_problem_unless_it_is_cached(there, monkeypatch):
    monkeypatch.setenv("HF_HOME", str(there / "home"))
    monkeypatch.delenv("HF_DATASETS_CACHE", raising=False)
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)
    settings = config(there, None, load={"data_name": "org/Tones"})
    for name in ("HF_DATASETS_OFFLINE", "HF_HUB_OFFLINE"):
        monkeypatch.setenv(name, "1")
    ((kind, message),) = problems(settings)
    assert kind == "network"
    assert message.startswith("org/Tones: the data set 'org/Tones' is not in the cache")
    (there / "home" / "hub" / "datasets--org--Tones").mkdir(parents=True)
    assert problems(settings) == []
    remote = config(there, "https://example.org/train.jsonl")
    assert [problem.kind for problem in check(remote)] == ["network"]
    for name in ("HF_DATASETS_OFFLINE", "HF_HUB_OFFLINE"):
        monkeypatch.setenv(name, "0")
    assert problems(remote) == []


def test_checking_needs_the_standard_library_and_pydantic_alone(there):
    write_jsonl(there / "train.jsonl", [GOOD])
    code = (
        "import sys; from olivine.config.schema import DataConfig; from olivine.data import check, data_files\n"
        "config = DataConfig.model_validate({'name': 'x', 'load_dataset_config': {'data_files': 'train.jsonl'},"
        "'pre_process_data_config': {'text_template': '{phrase} {tone}'}})\n"
        "assert list(check(config)) == [] and data_files(config)\n"
        "heavy = {'torch', 'transformers', 'datasets', 'numpy', 'pyarrow', 'pandas', 'tokenizers', 'jinja2'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=there, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    "content", [b"PAR1" + b"\xff" * 50 + b"PAR1", b"PAR1", b"no table", b"PAR1" + bytes(40) + b"PAR1"]
)
def test_damaged_table_is_told_by_the_plan(there, content):
    (there / "rows.parquet").write_bytes(content)
    (kind, message), *_ = problems(config(there, "rows.parquet", load={"data_name": "parquet"}, text_template=TEMPLATE))
    assert kind == "missing-data"
    assert message.startswith("rows.parquet")
