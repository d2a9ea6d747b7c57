"""Files are read row by row, and each row knows its line."""

import json
import tracemalloc

import pytest
from data_tools import config, write_jsonl
from hypothesis import given
from hypothesis import strategies as st

from olivine.data import check, data_files, read_rows
from olivine.data.sources import _json_cursor
from olivine.data.sources import json as json_source
from olivine.errors import DataError, Unsupported

ROWS = [
    {"phrase": "so glad", "tone": "joy"},
    {"phrase": "ünknown ☂", "tone": "fear"},
    {"phrase": "x\ny", "tone": "joy"},
]
N_MANY = 40


def lines_of(rows):
    return [rows.where(index).rpartition(":")[2] for index in range(len(rows))]


@pytest.fixture
def there(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_json_lines_are_read_with_their_lines(there):
    text = "\n".join(json.dumps(row) for row in ROWS).replace("\n", "\n\n", 1)
    (there / "train.jsonl").write_text(text)
    rows = read_rows(config(there))
    assert list(rows) == ROWS
    assert [rows.where(index) for index in range(3)] == ["train.jsonl:1", "train.jsonl:3", "train.jsonl:4"]


@pytest.mark.parametrize("wrap", [lambda rows: rows, lambda rows: {"about": {"data": [1]}, "data": rows, "n": 3}])
def test_json_document_is_read_with_lines(there, wrap):
    (there / "train.json").write_text(json.dumps(wrap(ROWS), indent=1))
    rows = read_rows(config(there, "train.json"))
    assert list(rows) == ROWS
    lines = (there / "train.json").read_text().splitlines()
    for index, row in enumerate(ROWS):
        line = int(lines_of(rows)[index])
        assert json.dumps(row["phrase"]) in "".join(lines[line - 1 : line + 1])


@pytest.mark.parametrize("wrap", [lambda rows: rows, lambda rows: {"about": {"data": [1]}, "data": rows, "n": 3}])
def test_rows_of_a_json_document_that_share_a_line_are_counted(there, wrap):
    (there / "train.json").write_text(json.dumps(wrap(ROWS)))
    rows = read_rows(config(there, "train.json"))
    assert [rows.where(index) for index in range(3)] == [f"train.json: row {number}" for number in (1, 2, 3)]
    (there / "train.json").write_text('[{"phrase": "a", "tone": "b"},\n{"phrase": "c", "tone": "d"}, {"tone": "e"}]')
    rows = read_rows(config(there, "train.json"))
    assert [rows.where(index) for index in range(3)] == ["train.json:1", "train.json: row 2", "train.json: row 3"]


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ('{"a": 1}\n{"a": 2, "a": 3}\n{"a": 4}', "train.json:2"),
        ('{"a": 2, "a": 3}\n{"a": 4}', "train.json:1"),
        ('[{"a": 1},\n{"a": 2, "b": {"c": 1, "c": 1}}]', "train.json:2"),
        ('{"data": [{"a": 1, "a": 1}]}', "train.json:1"),
    ],
)
def test_key_that_stands_twice_in_a_row_is_refused(there, text, where):
    (there / "train.json").write_text(text)
    with pytest.raises(DataError, match=rf"^{where}: the key '[ac]' stands twice in one object; remove one of them"):
        read_rows(config(there, "train.json"))


def test_json_array_of_texts_is_the_column_text(there):
    (there / "train.json").write_text('["a",\n "b"]')
    rows = read_rows(config(there, "train.json"))
    assert list(rows) == [{"text": "a"}, {"text": "b"}]
    assert lines_of(rows) == ["1", "2"]


def test_one_line_with_a_column_data_is_a_row(there):
    write_jsonl(there / "train.jsonl", [{"data": "a"}])
    assert list(read_rows(config(there))) == [{"data": "a"}]


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.jsonl", '{"phrase": "ü", "tone": "joy"}\n{"phrase": "b", "tone": "fear"}\n'),
        ("a.json", '[{"phrase": "ü", "tone": "joy"},\n{"phrase": "b", "tone": "fear"}]\n'),
        ("a.csv", "phrase,tone\nü,joy\nb,fear\n"),
    ],
)
def test_line_ends_and_byte_order_mark_are_no_part_of_the_data(there, name, text, mark, newline):
    (there / name).write_bytes(mark + text.replace("\n", newline).encode())
    kind = "csv" if name.endswith("csv") else "json"
    rows = read_rows(config(there, name, load={"data_name": kind}))
    assert list(rows) == [{"phrase": "ü", "tone": "joy"}, {"phrase": "b", "tone": "fear"}]
    assert lines_of(rows) == (["2", "3"] if kind == "csv" else ["1", "2"])


def test_csv_cells_stay_text_and_may_span_lines(there):
    (there / "a.csv").write_text('Best Answer,n\n"two\nlines, ""quoted""",007\n\nplain,\n')
    rows = read_rows(config(there, "a.csv", load={"data_name": "csv"}))
    assert list(rows) == [{"Best Answer": 'two\nlines, "quoted"', "n": "007"}, {"Best Answer": "plain", "n": None}]
    assert lines_of(rows) == ["2", "5"]


def test_tsv_is_separated_by_tabs(there):
    (there / "a.tsv").write_text("a\tb\n1,5\t2\n")
    assert list(read_rows(config(there, "a.tsv", load={"data_name": "csv"}))) == [{"a": "1,5", "b": "2"}]


def test_text_file_is_a_row_a_line(there):
    (there / "a.txt").write_bytes(b"one\r\n\ntwo")
    rows = read_rows(config(there, "a.txt", load={"data_name": "text"}))
    assert list(rows) == [{"text": "one"}, {"text": ""}, {"text": "two"}]


def test_parquet_rows_are_counted(there):
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.Table.from_pylist(ROWS), there / "a.parquet", row_group_size=2)
    rows = read_rows(config(there, "a.parquet", load={"data_name": "parquet"}))
    assert list(rows) == ROWS
    assert rows.where(2) == "a.parquet: row 3"


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ('{"phrase": "a", "tone": }', "not JSON: Expecting value at column 25"),
        ('{"phrase": "a"', "not JSON"),
        ("[1, 2]", "must be an object of columns"),
        ('"joy"', 'must be an object of columns, but this is "joy"'),
        ("phrase", "not JSON"),
        ("1" * 5000, "not JSON that can be read"),
    ],
)
def test_malformed_row_37_is_named(there, bad, message):
    lines = [json.dumps(ROWS[0])] * N_MANY
    lines[36] = bad
    (there / "train.jsonl").write_text("\n".join(lines))
    with pytest.raises(DataError, match=r"^train\.jsonl:37: .*" + message.replace("[", r"\[")):
        read_rows(config(there))


def test_malformed_first_line_is_named(there):
    (there / "train.jsonl").write_text('{"phrase": "a", tone}\n{"phrase": "b"}\n')
    with pytest.raises(DataError, match=r"^train\.jsonl:1: not JSON"):
        read_rows(config(there))


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ('[{"a": 1},\n{"a": }]', 2),
        ('[{"a": 1}\n{"a": 2}]', 2),
        ('[{"a": 1},\n]', 1),
        ('[{"a": 1},\n{"a": 2}', 2),
        ('[{"a": 1}]\n[{"a": 2}]', 2),
        ('[{"a": 1},\n 7]', 2),
        ('{"rows":\n [{"a": 1}]}', 1),
        ('{"data":\n [{"a": 1},\n 5]}', 3),
        ('[{"a": 1},\n{"a": ' + "[" * 100_000, 2),
        ('{"n": 1, "data": 5,\n "more": 2}', 1),
        ('{"data": [{"a": 1}],\n "data": [{"a": 2}]}', 2),
        ('{"data": [{"a": 1}],\n}', 1),
    ],
)
def test_fault_in_a_json_document_is_named_by_line(there, text, line):
    (there / "train.json").write_text(text)
    with pytest.raises(DataError, match=rf"^train\.json:{line}: "):
        read_rows(config(there, "train.json"))


@given(
    value=st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
        max_leaves=12,
    ),
    indent=st.sampled_from([None, 1]),
    is_ascii=st.booleans(),
    chunk=st.integers(1, 40),
)
def test_document_is_the_same_whatever_pieces_it_is_read_in(tmp_path_factory, value, indent, is_ascii, chunk):
    path = tmp_path_factory.mktemp("json") / "a.json"
    rows = [{"a": value}, {"a": 1}, {"b": value}]
    path.write_text(
        json.dumps({"n": value, "data": rows}, indent=indent, ensure_ascii=is_ascii), "utf-8", "surrogatepass"
    )
    try:
        path.read_text("utf-8")
    except UnicodeDecodeError:
        return  # half of a surrogate pair is no UTF-8
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_json_cursor, "_CHUNK", chunk)
        assert repr([row for _, row in json_source.read(path)]) == repr(json.loads(path.read_text("utf-8"))["data"])


@pytest.mark.parametrize("chunk", [1, 2, 7, 100])
@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        ('[{"a": 1},\n {"a": 2, "b": }]', 2, "Expecting value at column 16"),
        ('[{"a": "one\ntwo"}]', 1, "Invalid control character at at column 12"),
        ('[{"a": 1},\n {"a": "' + "x" * 90 + "]", 2, "Unterminated string starting at at column 8"),
        ('[{"a": 1}, {"a": tru}]', 1, "Expecting value at column 18"),
        ('[{"a": 1}, {"a": 1.}]', 1, "Expecting ',' delimiter at column 19"),
        ('[{"a": 1},\n {"a": 2} {"a": 3}]', 2, "Expecting ',' or ']' at column 11"),
    ],
)
def test_fault_has_its_place_whatever_pieces_the_document_is_read_in(there, monkeypatch, text, line, said, chunk):
    (there / "a.json").write_text(text)
    monkeypatch.setattr(_json_cursor, "_CHUNK", chunk)
    number, error = list(json_source.read(there / "a.json"))[-1]
    assert (number, str(error)) == (line, f"not JSON: {said}")


@pytest.mark.parametrize(("before", "after"), [("[", "]"), ('{"version": "1", "data": [', "]}")])
@pytest.mark.parametrize("between", [", ", ",\n"])
def test_memory_does_not_grow_with_the_rows_of_a_document(there, before, after, between):
    row = json.dumps({"prompt": "word " * 20, "completion": "joy"})
    peaks = {}
    for n_rows in (25_000, 75_000):
        with (there / "a.json").open("w") as file:
            file.write(before + row)
            file.writelines(between + row for _ in range(n_rows - 1))
            file.write(after)
        tracemalloc.start()
        assert sum(1 for _, row in json_source.read(there / "a.json") if isinstance(row, dict)) == n_rows
        peaks[n_rows] = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peaks[75_000] < 1.1 * peaks[25_000]
    assert peaks[75_000] < (there / "a.json").stat().st_size / 2


def test_long_line_is_a_row_where_it_is_no_table(there, monkeypatch):
    monkeypatch.setattr(json_source, "_LINE", 64)
    rows = [{"data": [{"a": 1}], "text": "x" * 100}, {"data": [], "text": "y"}]
    write_jsonl(there / "two.jsonl", rows)
    assert list(read_rows(config(there, "two.jsonl"))) == rows
    write_jsonl(there / "one.jsonl", [{"data": "z", "text": "x" * 100}])
    assert list(read_rows(config(there, "one.jsonl"))) == [{"data": "z", "text": "x" * 100}]
    (there / "bad.jsonl").write_text('{"text": ' + "x" * 100)
    with pytest.raises(DataError, match=r"^bad\.jsonl:1: not JSON: Expecting value at column 10"):
        read_rows(config(there, "bad.jsonl"))
    (there / "table.json").write_text(json.dumps({"about": "x" * 100, "data": rows}))
    assert list(read_rows(config(there, "table.json"))) == rows


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,b\n1,2\n3\n", r"a\.csv:3: the row has 1 cells, but the header names 2 columns"),
        ("a,b\n1,2\n1,2,3\n", r"a\.csv:3: the row has 3 cells"),
        ("a,a\n1,2\n", r"a\.csv:1: the header names the column 'a' twice"),
        ('a,b\n1,"2\n3,4\n', r"a\.csv:3: unexpected end of data"),
    ],
)
def test_malformed_csv_is_named_by_line(there, text, message):
    (there / "a.csv").write_text(text)
    with pytest.raises(DataError, match=message):
        read_rows(config(there, "a.csv", load={"data_name": "csv"}))


@pytest.mark.parametrize(
    ("name", "kind", "data"),
    [
        ("a.jsonl", "json", b'{"a": "x"}\n{"a": "caf\xe9"}\n'),
        ("a.json", "json", b'[{"a": "x"},\n{"a": "caf\xe9"}]'),
        ("a.csv", "csv", b"a\ncaf\xe9\n"),
        ("a.txt", "text", b"x\ncaf\xe9\n"),
    ],
)
def test_file_that_is_not_utf_8_is_named_by_line_and_byte(there, name, kind, data):
    (there / name).write_bytes(data)
    with pytest.raises(DataError, match=rf"^{name}:2: byte 0xe9 is not UTF-8"):
        read_rows(config(there, name, load={"data_name": kind}))


def test_utf_16_file_is_refused(there):
    (there / "train.jsonl").write_text('{"a": 1}\n', encoding="utf-16")
    with pytest.raises(DataError, match="not UTF-8"):
        read_rows(config(there))


def test_file_that_is_not_parquet_is_named(there):
    (there / "a.parquet").write_text("no")
    with pytest.raises(DataError, match=r"a\.parquet: row 1: not a Parquet file"):
        read_rows(config(there, "a.parquet", load={"data_name": "parquet"}))


@pytest.mark.parametrize(
    ("name", "kind", "data"), [("a.jsonl", "json", ""), ("a.json", "json", "[]"), ("a.csv", "csv", "a,b\n")]
)
def test_data_set_without_rows_is_refused(there, name, kind, data):
    (there / name).write_text(data)
    with pytest.raises(DataError, match=rf"^{name}: the data set has no rows"):
        read_rows(config(there, name, load={"data_name": kind}))


def test_file_of_another_kind_and_name_is_not_offered(there):
    (there / "readme.json").write_text("{}")
    (problem,) = check(config(there))
    assert problem.fix == ""
    (there / "train.csv").write_text("{}")
    (problem,) = check(config(there))
    assert problem.fix == "Did you mean 'train.csv'?"


def test_missing_file_is_named_with_the_nearest_one(there):
    write_jsonl(there / "train.jsonl", ROWS)
    with pytest.raises(DataError, match=r"no data file 'trian\.jsonl' .*Did you mean 'train\.jsonl'\?"):
        read_rows(config(there, "trian.jsonl"))


def test_files_come_from_the_config_s_folder_then_from_here(there):
    (there / "configs").mkdir()
    write_jsonl(there / "train.jsonl", ROWS[:1])
    settings = config(there / "configs")
    assert data_files(settings) == [there / "train.jsonl"]
    write_jsonl(there / "configs" / "train.jsonl", ROWS[:2])
    assert data_files(settings) == [there / "configs" / "train.jsonl"]
    assert len(read_rows(settings)) == 2


def test_patterns_and_lists_keep_a_fixed_order(there):
    for name in ("b1", "b2", "a"):
        write_jsonl(there / f"{name}.jsonl", [{"text": name}])
    rows = read_rows(config(there, ["b*.jsonl", "a.jsonl"]))
    assert [row["text"] for row in rows] == ["b1", "b2", "a"]
    assert [rows.where(index) for index in range(3)] == ["b1.jsonl:1", "b2.jsonl:1", "a.jsonl:1"]


def test_only_files_of_the_wanted_split_are_read(there):
    write_jsonl(there / "a.jsonl", ROWS[:1])
    write_jsonl(there / "b.jsonl", ROWS[1:])
    files = {"train": "a.jsonl", "test": ["b.jsonl"]}
    assert data_files(config(there, files, load={"split": "test"})) == [there / "b.jsonl"]
    rows = read_rows(config(there, files, load={"split": "train+test[1:]"}))
    assert list(rows) == [ROWS[0], ROWS[2]]
    assert rows.where(1) == "b.jsonl:2"


def test_folder_makes_splits_by_the_names_of_its_files(there):
    (there / "rows").mkdir()
    for name in ("train-00", "my_test", ".hidden_train"):
        write_jsonl(there / "rows" / f"{name}.jsonl", [{"text": name}])
    for load in ({"data_dir": "rows"}, {"data_name": "rows"}):
        settings = config(there, None, load=load)
        assert [row["text"] for row in read_rows(settings)] == ["train-00"]
        assert [row["text"] for row in read_rows(config(there, None, load={**load, "split": "test"}))] == ["my_test"]


def test_split_that_files_do_not_make_is_refused(there):
    write_jsonl(there / "train.jsonl", ROWS)
    with pytest.raises(DataError, match=r"no split 'validation'; there is: train\. Set split to train"):
        read_rows(config(there, load={"split": "validation"}))


def test_rows_taken_keep_their_places(there):
    write_jsonl(there / "train.jsonl", ROWS)
    rows = read_rows(config(there)).take([2, 0])
    assert list(rows) == [ROWS[2], ROWS[0]]
    assert [rows.where(0), rows.where(1)] == ["train.jsonl:3", "train.jsonl:1"]
    assert rows[1:].where(0) == "train.jsonl:1"
    assert rows[-1] == ROWS[0]


def test_reading_leaves_nothing_behind(there, monkeypatch):
    monkeypatch.setenv("HF_HOME", str(there / "home"))
    write_jsonl(there / "train.jsonl", ROWS)
    read_rows(config(there))
    assert [path.name for path in there.iterdir()] == ["train.jsonl"]


def test_data_set_of_the_hub_that_cannot_be_had_is_one_sentence(there):
    with pytest.raises(DataError, match="the data set 'nobody/nothing' cannot be loaded: "):
        read_rows(config(there, None, load={"data_name": "nobody/nothing"}))


def test_address_is_read_through_datasets(there, monkeypatch):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", there / "cache")
    write_jsonl(there / "train.jsonl", ROWS)
    settings = config(there, (there / "train.jsonl").as_uri(), load={"split": "train[1:]"})
    assert data_files(settings) == []
    rows = read_rows(settings)
    assert list(rows) == ROWS[1:]
    assert rows.columns() == ["phrase", "tone"]
    assert list(rows.take([1])) == ROWS[2:]
    assert rows.where(0) == "json: row 1"


def test_resource_is_refused_by_its_type(there):
    files = {"type": "azureml_datastore", "config": {"datastore_name": "d"}}
    assert data_files(config(there, files)) == []
    with pytest.raises(Unsupported, match="azureml_datastore"):
        read_rows(config(there, files))
