"""Rows become text by templates, columns, pairs or chats; for scoring, text is cut where the target begins."""

import pytest
from data_tools import config, word_tokenizer, write_jsonl

from olivine.data import examples, read_rows, target_column, texts
from olivine.errors import DataError, Unsupported

ROW = {"Best Answer": "42", "Question": "why {x}?", "n": 7, "share": 0.5, "none": None, "list": [1], "map": {"a": 1}}
CHAT = [
    {"role": "user", "content": "a b"},
    {"role": "assistant", "content": "joy"},
    {"role": "user", "content": "c"},
    {"role": "assistant", "content": "fear"},
]
JINJA = (
    "{% for m in messages %}<{{ m['role'] }}> {{ m['content'] }} |\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant> {% endif %}"
)


@pytest.fixture
def there(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def text_of(there, row, tokenizer=None, **text):
    write_jsonl(there / "train.jsonl", [row])
    settings = config(there, **text)
    (made,) = texts(settings, read_rows(settings), tokenizer)
    return made


def example_of(there, row, tokenizer=None, target=None, **text):
    write_jsonl(there / "train.jsonl", [row])
    settings = config(there, **text)
    (made,) = examples(settings, read_rows(settings), tokenizer, target)
    return made


@pytest.mark.parametrize(
    "template",
    [
        "Q: {Question}\nA: {Best Answer}",
        "{n:03d} {share:.0%}",
        "{Question!r:>12}|{{{n}}}",
        "{n}{n}",
        "{Best Answer!s}!",
    ],
)
def test_template_is_str_format_over_the_row(there, template):
    assert text_of(there, ROW, text_template=template) == template.format(**ROW)


def test_template_wins_over_columns(there):
    assert text_of(there, ROW, text_template="{n}", text_cols=["Question"]) == "7"


@pytest.mark.parametrize("columns", ["n", ["n"], ["Question", "n", "Best Answer"]])
def test_columns_are_joined_by_one_space(there, columns):
    named = [columns] if isinstance(columns, str) else columns
    assert text_of(there, ROW, text_cols=columns) == " ".join(str(ROW[name]) for name in named)


def test_without_template_and_columns_the_column_text_is_taken(there):
    assert text_of(there, {"text": "so it is"}) == "so it is"


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{n.real}", "without . or"),
        ("{list[0]}", "without . or"),
        ("{}", "without the name of a column"),
        ("{0}", "without the name of a column"),
        ("{n:{share}}", "a field inside the format"),
        ("{n!x}", "the conversion !x"),
        ("{n", "cannot be read"),
        ("n}", "cannot be read: Single '}'"),
        ("tone: joy", "names no column"),
    ],
)
def test_template_reads_plain_columns_and_nothing_else(there, template, message):
    with pytest.raises(DataError, match=f"data config 'tones': 'text_template' .*{message}"):
        text_of(there, ROW, text_template=template)


def test_misspelt_column_lists_the_columns(there):
    message = r"data config 'tones': 'text_template' needs the column 'Qestion', .* its columns are: Best Answer, "
    with pytest.raises(DataError, match=message + r".*Did you mean 'Question'\?"):
        text_of(there, ROW, text_template="{Qestion} {n}")


@pytest.mark.parametrize(
    ("column", "message"),
    [
        ("none", "the column 'none' is empty"),
        ("list", "the column 'list' holds a list"),
        ("map", "the column 'map' holds a dict"),
    ],
)
def test_value_without_plain_text_is_named_by_file_line_and_column(there, column, message):
    with pytest.raises(DataError, match=rf"^train\.jsonl:1: {message}"):
        text_of(there, ROW, text_template="{n} {" + column + "}")


def test_value_that_does_not_fit_its_format_is_named(there):
    with pytest.raises(DataError, match=r"^train\.jsonl:1: the column 'Question' does not fit '\{Question:d\}'"):
        text_of(there, ROW, text_template="{Question:d}")


def test_row_that_lacks_a_column_is_named_by_line(there):
    rows = [{"phrase": "a", "tone": "joy"}] * 40
    rows[36] = {"phrase": "a"}
    write_jsonl(there / "train.jsonl", rows)
    settings = config(there, text_template="{phrase} {tone}")
    with pytest.raises(DataError, match=r"^train\.jsonl:37: the row has no column 'tone'; its columns are: phrase$"):
        texts(settings, read_rows(settings), None)


def test_half_a_surrogate_pair_is_named(there):
    (there / "train.jsonl").write_text('{"text": "a \\ud83d b"}\n')
    settings = config(there)
    with pytest.raises(DataError, match=r"train\.jsonl:1: the text holds half of a surrogate pair"):
        texts(settings, read_rows(settings), None)


def test_example_is_the_text_cut_before_its_last_column(there):
    row = {"phrase": "so glad", "tone": "joy"}
    template = "### Text: {phrase}\n### The tone is:\n{tone}\n"
    made = example_of(there, row, text_template=template)
    assert (made.prompt, made.target) == ("### Text: so glad\n### The tone is:\n", "joy\n")
    assert made.label == "joy"
    assert made.where == "train.jsonl:1"
    assert made.prompt + made.target == text_of(there, row, text_template=template)


def test_example_is_cut_before_the_wanted_column_where_it_stands_last(there):
    row = {"a": "x", "b": "y"}
    made = example_of(there, row, target="a", text_template="{a} {b} {a!r:>5} {b}")
    assert (made.prompt, made.target, made.label) == ("x y ", "  'x' y", "  'x'")


def test_example_of_columns_is_cut_before_the_last(there):
    made = example_of(there, {"a": 1, "b": 2}, text_cols=["a", "b"])
    assert (made.prompt, made.target, made.label) == ("1 ", "2", "2")


def test_target_that_the_text_does_not_hold_is_refused(there):
    with pytest.raises(
        DataError, match=r"'ton' is not in 'text_template', which names: phrase, tone; did you mean 'tone'"
    ):
        example_of(there, {"phrase": "a", "tone": "joy"}, target="ton", text_template="{phrase} {tone}")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ({"text_template": "{a} {Best Answer}."}, "Best Answer"),
        ({"text_cols": ["a", "b"]}, "b"),
        ({"text_cols": "a"}, "a"),
        ({}, "text"),
        ({"chat_template": True}, "messages"),
        ({"strategy": "pair"}, "output"),
        ({"strategy": "pair", "pair_format": "self_instruct"}, "completion"),
        ({"strategy": "pair", "pair_format": "custom", "input_col": "a", "output_template": "{b}!"}, "b"),
    ],
)
def test_target_column_is_the_one_that_the_text_ends_with(tmp_path, text, expected):
    assert target_column(config(tmp_path, **text)) == expected


def test_chat_goes_through_the_tokenizer_s_template(there):
    tokenizer = word_tokenizer(chat_template=JINJA)
    text = text_of(there, {"messages": CHAT}, tokenizer, chat_template=True)
    assert text == tokenizer.apply_chat_template(CHAT, tokenize=False)


def test_chat_goes_through_a_template_of_the_config(there):
    made = text_of(there, {"messages": CHAT[:1]}, word_tokenizer(), chat_template="{{ messages[0]['content'] }}!")
    assert made == "a b!"


def test_example_of_a_chat_is_cut_before_the_last_turn_of_the_assistant(there):
    row = {"messages": [*CHAT, {"role": "user", "content": "left out"}]}
    made = example_of(there, row, word_tokenizer(chat_template=JINJA), chat_template=True)
    assert made.prompt == "<user> a b |\n<assistant> joy |\n<user> c |\n<assistant> "
    assert (made.target, made.label) == ("fear |\n", "fear")


def test_example_of_a_chat_whose_finished_turn_is_written_in_another_way(there):
    template = "{% for m in messages %}[{{ m['content'] }}]{% endfor %}{% if add_generation_prompt %}<think>{% endif %}"
    made = example_of(there, {"messages": CHAT[:2]}, word_tokenizer(), chat_template=template)
    assert (made.prompt, made.target) == ("[a b][", "joy]")


def test_model_without_chat_template_is_refused_with_what_to_do(there):
    with pytest.raises(
        Unsupported, match="the model has no chat template to write them by; write a Jinja template as chat_template"
    ):
        text_of(there, {"messages": CHAT}, word_tokenizer(), chat_template=True)


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ("hello", "must be a list of messages"),
        ([], "must be a list of messages"),
        ([{"role": "user"}], r"'messages\[0\]\.content' must be text, but is None"),
        ([CHAT[0], {"content": "x"}], r"'messages\[1\]\.role' must be text"),
        (["x"], r"'messages\[0\]\.role' must be text"),
    ],
)
def test_malformed_messages_are_named(there, messages, message):
    with pytest.raises(DataError, match=r"^train\.jsonl:1: .*" + message):
        text_of(there, {"messages": messages}, word_tokenizer(chat_template=JINJA), chat_template=True)


def test_template_that_refuses_messages_is_named_with_the_row(there):
    template = "{{ raise_exception('roles must alternate') }}"
    with pytest.raises(
        DataError, match=r"^train\.jsonl:1: the chat template refuses the messages: roles must alternate"
    ):
        text_of(there, {"messages": CHAT}, word_tokenizer(), chat_template=template)


def test_chat_template_that_is_no_jinja_is_refused(there):
    with pytest.raises(DataError, match="the chat template refuses the messages"):
        text_of(there, {"messages": CHAT}, word_tokenizer(), chat_template="{% for %}")


def test_chat_without_assistant_has_nothing_to_score(there):
    with pytest.raises(DataError, match="no turn of the assistant"):
        example_of(there, {"messages": CHAT[:1]}, word_tokenizer(chat_template=JINJA), chat_template=True)


@pytest.mark.parametrize(
    ("text", "row", "prompt", "target"),
    [
        ({}, {"input": "a ", "output": "b"}, "a ", "b"),
        ({"pair_format": "self_instruct"}, {"prompt": "a ", "completion": "b"}, "a ", "b"),
        ({"pair_format": "chip2"}, {"text": "<human>: a\n<bot>: b"}, "a", "b"),
        (
            {"pair_format": "custom", "input_template": "{q}? ", "output_col": "a"},
            {"q": "why", "a": "so"},
            "why? ",
            "so",
        ),
        ({"text_template": "{q}: {a}."}, {"q": "why", "a": "so"}, "why: ", "so."),
    ],
)
def test_pair_has_a_prompt_and_a_target(there, text, row, prompt, target):
    made = text_of(there, row, strategy="pair", **text)
    assert (made[: made.border], made[made.border :]) == (prompt, target)
    example = example_of(there, row, strategy="pair", **text)
    assert (example.prompt, example.target) == (prompt, target)


def test_alpaca_pair_leaves_out_an_input_that_is_not_there(there):
    row = {"instruction": "Name it.", "output": "b"}
    with_input = text_of(there, row | {"input": "a"}, strategy="pair", pair_format="alpaca")
    assert "### Input:\na\n\n### Response: b" in with_input
    for empty in ({}, {"input": ""}, {"input": None}):
        assert "### Input" not in text_of(there, row | empty, strategy="pair", pair_format="alpaca")


@pytest.mark.parametrize(
    ("text", "row", "message"),
    [
        ({}, {"input": "a", "outputs": "b"}, r"needs the column 'output'.*Did you mean 'outputs'"),
        ({}, {"input": "a", "output": None}, r"train\.jsonl:1: the column 'output' is empty"),
        ({"pair_format": "chip2"}, {"text": "a"}, r"train\.jsonl:1: the column 'text' has no line that begins with"),
        ({"pair_format": "custom", "input_col": "a"}, {"a": "a"}, "needs 'output_template' or 'output_col'"),
    ],
)
def test_pair_that_does_not_fit_is_refused(there, text, row, message):
    with pytest.raises(DataError, match=message):
        text_of(there, row, strategy="pair", **text)
