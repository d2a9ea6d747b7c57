"""The form of rows is told by their columns, and what a silent config trains on follows from the form."""

import json

import pytest
from data_tools import ID, E, config, word_tokenizer, write_jsonl
from hypothesis import given, settings
from hypothesis import strategies as st

from olivine.data import check, describe, parquet_footer, prepare, read_rows, resolved, target_column, texts
from olivine.errors import DataError

JINJA = "{% for m in messages %}<{{ m['role'] }}> {{ m['content'] }} |\n{% endfor %}"
TURNS = [{"role": "user", "content": "a b"}, {"role": "assistant", "content": "joy"}]
SHARED = [{"from": "human", "value": "a b"}, {"from": "gpt", "value": "joy"}]
FORMS = [
    ({"messages": TURNS}, "line-by-line", "assistant", "messages"),
    ({"conversations": SHARED}, "line-by-line", "assistant", "conversations"),
    ({"prompt": "a ", "completion": "joy"}, "line-by-line", "completion", "completion"),
    ({"instruction": "a", "input": "b", "output": "joy"}, "line-by-line", "completion", "output"),
    ({"instruction": "a", "output": "joy"}, "line-by-line", "completion", "output"),
    ({"input": "a ", "output": "joy"}, "line-by-line", "completion", "output"),
    ({"text": "a joy"}, "join", "all", "text"),
]


@pytest.fixture
def there(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(("row", "strategy", "train_on", "target"), FORMS, ids=lambda value: str(value)[:30])
def test_columns_tell_the_form(there, row, strategy, train_on, target):
    write_jsonl(there / "train.jsonl", [row] * 2)
    told = resolved(config(there)).pre_process_data_config
    assert (told.strategy, told.train_on) == (strategy, train_on)
    assert target_column(config(there)) == target
    assert list(check(config(there))) == []
    assert f"told by its columns: {', '.join(row)}" in describe(config(there))


@pytest.mark.parametrize("kind", ["json", "jsonl", "csv", "parquet", "folder"])
def test_form_is_told_for_every_kind_of_file(there, kind):
    import pyarrow as pa
    import pyarrow.parquet as pq

    row = {"prompt": "a ", "completion": "joy"}
    (there / "rows").mkdir()
    name = f"rows/train.{'jsonl' if kind == 'folder' else kind}"
    if kind == "csv":
        (there / name).write_text("prompt,completion\na ,joy\n")
    elif kind == "parquet":
        pq.write_table(pa.Table.from_pylist([row]), there / name)
    else:
        (there / name).write_text(json.dumps([row] if kind == "json" else row))
    reader = {"json": "json", "jsonl": "json"}.get(kind, kind)
    load = {"data_name": "rows" if kind == "folder" else reader}
    settings = config(there, None if kind == "folder" else name, load=load)
    assert resolved(settings).pre_process_data_config.pair_format == "self_instruct"
    assert "the completion alone is trained on, 'completion'" in describe(settings)
    (found,) = prepare(settings, word_tokenizer()).samples()
    assert [label for label in found["labels"] if label != -100] == [ID["joy"], E]


def test_what_the_config_says_wins_over_the_columns(there):
    write_jsonl(there / "train.jsonl", [{"prompt": "a", "completion": "joy", "text": "b"}])
    settings = config(there, text_cols="text")
    assert resolved(settings).pre_process_data_config == settings.pre_process_data_config.model_copy(
        update={"strategy": "join", "train_on": "all"}
    )


def test_chats_come_before_finished_texts_and_instructions_too(there):
    write_jsonl(there / "train.jsonl", [{"text": "x", "instruction": "a", "output": "b", "messages": TURNS}])
    assert resolved(config(there)).pre_process_data_config.chat_template is True
    write_jsonl(there / "train.jsonl", [{"text": "x", "instruction": "a", "output": "b"}])
    assert resolved(config(there)).pre_process_data_config.pair_format == "alpaca"


def test_resolved_config_stays_as_it_is(there):
    write_jsonl(there / "train.jsonl", [{"conversations": SHARED}])
    once = resolved(config(there))
    assert resolved(once) == once


def test_template_trains_on_everything_and_plan_says_what_the_completion_would_be(there):
    write_jsonl(there / "train.jsonl", [{"phrase": "a", "tone": "joy"}])
    told = describe(config(there, text_template="{phrase} is {tone}"))
    assert "text by text_template; all of it is trained on" in told
    assert "'train_on: completion' would train on the text from 'tone' on alone" in told


def test_form_of_a_hub_data_set_is_told_when_it_is_read(there):
    settings = config(there, None, load={"data_name": "someone/rows"})
    assert "told by its columns when the data is read" in describe(settings)
    assert target_column(settings) == ""


def test_columns_without_a_form_name_what_is_needed(there):
    write_jsonl(there / "train.jsonl", [{"phrase": "a", "tone": "b"}])
    (problem,) = check(config(there))
    assert problem.message == "nothing says how a row becomes text, and the columns phrase, tone do not tell it."
    assert problem.fix.startswith("Write prompt_col: phrase and answer_col: tone,")
    with pytest.raises(DataError, match="not known from its columns: phrase, tone"):
        describe(config(there))


def test_shared_chat_is_the_same_text_as_messages(there):
    tokenizer = word_tokenizer(chat_template=JINJA)
    made = []
    for row in ({"messages": TURNS}, {"conversations": SHARED}):
        write_jsonl(there / "train.jsonl", [row])
        (text,) = texts(config(there), read_rows(config(there)), tokenizer)
        made.append((text, text.spans))
    assert made[0] == made[1]


def test_chat_template_finds_shared_chats_and_a_column_of_its_own(there):
    tokenizer = word_tokenizer(chat_template=JINJA)
    write_jsonl(there / "train.jsonl", [{"conversations": SHARED}])
    settings = config(there, chat_template=True)
    assert texts(settings, read_rows(settings), tokenizer) == ["<user> a b |\n<assistant> joy |\n"]
    write_jsonl(there / "train.jsonl", [{"talk": TURNS}])
    settings = config(there, message_col="talk")
    assert texts(settings, read_rows(settings), tokenizer) == ["<user> a b |\n<assistant> joy |\n"]


@pytest.mark.parametrize(
    ("message", "fault"),
    [
        ({"from": "martian", "value": "x"}, r"'conversations\[0\]\.from' is 'martian', but must be one of: human"),
        ({"from": "human"}, r"'conversations\[0\]\.value' must be text, but is None"),
    ],
)
def test_wrong_speaker_is_named_by_file_line_and_field(there, message, fault):
    write_jsonl(there / "train.jsonl", [{"conversations": [message]}])
    with pytest.raises(DataError, match=r"^train\.jsonl:1: " + fault):
        prepare(config(there), word_tokenizer(chat_template=JINJA))


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ({"train_on": "assistant", "text_template": "{a}"}, "is for chats"),
        ({"train_on": "assistant", "chat_template": True, "strategy": "pair"}, "is for chats"),
        ({"train_on": "completion", "ignore_source_in_labels": False, "strategy": "pair"}, "contradict each other"),
    ],
)
def test_what_cannot_be_trained_on_is_a_problem(there, text, fault):
    (problem, *_) = check(config(there, **text))
    assert fault in problem.message


def test_assistant_of_rows_that_are_no_chats_is_a_problem(there):
    write_jsonl(there / "train.jsonl", [{"prompt": "a", "completion": "b"}])
    (problem,) = check(config(there, train_on="assistant"))
    assert "is for chats" in problem.message


@settings(max_examples=25, deadline=None)
@given(
    names=st.lists(st.text("abcxyz ü", min_size=1, max_size=9), min_size=1, max_size=20, unique=True),
    n_rows=st.integers(0, 50),
    nested=st.booleans(),
)
def test_parquet_footer_is_what_pyarrow_reads(tmp_path_factory, names, n_rows, nested):
    import pyarrow as pa
    import pyarrow.parquet as pq

    cell = [{"role": "x", "deep": [{"y": 1.5}]}] if nested else 7
    path = tmp_path_factory.getbasetemp() / "footer.parquet"
    pq.write_table(pa.table({name: [cell] * n_rows for name in names}), path)
    assert parquet_footer.read(path) == (names, n_rows)


@pytest.mark.parametrize("content", [b"", b"PAR1", b"x" * 40, b"PAR1" + b"\xff" * 20 + b"\x14\0\0\0PAR1"])
def test_file_that_is_no_parquet_is_refused(tmp_path, content):
    path = tmp_path / "x.parquet"
    path.write_bytes(content)
    with pytest.raises(DataError, match="not a Parquet file that can be read"):
        parquet_footer.read(path)
