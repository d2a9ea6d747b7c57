"""Questions and answers in columns of their own go through the chat template of a model that has one."""

import json

import pytest
from data_tools import config, word_tokenizer, write_jsonl

from olivine.data import check, describe, doubts, examples, for_model, prepare, read_rows, resolved, texts, unread
from olivine.errors import DataError
from olivine.models import Model
from olivine.models.chat_template import read_chat_template

JINJA = (
    "{% for m in messages %}<|{{ m.role }}|> {{ m.content }} |\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|> {% endif %}"
)
GUESSED = [
    (("question", "answer"), "question"),
    (("prompt", "completion"), "prompt"),
    (("prompt", "response"), "prompt"),
    (("instruction", "output"), "instruction"),
    (("instruction", "input", "output"), ["instruction", "input"]),
    (("instruction", "context", "response", "category"), ["instruction", "context"]),  # Dolly's form
    (("query", "answer"), "query"),
    (("input", "output"), "input"),
    (("user", "assistant"), "user"),
    (("Question", "Best Answer", "Answer "), "Question"),
    (("source", "target"), "source"),
    (("text", "label"), "text"),
    (("id", "instruction", "output", "text"), "instruction"),
]


@pytest.fixture
def there(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def settings_of(there, row, template=JINJA, **text):
    write_jsonl(there / "train.jsonl", [row] * 2)
    return resolved(config(there, **text), template=template).pre_process_data_config


def text_of(there, row, **text):
    write_jsonl(there / "train.jsonl", [row])
    settings = config(there, **text)
    assert list(check(for_model(settings, JINJA))) == []
    (made,) = texts(settings, read_rows(settings), word_tokenizer(chat_template=JINJA))
    return made


@pytest.mark.parametrize(("columns", "prompt"), GUESSED, ids=str)
def test_usual_names_of_columns_are_turns_of_a_chat(there, columns, prompt):
    told = settings_of(there, dict.fromkeys(columns, "a"))
    assert (told.chat_template, told.prompt_col) == (True, prompt)
    assert (told.strategy, told.train_on) == ("line-by-line", "assistant")


def test_question_and_answer_are_written_by_the_template_and_the_answer_is_trained(there):
    made = text_of(there, {"question": "a b", "answer": "joy", "system": "be c"})
    assert made == "<|system|> be c |\n<|user|> a b |\n<|assistant|> joy |\n"
    assert [made[start:stop] for start, stop in made.spans] == ["joy |\n"]


def test_alpaca_with_input_system_and_history_is_one_chat(there):
    row = {"instruction": "a", "input": "b", "output": "joy", "system": "c", "history": [["d", "e"]]}
    made = text_of(there, row)
    assert made == "<|system|> c |\n<|user|> d |\n<|assistant|> e |\n<|user|> a\nb |\n<|assistant|> joy |\n"
    assert text_of(there, row | {"input": "", "system": None, "history": []}) == "<|user|> a |\n<|assistant|> joy |\n"


def test_prompt_and_completion_may_be_messages(there):
    row = {"prompt": [{"role": "user", "content": "a"}], "completion": [{"role": "assistant", "content": "joy"}]}
    assert text_of(there, row) == "<|user|> a |\n<|assistant|> joy |\n"


def test_columns_that_the_config_names_are_the_turns(there):
    row = {"phrase": "a", "tone": "joy", "how": "b"}
    made = text_of(there, row, prompt_col="phrase", answer_col="tone", system_col="how")
    assert made == "<|system|> b |\n<|user|> a |\n<|assistant|> joy |\n"
    assert text_of(there, row, chat_template=True, prompt_col="phrase", answer_col="tone").startswith("<|user|> a |")


def test_chat_template_without_messages_takes_questions_and_answers(there):
    assert text_of(there, {"question": "a", "answer": "b"}, chat_template=True) == "<|user|> a |\n<|assistant|> b |\n"


def test_example_is_asked_by_the_template_and_expects_the_answer(there):
    write_jsonl(there / "train.jsonl", [{"question": "a", "answer": "joy"}])
    settings = config(there)
    (made,) = examples(settings, read_rows(settings), word_tokenizer(chat_template=JINJA), "answer")
    assert (made.prompt, made.label) == ("<|user|> a |\n<|assistant|> ", "joy")


def test_model_without_a_template_reads_the_answer_below_the_question(there):
    write_jsonl(there / "train.jsonl", [{"question": "a b", "answer": "joy"}])
    prepared = prepare(config(there), word_tokenizer())
    (sample,) = prepared.samples()
    expected = word_tokenizer()("<s> a b joy </s>", add_special_tokens=False)["input_ids"]
    assert sample["input_ids"] == expected
    assert [label for label in sample["labels"] if label != -100] == expected[-2:]
    settings = config(there)
    assert texts(settings, read_rows(settings), word_tokenizer()) == ["a b\njoy"]


@pytest.mark.parametrize(
    "text",
    [
        {"text_template": "{question} {answer}"},
        {"pair_format": "custom", "input_col": "question", "output_col": "answer"},
        {"text_cols": ["question", "answer"]},
        {"chat_template": False},
        {"strategy": "pair"},
    ],
    ids=str,
)
def test_what_the_config_says_is_done_without_the_template_and_doubted(there, text):
    row = {"question": "a", "answer": "joy"}
    assert "<|" not in text_of(there, row, **text)
    (doubt,) = doubts(config(there, **text), JINJA)
    assert "the model has a chat template, and 'tones' trains it on other text" in doubt
    assert list(doubts(config(there, **text))) == []


def chat_that(**said):
    return [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b", "id": 7, **said}]


@pytest.mark.parametrize("key", ["tool_calls", "reasoning_content"])
def test_what_messages_say_and_the_template_does_not_write_is_doubted(there, key):
    said = {"tool_calls": [{"name": "f", "arguments": {}}], "reasoning_content": "hm"}[key]
    write_jsonl(there / "train.jsonl", [{"messages": chat_that()}, {"messages": chat_that(**{key: said})}])
    (doubt,) = doubts(config(there), JINJA)
    assert f"the chat template does not write '{key}' of the messages in 'messages' of 'tones'" in doubt
    assert ("is not trained on" in doubt) == (key == "tool_calls")
    writes = JINJA.replace("m.content", f"(m.{key} or m.content) | string")
    assert list(doubts(config(there), writes)) == []
    assert list(doubts(config(there, chat_template=writes), JINJA)) == []
    assert list(doubts(config(there), "{{ messages | tojson }}")) == []
    write_jsonl(there / "train.jsonl", [{"messages": chat_that(**{key: None})}])
    assert list(doubts(config(there), JINJA)) == []


def test_turn_of_the_assistant_that_is_empty_is_doubted(there):
    silent = [{"role": "user", "content": "a"}, {"role": "assistant", "content": " "}]
    write_jsonl(there / "train.jsonl", [{"messages": chat_that()}, {"messages": [*silent, *chat_that()]}])
    (doubt,) = doubts(config(there), JINJA)
    assert doubt == (
        "in 1 of the first 2 rows of 'tones' a turn of the assistant is empty: it is read, but not trained on"
    )


def test_messages_may_be_json_text_and_contents_may_come_in_parts(there):
    parts = [
        {"role": "user", "content": [{"type": "text", "text": "a "}, {"type": "text", "text": "b"}]},
        *chat_that()[1:],
    ]
    plain = [{"role": "user", "content": "a b"}, *chat_that()[1:]]
    told = [text_of(there, {"messages": form}) for form in (plain, parts, json.dumps(plain), json.dumps(parts))]
    assert told == ["<|user|> a b |\n<|assistant|> b |\n"] * 4
    write_jsonl(there / "train.jsonl", [{"messages": [{"role": "user", "content": [{"type": "image"}]}]}])
    assert "parts that are no text" in " ".join(found.message for found in check(config(there)))


def test_turn_of_calls_has_no_content_for_templates_that_ask_for_one(there):
    call = {"role": "assistant", "tool_calls": [{"name": "f", "arguments": {}}]}
    row = {"messages": [{"role": "user", "content": "a"}, call, {"role": "tool", "content": "c"}, *chat_that()[1:]]}
    template = JINJA.replace(
        "{{ m.content }}", "{{ m.content + '' }}{% for c in m.tool_calls or [] %}{{ c.name }}{% endfor %}"
    )
    assert (
        text_of(there, row, chat_template=template)
        == "<|user|> a |\n<|assistant|> f |\n<|tool|> c |\n<|assistant|> b |\n"
    )


def test_finished_texts_do_not_go_through_the_template_again(there):
    row = {"prompt": "<|user|> a |\n<|assistant|> ", "completion": "joy |\n"}
    assert text_of(there, row) == "<|user|> a |\n<|assistant|> joy |\n"
    assert list(doubts(config(there), JINJA)) == []
    write_jsonl(there / "train.jsonl", [{"text": "<|user|> a |\n"}])
    assert list(doubts(config(there), JINJA)) == []
    assert list(doubts(config(there, text_template="<|user|> {text}"), JINJA)) == []


def test_form_that_was_told_for_a_model_stays_what_becomes_of_its_template(there):
    for row in ({"question": "a", "answer": "b"}, {"prompt": "<|user|> a", "completion": "b"}):
        write_jsonl(there / "train.jsonl", [row])
        pinned = for_model(config(there), JINJA)
        assert resolved(pinned) == resolved(pinned, template=JINJA) == pinned
        plain = for_model(config(there), "")
        assert resolved(plain, template=JINJA) == plain


def test_template_that_is_not_known_yet_decides_nothing(there):
    write_jsonl(there / "train.jsonl", [{"question": "a", "answer": "b"}])
    assert for_model(config(there), None) == config(there)
    assert "written by the chat template of a model that has one" in describe(config(there), None)


def test_plan_says_who_says_what_and_what_is_not_read(there):
    write_jsonl(there / "train.jsonl", [{"question": "a", "answer": "b", "id": 1, "images": []}])
    told = describe(config(there), JINJA)
    assert "chats in 'question' (user) and 'answer' (assistant), written by the model's chat template" in told
    assert told.endswith("; the turns of the assistant are trained on; not read: id")
    assert unread(config(there), JINJA) == ["id", "images"]
    assert list(doubts(config(there), JINJA)) == ["the column 'images' of 'tones' is not read"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ({"prompt_col": "a"}, "'prompt_col' and 'answer_col' go together"),
        ({"prompt_col": "a", "answer_col": "b", "text_template": "{a}"}, "'prompt_col' and 'text_template' both say"),
        ({"prompt_col": [], "answer_col": "b"}, "'prompt_col' names no column"),
        ({"prompt_col": "c", "answer_col": "b"}, "'prompt_col' needs the column 'c', which the data does not have"),
        ({"prompt_col": ["c"], "answer_col": "b"}, "'prompt_col' needs the column 'c'"),
        ({"prompt_col": "a", "answer_col": "c"}, "'answer_col' needs the column 'c'"),
        ({"prompt_col": "a", "answer_col": "b", "system_col": "c"}, "'system_col' needs the column 'c'"),
        ({"chat_template": True, "message_col": "c"}, "'message_col' needs the column 'c'"),
        ({"chat_template": True}, "needs the column 'messages', which the data does not have"),
    ],
)
def test_columns_that_cannot_be_turns_are_a_problem(there, text, message):
    write_jsonl(there / "train.jsonl", [{"a": "x", "b": "y"}])
    found = list(check(for_model(config(there, **text), JINJA)))
    assert len(found) == 1
    assert message in found[0].message


@pytest.mark.parametrize(
    ("history", "message"),
    [("a", "must be a list of pairs"), ([["a"]], r"'history\[0\]' must be a pair of texts")],
)
def test_history_that_is_no_list_of_pairs_is_named(there, history, message):
    write_jsonl(there / "train.jsonl", [{"question": "a", "answer": "b", "history": history}])
    settings = config(there)
    with pytest.raises(DataError, match=message):
        texts(settings, read_rows(settings), word_tokenizer(chat_template=JINJA))


def test_template_is_read_from_the_folder_as_transformers_reads_it(tiny_llama, tmp_path):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_llama)
    assert read_chat_template(Model("hf", tiny_llama)) == tokenizer.chat_template
    for template in (None, JINJA, {"default": JINJA, "tool_use": "TOOLS"}):
        for as_files in (True, False):
            folder = tmp_path / f"{as_files}-{type(template).__name__}"
            tokenizer.chat_template = template
            tokenizer.save_pretrained(folder, save_jinja_files=as_files)
            again = AutoTokenizer.from_pretrained(folder).chat_template
            assert bool(read_chat_template(Model("hf", folder))) == bool(again)
            if isinstance(again, str):
                assert read_chat_template(Model("hf", folder)) == again


def test_template_of_an_adapter_is_that_of_its_tokenizer(tiny_llama, tmp_path):
    adapter = Model("adapter", tmp_path, base=Model("hf", tiny_llama))
    assert "<|assistant|>" in read_chat_template(adapter)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": "own"}))
    assert read_chat_template(adapter) == "own"
    (tmp_path / "tokenizer_config.json").write_text("[")
    assert read_chat_template(adapter) is None
