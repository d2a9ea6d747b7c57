"""Rows are tokenised once, a batch at a time, into a store that later runs find by its content."""

import json
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
from data_tools import config, ids, word_tokenizer, write_jsonl
from hypothesis import given, settings
from hypothesis import strategies as st

from olivine.data import _prepare as implementation
from olivine.data import pick_rows, prepare, read_rows, samples, split, texts
from olivine.errors import ConfigError, DataError

WORD = word_tokenizer()
ROWS = [{"prompt": f"{a} {b} ", "completion": c} for a in "abc" for b in "defg" for c in ("joy", "fear")]


@pytest.fixture
def there(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_jsonl(tmp_path / "train.jsonl", ROWS)
    return tmp_path


class Progress:
    def __init__(self):
        self.calls = []

    def __call__(self, done, total, **metrics):
        self.calls.append((done, total))


def stores(folder):
    return sorted(path.name for path in (folder / "cache").iterdir() if path.is_dir())


@pytest.mark.parametrize("strategy", ["line-by-line", "join", "join-sliding-window", "pair", "line-by-line-random"])
@pytest.mark.parametrize("train_on", ["all", "completion"])
def test_store_on_disk_gives_the_samples_that_memory_gives(there, strategy, train_on):
    text = {"stride": 3, "max_samples": 5} if "-" in strategy else {}
    given = config(there, strategy=strategy, train_on=train_on, max_seq_len=8, **text)
    if strategy == "pair" and train_on == "all":
        given = config(there, strategy=strategy, ignore_source_in_labels=False, max_seq_len=8)
    in_memory = samples(given, texts(given, read_rows(given), WORD), WORD)
    on_disk = prepare(given, WORD, there / "cache").samples()
    assert list(on_disk) == list(in_memory)
    assert on_disk.statistics == in_memory.statistics
    assert prepare(given, WORD, there / "cache").samples()[:] == in_memory[:]


def test_rows_are_tokenised_once_and_again_when_something_that_decides_changes(there):
    cache, progress = there / "cache", Progress()
    prepare(config(there), WORD, cache, progress)
    assert progress.calls == [(24, 24)]
    for same in ({"max_seq_len": 7}, {"random_seed": 3}, {"drop_short_sequences": True}, {"train_on": "completion"}):
        prepare(config(there, **same), WORD, cache, progress)
    assert len(progress.calls) == len(stores(there)) == 1
    for other in ({"train_on": "all"}, {"add_special_tokens": False}, {"text_template": "{prompt}!{completion}"}):
        prepare(config(there, **other), WORD, cache, progress)
    assert len(progress.calls) == len(stores(there)) == 4
    prepare(config(there), word_tokenizer(begin=None), cache, progress)
    write_jsonl(there / "train.jsonl", [*ROWS[:-1], {"prompt": "a ", "completion": "a"}])
    prepare(config(there), WORD, cache, progress)
    assert len(progress.calls) == len(stores(there)) == 6


def test_files_that_moved_are_found_by_their_content_and_rows_by_their_new_place(there):
    prepare(config(there), WORD, there / "cache")
    (there / "other").mkdir()
    (there / "train.jsonl").rename(there / "other" / "moved.jsonl")
    moved = prepare(config(there, "other/moved.jsonl"), WORD, there / "cache")
    assert len(stores(there)) == 1
    assert moved.where(4) == "other/moved.jsonl:5"


def test_store_that_was_left_half_written_or_cut_is_made_again(there):
    whole = prepare(config(there), WORD, there / "cache").samples()[:]
    (name,) = stores(there)
    folder = there / "cache" / name
    (folder / "ids.bin").write_bytes((folder / "ids.bin").read_bytes()[:-4])
    (there / "cache" / f"{name}.building").mkdir()
    (there / "cache" / f"{name}.building" / "ids.bin").write_bytes(b"x")
    assert prepare(config(there), WORD, there / "cache").samples()[:] == whole
    assert stores(there) == [name]


def test_row_that_does_not_fit_leaves_no_store(there):
    write_jsonl(there / "train.jsonl", [*ROWS, {"completion": "a"}])
    with pytest.raises(DataError, match=r"^train\.jsonl:25: the row has no column 'prompt'"):
        prepare(config(there), WORD, there / "cache")
    assert stores(there) == []


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ('{"prompt": ', r"^train\.jsonl:25: not JSON"),
        ('{"prompt": null, "completion": "a"}', r"^train\.jsonl:25: the column 'prompt' is empty"),
        ('{"prompt": "a", "prompt": "b"}', r"^train\.jsonl:25: the key 'prompt' stands twice in one object"),
        ('{"prompt": "a", "completion": ["b"]}', r"^train\.jsonl:25: the column 'completion' holds a list"),
        ("7", r"^train\.jsonl:25: a row must be an object"),
    ],
)
def test_bad_row_is_named_by_file_line_and_field(there, line, fault):
    with (there / "train.jsonl").open("a") as file:
        file.write(line + "\n")
    with pytest.raises(DataError, match=fault):
        prepare(config(there), WORD)


def test_settings_that_contradict_are_refused_before_any_row_is_read(there):
    with pytest.raises(ConfigError, match="needs 'max_samples'"):
        prepare(config(there, "none.jsonl", strategy="join-random"), WORD)


def test_missing_file_is_named(there):
    with pytest.raises(DataError, match=r"there is no data file 'trian\.jsonl'.*Did you mean 'train\.jsonl'"):
        prepare(config(there, "trian.jsonl"), WORD)


@pytest.mark.parametrize("spec", ["train", "train[:5]", "train[-5:]", "train[25%:75%]", "train[:3]+train[4:6]"])
def test_slices_of_a_split_are_those_of_read_rows(there, spec):
    given = config(there, load={"split": spec})
    rows = read_rows(given)
    found = prepare(given, WORD)
    assert len(found) == len(rows)
    assert [found.where(index) for index in range(len(found))] == [rows.where(index) for index in range(len(rows))]


def test_rows_of_several_files_and_kinds_keep_their_places(there):
    (there / "more.csv").write_text("prompt,completion\na ,joy\nb ,fear\n")
    write_jsonl(there / "last.jsonl", ROWS[:2])
    (there / "rows").mkdir()
    for name in ("more.csv", "last.jsonl"):
        (there / name).rename(there / "rows" / name)
    found = prepare(config(there, None, load={"data_name": "rows"}), WORD, there / "cache")
    places = ["rows/last.jsonl:1", "rows/last.jsonl:2", "rows/more.csv:2", "rows/more.csv:3"]
    assert [found.where(index) for index in range(len(found))] == places


def test_held_out_rows_are_those_of_the_split_and_on_one_side_only(there):
    every = prepare(config(there), WORD, there / "cache")
    train, held_out = split(len(every), 0.25, 7)
    rows = read_rows(config(there))
    for indices in (train, held_out):
        made = every.samples(indices)
        assert made[:] == samples(config(there), texts(config(there), rows.take(indices), WORD), WORD)[:]
        assert made.statistics.n_rows == len(indices)


def test_samples_go_to_another_process_by_their_place(there):
    made = prepare(config(there), WORD, there / "cache").samples()
    sent = pickle.dumps(made)
    assert len(sent) < 8_000
    assert pickle.loads(sent)[:] == made[:]
    in_memory = prepare(config(there), WORD).samples()
    assert pickle.loads(pickle.dumps(in_memory))[:] == made[:]


def test_arrays_are_the_sample_without_padding(there):
    made = prepare(config(there, pad_to_max_len=True, max_seq_len=9), WORD).samples()
    ids, labels = made.arrays(3)
    n_tokens = int(made.lengths[3])
    assert made[3]["input_ids"][:n_tokens] == ids.tolist()
    assert made[3]["labels"][:n_tokens] == labels.tolist()
    assert (str(ids.dtype), str(labels.dtype)) == ("int32", "int64")


def test_long_texts_make_smaller_batches(there, monkeypatch):
    monkeypatch.setattr(implementation, "_BATCH_CHARACTERS", 12)
    progress = Progress()
    prepare(config(there), WORD, None, progress)
    assert [done for done, _ in progress.calls] == list(range(2, 25, 2))


def test_rows_do_not_stay_in_memory(there, monkeypatch):
    """No more than a few batches of rows are alive at any time, however many there are."""
    monkeypatch.setattr(implementation, "BATCH", 16)
    write_jsonl(there / "train.jsonl", ROWS * 40)
    alive, most = set(), [0]
    plain = implementation.text_of_row

    class Row(dict):
        def __init__(self, *args):
            super().__init__(*args)
            alive.add(id(self))
            most[0] = max(most[0], len(alive))

        def __del__(self):
            alive.discard(id(self))

    def watched(settings, form):
        make = plain(settings, form)
        return lambda row: make(Row(row))

    monkeypatch.setattr(implementation, "text_of_row", watched)
    assert len(prepare(config(there), WORD, there / "cache")) == 960
    assert most[0] <= 3 * 16


def test_picked_rows_are_those_of_all_rows_with_their_places(there):
    every = read_rows(config(there))
    found = pick_rows(config(there), lambda n_rows: range(1, n_rows, 5))
    assert list(found) == [every[index] for index in range(1, len(every), 5)]
    assert [found.where(index) for index in range(len(found))] == [every.where(i) for i in range(1, len(every), 5)]


def test_blank_rows_are_kept_in_place_and_left_out_of_the_samples(there):
    (there / "a.txt").write_text("a b\n\n \nc d\n")
    found = prepare(config(there, "a.txt", load={"data_name": "text"}, strategy="line-by-line"), WORD, there / "cache")
    made = found.samples()
    assert (len(found), len(made), made.statistics.n_empty_rows) == (4, 2, 2)
    assert made.row(1) == 3


def test_parquet_and_a_document_of_json_are_prepared_too(there):
    import pyarrow as pa
    import pyarrow.parquet as pq

    wanted = prepare(config(there), WORD).samples()[:]
    pq.write_table(pa.Table.from_pylist(ROWS), there / "rows.parquet")
    (there / "rows.json").write_text(json.dumps({"data": ROWS}))
    for name, kind in (("rows.parquet", "parquet"), ("rows.json", "json")):
        found = prepare(config(there, name, load={"data_name": kind}), WORD, there / "cache")
        assert found.samples()[:] == wanted
    assert prepare(config(there, "rows.parquet", load={"data_name": "parquet"}), WORD).where(2) == "rows.parquet: row 3"


@settings(max_examples=30, deadline=None)
@given(
    rows=st.lists(st.lists(st.sampled_from("abcd"), max_size=6).map(" ".join), min_size=1, max_size=9).filter(any),
    order=st.randoms(use_true_random=False),
    length=st.integers(2, 9),
)
def test_any_rows_in_any_order_are_those_of_the_texts(tmp_path_factory, rows, order, length):
    folder = tmp_path_factory.mktemp("any")
    write_jsonl(folder / "train.jsonl", [{"text": row} for row in rows])
    chosen = list(range(len(rows)))
    order.shuffle(chosen)
    given = config(folder, strategy="join", joiner="|", max_seq_len=length)
    made = prepare(given, WORD, folder / "cache").samples(chosen)
    wanted = samples(given, [rows[index] for index in chosen], WORD)
    assert made[:] == wanted[:]
    assert made.statistics == wanted.statistics


def test_counts_over_many_chunks_are_those_of_one(there, monkeypatch):
    from olivine.data import _store

    whole = prepare(config(there, max_seq_len=4), WORD).samples()
    monkeypatch.setattr(_store, "_CHUNK", 5)
    pieces = prepare(config(there, max_seq_len=4), WORD).samples()
    assert pieces.statistics == whole.statistics


def test_preparing_imports_no_framework(tmp_path):
    """Tokens need no torch: `olivine data` starts quickly."""
    code = "import sys, olivine.data, olivine.cli.data; print(' '.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=Path.cwd())
    assert not set(done.stdout.split()) & {"torch", "transformers", "numpy", "datasets", "pyarrow"}


def test_rows_edited_while_they_are_read_are_kept_under_nobody_s_name(there):
    write_jsonl(there / "train.jsonl", [{"text": "a b"}] * 3)
    first = (there / "train.jsonl").read_bytes()
    tokenizer, settings = word_tokenizer(), config(there, strategy="line-by-line")

    def edit(done, about, **metrics):
        write_jsonl(there / "train.jsonl", [{"text": "joy"}] * 3)

    with pytest.raises(DataError, match="data config 'tones': the rows were changed while they were read"):
        prepare(settings, tokenizer, there / "cache", edit)
    assert not [path for path in (there / "cache").iterdir() if path.is_dir()]
    (there / "train.jsonl").write_bytes(first)
    assert prepare(settings, tokenizer, there / "cache").samples()[0]["input_ids"][-3:] == ids("a b </s>")
