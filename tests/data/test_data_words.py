"""Files that a stranger brings: what they are is said in one sentence, with what to do."""

import json
import os
import zipfile
from pathlib import Path

import pytest
from data_tools import config, word_tokenizer

from olivine.data import check, check_split, data_files, doubts, prepare, read_rows
from olivine.errors import DataError
from olivine.paths import of_user

JAPANESE = "text\nきょうは晴れ\n東京\n"
FRENCH = "text\nun été à Genève\n"


@pytest.fixture
def there(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def problem(settings):
    """The one problem: one want gives one message."""
    (found,) = check(settings)
    return f"{found.where}: {found.message} {found.fix}".strip()


def test_spreadsheet_is_told_to_be_exported(there):
    with zipfile.ZipFile(there / "rows.xlsx", "w") as file:
        file.writestr("xl/workbook.xml", "<workbook/>")
    (there / "rows.xlsx").rename(there / "other.csv")
    for name, kind in (("rows.xlsx", "csv"), ("rows.xlsx", "json"), ("other.csv", "csv")):
        if name == "rows.xlsx":
            (there / name).write_bytes((there / "other.csv").read_bytes())
        settings = config(there, name, load={"data_name": kind})
        assert "the file is a spreadsheet" in problem(settings)
        assert "export it as CSV or Parquet" in problem(settings)
        with pytest.raises(DataError, match="export it as CSV or Parquet"):
            read_rows(settings)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("rows.jsonl.gz", b"\x1f\x8b\x08\x00", "the file is compressed; unpack it first"),
        ("rows.csv", b"\x1f\x8b\x08\x00", "the file is compressed; unpack it first"),
        ("rows.json", b"PAR1 ... PAR1", "the file is Parquet; write data_name: parquet"),
        ("rows.csv", b"text;tone\na;joy\n", "the file is CSV; write data_name: csv"),
        ("rows.tsv", b"\xef\xbb\xbftext\ttone\na\tjoy\n", "the file is CSV; write data_name: csv"),
        ("rows.txt", b"a line\n", "the file is text; write data_name: text, or csv for a table"),
        ("rows.json", b"%PDF-1.7", "write its rows to a JSON, CSV or Parquet file"),
        ("rows.pkl", b"\x80\x04", "the file is a pickle, which is never read"),
    ],
)
def test_file_of_another_kind_is_named(there, name, content, said):
    (there / name).write_bytes(content)
    assert said in problem(config(there, name))


@pytest.mark.parametrize("quote", ["", '"'])
@pytest.mark.parametrize("separator", [";", "|"])
def test_separator_that_the_config_names_wrongly_is_told_with_the_right_one(there, separator, quote):
    rows = [("Customer's words", "tone"), ("a, b\nand c" if quote else "a b", "joy"), ("c", "joy")]
    (there / "a.csv").write_text("".join(",".join(f"{quote}{cell}{quote}" for cell in row) + "\n" for row in rows))
    (there / "b.csv").write_text(f"text{separator}tone\na b{separator}joy\n")
    load = {"data_name": "csv", "sep": separator}
    assert f"the separator of the columns is ',' and not {separator!r}" in problem(config(there, "a.csv", load=load))
    assert len(read_rows(config(there, "b.csv", load=load))) == 1


@pytest.mark.parametrize(("name", "separator"), [("a.csv", ";"), ("a.csv", "\t"), ("a.csv", "|"), ("a.tsv", ",")])
def test_separator_that_is_another_is_named_and_read_when_it_is_written(there, name, separator):
    (there / name).write_text(f"question{separator}answer\na b{separator}joy\n")
    settings = config(there, name, load={"data_name": "csv"})
    assert f"the separator of the columns is {separator!r} and not" in problem(settings)
    assert f"write sep: {separator!r}" in problem(settings)
    settings = config(there, name, load={"data_name": "csv", "sep": separator})
    assert list(check(settings)) == []
    assert list(read_rows(settings)) == [{"question": "a b", "answer": "joy"}]


def test_column_alone_keeps_its_comma(there):
    (there / "a.csv").write_text("text\na;b\n")
    assert list(read_rows(config(there, "a.csv", load={"data_name": "csv"}))) == [{"text": "a;b"}]


@pytest.mark.parametrize(
    ("text", "encoding"), [(JAPANESE, "cp932"), (FRENCH, "cp1252"), (FRENCH, "utf-16"), (JAPANESE, "utf-16")]
)
@pytest.mark.parametrize("kind", ["csv", "json", "text"])
def test_encoding_of_excel_is_guessed_and_read_when_it_is_written(there, text, encoding, kind):
    lines = text.splitlines()
    if kind == "json":
        text = "".join(json.dumps({"text": line}, ensure_ascii=False) + "\n" for line in lines[1:])
    (there / "rows").write_bytes(text.encode(encoding))
    messages = [str(found) for found in check(config(there, "rows", load={"data_name": kind}))]
    assert f"it looks like {encoding}: write encoding: {encoding} in load_dataset_config" in messages[0]
    settings = config(there, "rows", load={"data_name": kind, "encoding": encoding})
    assert list(check(settings)) == []
    expected = lines if kind == "text" else lines[1:]
    assert [row["text"] for row in read_rows(settings)] == expected


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("text", [FRENCH, "text\nplain\n"])
@pytest.mark.parametrize("written", [None, "cp1252"])
def test_utf_16_without_a_mark_is_named_whatever_encoding_the_config_says(there, text, encoding, written):
    (there / "rows.csv").write_bytes(text.encode(encoding))
    said = [found.message for found in check(config(there, "rows.csv", load={"data_name": "csv", "encoding": written}))]
    assert f"write encoding: {encoding}" in " ".join(said)
    load = {"data_name": "csv", "encoding": encoding}
    assert list(check(config(there, "rows.csv", load=load))) == []


def test_preferences_are_told_to_be_trained_on_what_was_chosen(there):
    (there / "train.jsonl").write_text('{"prompt": "a", "chosen": "b", "rejected": "c"}\n')
    assert "prompt_col: prompt and answer_col: chosen," in problem(config(there))
    assert list(check(config(there, prompt_col="prompt", answer_col="chosen"))) == []


def test_document_of_another_encoding_is_read_a_piece_at_a_time(there):
    rows = [{"text": f"été {index} " + "é" * 50_000} for index in range(9)]
    (there / "rows.json").write_bytes(json.dumps(rows, ensure_ascii=False, indent=1).encode("cp1252"))
    assert list(read_rows(config(there, "rows.json", load={"encoding": "cp1252"}))) == rows


def test_text_that_no_guess_fits_is_told_to_be_saved_as_utf_8(there):
    (there / "rows.csv").write_bytes("text\nпривет, как дела\n".encode("cp1251"))  # noqa: RUF001
    assert problem(config(there, "rows.csv", load={"data_name": "csv"})).endswith(
        "is not UTF-8; save the file as UTF-8."
    )


def test_bytes_that_are_not_of_the_encoding_are_one_sentence(there):
    (there / "rows.csv").write_bytes(b"text\n\x81\xff\n")
    settings = config(there, "rows.csv", load={"data_name": "csv", "encoding": "cp932"})
    assert "the file cannot be read: it is not cp932: " in problem(settings)
    with pytest.raises(DataError, match="it is not cp932"):
        read_rows(settings)


def test_tokens_of_another_encoding_are_others(there):
    (there / "rows.csv").write_bytes("text\né a\n".encode("cp1252"))
    for encoding in ("cp1252", "cp850", "cp1252"):
        load = {"data_name": "csv", "encoding": encoding}
        prepare(config(there, "rows.csv", load=load), word_tokenizer(), there / "cache")
    assert len([path for path in (there / "cache").iterdir() if path.is_dir()]) == 2


@pytest.mark.parametrize(
    ("load", "said"),
    [
        (
            {"data_name": "excel"},
            "'data_name: excel' is not read; there are audiofolder, csv, imagefolder, json, parquet, text",
        ),
        ({"data_name": "jsonl"}, "Write data_name: json."),
        ({"data_name": "tsv"}, "Write data_name: csv."),
        ({"data_name": "cvs"}, "'data_name: cvs' is no kind of file. Did you mean 'csv'?"),
        ({"data_name": "csv"}, "the file is JSON; write data_name: json"),
        ({"sep": "::"}, "'sep' is '::', but must be one character."),
        ({"sep": '"'}, "but must be one character."),
        ({"encoding": "utf-9"}, "'encoding' is 'utf-9', which is not known. Did you mean 'utf-8'?"),
        ({"encoding": "cp1525"}, "Did you mean 'cp1252'?"),
        ({"encoding": "hex"}, "'encoding' is 'hex', which is not known."),
    ],
)
def test_way_of_reading_that_there_is_not_is_a_problem_of_the_plan(there, load, said):
    (there / "train.jsonl").write_text('{"text": "a"}\n')
    assert said in problem(config(there, load=load))


@pytest.mark.parametrize(
    "load",
    [{"encoding": "cp1525"}, {"encoding": ""}, {"encoding": "\0"}, {"encoding": "rot13"}, {"sep": "ab"}, {"sep": ""}],
    ids=str,
)
@pytest.mark.parametrize("kind", ["csv", "json", "text"])
def test_way_of_reading_that_there_is_not_is_a_sentence_for_whoever_reads(there, load, kind):
    (there / "rows").write_text('{"text": "a"}\n')
    settings = config(there, "rows", load={"data_name": kind, **load})
    assert list(doubts(settings, "{{ messages }}")) == []
    assert list(check_split(settings, 0.5)) == []
    with pytest.raises(DataError, match=r"which is not known|must be one character"):
        read_rows(settings)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
@pytest.mark.parametrize("name", ["/dev/zero", "/dev/null", "pipe", "/"])
def test_what_has_no_end_or_is_read_once_is_no_file_of_rows(there, name):
    os.mkfifo(there / "pipe")
    settings = config(there, name)
    assert f"'{name}' is no file of rows" in problem(settings)
    with pytest.raises(DataError, match="is no file of rows"):
        read_rows(settings)


def test_user_that_there_is_not_has_no_files(there):
    assert "there is no data file" in problem(config(there, "~nobody-at-all/rows.jsonl"))
    assert of_user("~nobody-at-all/x") == Path("~nobody-at-all/x")


@pytest.mark.parametrize("spec", [">999999999", "010001d", ".99999f", "*^100000", ">" + "9" * 5000, "٩٩٩٩٩"])
def test_template_that_would_pad_without_end_is_refused(there, spec):
    (there / "train.jsonl").write_text('{"text": "a"}\n')
    said = problem(config(there, text_template="{text:" + spec + "}"))
    assert "pads {text} to more than 9,999 characters" in said


def test_folder_may_have_any_name(there):
    (there / "excel").mkdir()
    (there / "excel" / "train.jsonl").write_text('{"text": "a"}\n')
    assert list(check(config(there, None, load={"data_name": "excel"}))) == []


@pytest.mark.parametrize(
    "name", ["x" * 300 + ".jsonl", "y/" * 3000, "a\0b", "~nobody-at-all/rows.jsonl", "[", "x" * 300 + "/*.jsonl"]
)
def test_name_that_no_file_has_is_one_sentence_wherever_it_stands(there, name):
    said = problem(config(there, name))
    assert "there is no data file" in said
    assert len(said) < 600
    for load in ({"data_dir": name}, {"data_name": name, "data_files": None}):
        settings = config(there, load.get("data_files"), load=load)
        assert all(len(found.message) < 9000 for found in check(settings))
        assert data_files(settings) == []


@pytest.mark.parametrize("cut", [0, 1, 4, 7, 11, 50, 200, 400, -30, -9, -8, -5, -4, -1])
@pytest.mark.parametrize("how", ["cut", "flip"])
def test_damaged_parquet_is_one_sentence(there, cut, how):
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"text": ["a", "b"] * 50, "n": range(100)}), there / "rows.parquet")
    content = bytearray((there / "rows.parquet").read_bytes())
    if how == "cut":
        content = content[:cut]
    else:
        content[cut] ^= 0xFF
    (there / "rows.parquet").write_bytes(content)
    settings = config(there, "rows.parquet", load={"data_name": "parquet"})
    list(check(settings))  # no more than the footer is looked at
    try:
        read_rows(settings)
    except DataError as error:
        assert str(error).startswith(("rows.parquet: ", "data config 'tones': "))  # noqa: PT017 - it may be whole still
