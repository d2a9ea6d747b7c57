"""Rows without an answer are left out, counted and named; where they are many, they are refused."""

import json

import pytest
from data_tools import config, word_tokenizer, write_jsonl

from olivine.data import answered, check, examples, look, pick_rows, prepare, read_rows, seen
from olivine.errors import DataError

ANSWERED = [{"prompt": f"a {letter}", "completion": "joy"} for letter in "bcdefghijklmno"]
EMPTY = [{"prompt": "p", "completion": ""}, {"prompt": "p"}, {"prompt": "p", "completion": None}]
SAID = "3 of 17 rows of 'tones' have no answer in 'completion' and are left out (first: train.jsonl:15)"
CHAT = "{% for m in messages %}{{ m.content }} | {% endfor %}"
ASK, SAY, SILENCE = ({"role": r, "content": c} for r, c in (("user", "a"), ("assistant", "b"), ("assistant", " ")))


@pytest.fixture
def there(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_rows_without_an_answer_are_left_out_and_counted_in_one_sentence(there):
    write_jsonl(there / "train.jsonl", [*ANSWERED, *EMPTY])
    looked = look(config(there))
    assert (looked.problems, looked.left_out, len(looked.said)) == ((), SAID, 14)
    prepared = prepare(config(there), word_tokenizer(), there / "cache")
    assert len(prepared) == len(prepared.samples()) == 14
    assert prepared.unanswered.sentence(prepared.config, prepared.form) == SAID
    again = prepare(config(there), word_tokenizer(), there / "cache")  # the tokens of the first
    assert again.unanswered == prepared.unanswered


def test_split_score_and_calibration_see_the_rows_that_have_an_answer(there):
    """One row more or less at the front would hold out others than those that are scored."""
    write_jsonl(there / "train.jsonl", [*EMPTY, *ANSWERED])
    settings, tokenizer = config(there), word_tokenizer()
    prepared = prepare(settings, tokenizer)
    picked = pick_rows(settings, lambda n_rows: [0, n_rows - 1])
    rows = answered(settings, read_rows(settings), tokenizer)
    assert [row["prompt"] for row in picked] == ["a b", "a o"]
    assert (
        [prepared.where(0), prepared.where(13)] == [picked.where(0), picked.where(1)] == [rows.where(0), rows.where(13)]
    )
    assert [example.label for example in examples(settings, picked, tokenizer)] == ["joy", "joy"]


@pytest.mark.parametrize(
    ("most", "fault"),
    [
        (0.1, "more than the share of 0.1 that max_unanswered lets be left out"),
        (0, "and max_unanswered: 0 lets none be left out"),
    ],
)
def test_more_than_the_share_is_refused_with_the_share_that_would_do(there, most, fault):
    write_jsonl(there / "train.jsonl", [*ANSWERED, *EMPTY])
    (problem,) = check(config(there, max_unanswered=most))
    assert fault in problem.message
    assert "(first: train.jsonl:15)" in problem.message
    assert "set max_unanswered: 0.18" in problem.fix
    for use in (
        lambda settings: prepare(settings, word_tokenizer()),
        lambda settings: pick_rows(settings, range),
        lambda settings: answered(settings, read_rows(settings), word_tokenizer()),
    ):
        with pytest.raises(DataError, match=r"3 of 17 rows of 'tones' have no answer .* set max_unanswered: 0\.18$"):
            use(config(there, max_unanswered=most))
        use(config(there, max_unanswered=0.18))


def test_rows_that_all_lack_an_answer_are_refused_whatever_the_share(there):
    write_jsonl(there / "train.jsonl", EMPTY)
    (problem,) = check(config(there, max_unanswered=1))
    assert "3 of 3 rows of 'tones' have no answer in 'completion'" in problem.message
    assert "nothing to learn" in problem.message
    with pytest.raises(DataError, match="nothing to learn"):
        prepare(config(there, max_unanswered=1), word_tokenizer())


def test_answer_column_that_no_row_has_is_a_missing_column(there):
    write_jsonl(there / "train.jsonl", [{"prompt": "a", "tone": "joy"}])
    settings = config(there, prompt_col="prompt", answer_col="tnoe")
    (problem,) = check(settings)
    assert "needs the column 'tnoe', which the data does not have" in problem.message
    with pytest.raises(DataError, match="needs the column 'tnoe', which the data does not have"):
        prepare(settings, word_tokenizer())


@pytest.mark.parametrize("messages", [[ASK], [ASK, SILENCE], [], None, [ASK, {**SAY, "weight": 0}]])
def test_chat_in_which_the_assistant_says_nothing_has_no_answer(there, messages):
    tokenizer = word_tokenizer(chat_template=CHAT)
    write_jsonl(there / "train.jsonl", [{"messages": [ASK, SAY]}] * 4 + [{"messages": messages}])
    left_out = (
        "1 of 5 rows of 'tones' has no answer of the assistant in 'messages' and is left out (first: train.jsonl:5)"
    )
    assert look(config(there)).left_out == left_out
    assert len(prepare(config(there), tokenizer)) == 4
    write_jsonl(there / "train.jsonl", [{"messages": messages}] * 2)
    (problem,) = check(config(there, chat_template=True))
    assert "2 of 2 rows of 'tones' have no answer of the assistant in 'messages'" in problem.message


def test_chat_that_is_trained_whole_needs_no_answer(there):
    write_jsonl(there / "train.jsonl", [{"messages": [ASK]}])
    settings = config(there, train_on="all")
    assert look(settings).left_out is None
    assert len(prepare(settings, word_tokenizer(chat_template=CHAT)).samples()) == 1


def test_turns_of_tools_without_content_are_answers(there):
    calls = [{"function": {"name": "f", "arguments": {}}}]
    write_jsonl(there / "train.jsonl", [{"messages": [ASK, {"role": "assistant", "tool_calls": calls}]}])
    assert look(config(there)).left_out is None


@pytest.mark.parametrize(
    ("text", "row"),
    [
        ({"text_template": "{prompt} = {completion}"}, {"prompt": "p", "completion": " "}),
        ({"pair_format": "custom", "input_col": "prompt", "output_template": "= {completion}"}, {"prompt": "p"}),
        ({"text_cols": "prompt"}, {"prompt": None}),
        ({"chat_template": CHAT, "prompt_col": "prompt", "answer_col": "completion"}, {"prompt": "p"}),
    ],
)
def test_every_form_knows_a_row_without_an_answer(there, text, row):
    write_jsonl(there / "train.jsonl", [*ANSWERED, row])
    settings = config(there, **text)
    assert "1 of 15 rows of 'tones' has no " in look(settings).left_out
    assert len(prepare(settings, word_tokenizer())) == 14


def test_blank_lines_of_plain_text_are_no_rows_without_an_answer(there):
    (there / "a.txt").write_text("a b\n\nc d\n\n\n")
    settings = config(there, "a.txt", load={"data_name": "text"}, strategy="line-by-line")
    assert look(settings).left_out is None
    assert prepare(settings, word_tokenizer()).samples().statistics.n_empty_rows == 3


def test_empty_cells_of_a_table_are_counted_where_they_stand(there):
    (there / "a.csv").write_text("prompt,completion\na,joy\nb,\n" + "c,fear\n" * 4)
    settings = config(there, "a.csv", load={"data_name": "csv"})
    assert look(settings).left_out.endswith("(first: a.csv:3)")
    assert list(look(config(there, "a.csv", load={"data_name": "csv", "split": "train[2:]"})).problems) == []
    assert look(config(there, "a.csv", load={"data_name": "csv", "split": "train[2:]"})).left_out is None


def test_file_that_changes_is_read_again(there):
    write_jsonl(there / "train.jsonl", [*ANSWERED, EMPTY[0]])
    assert look(config(there)).left_out is not None
    write_jsonl(there / "train.jsonl", ANSWERED)
    assert look(config(there)).left_out is None


def test_held_out_rows_that_are_trained_on_are_told_with_their_share(there):
    write_jsonl(there / "train.jsonl", [json.loads(json.dumps(ANSWERED[0]))] * 12)
    sentence = seen(config(there), None, 4, 0)
    assert sentence.startswith("4 of the 4 held-out rows of 'tones' (100%) are also among those that are trained on")
    write_jsonl(there / "train.jsonl", ANSWERED)
    write_jsonl(there / "other.jsonl", [ANSWERED[3], {"prompt": "z", "completion": "joy"}])
    assert seen(config(there), None, 4, 0) is None
    assert seen(config(there), config(there, "other.jsonl")).startswith("1 of the 2 held-out rows of 'tones' (50%) is ")
