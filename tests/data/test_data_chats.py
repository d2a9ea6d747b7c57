"""What a template writes round an answer, and what stands beside the messages of a chat."""

import json

import pytest
from data_tools import config, word_tokenizer, write_jsonl

from olivine.data import check, examples, prepare, read_rows, texts
from olivine.errors import DataError

ASK = {"role": "user", "content": "a b"}
SAY = {"role": "assistant", "content": "joy"}
PLAIN = "{% for m in messages %}<{{ m.role }}> {{ m.content }} |\n{% endfor %}"
PROMPT = "{% if add_generation_prompt %}<assistant> {% endif %}"
# What the template writes for a turn of the assistant, and what it writes of the answer "joy".
ROUND = {
    "think block": ("<think>\n\n</think>\n\n{{ m.content }}", "joy", "<think>\n\n</think>\n\n"),
    "word before": ("Answer: {{ m.content }}", "joy", "Answer: "),
    "line before": ("{{ '\n' + m.content }}", "joy", "\n"),
    "word after": ("{{ m.content }} (end)", "joy", ""),
    "trimmed": ("{{ m.content | trim }}", "joy", ""),
    "in capitals": ("{{ m.content | upper }}", "JOY", ""),
    "twice, once as a name": ("joy is {{ m.content }}", "joy", "joy is "),
}
REASON = (
    "<think>\n{{ m.reasoning_content if m.reasoning_content is defined else '' }}\n</think>\n\n"
    "{{ m.content.split('</think>')[-1].lstrip('\n') }}"
)


@pytest.fixture
def there(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def template(turn):
    """Turns of the assistant are written as told, others plainly."""
    return (
        "{% for m in messages %}<{{ m.role }}> {% if m.role == 'assistant' %}"
        + turn
        + "{% else %}{{ m.content }}{% endif %} |\n{% endfor %}"
        + PROMPT
    )


def loaded(there, row, jinja, **settings):
    write_jsonl(there / "train.jsonl", [row])
    return config(there, **settings), read_rows(config(there)), word_tokenizer(chat_template=jinja)


def example_of(there, row, jinja, **settings):
    (made,) = examples(*loaded(there, row, jinja, **settings))
    return made


def text_of(there, row, jinja, **settings):
    (made,) = texts(*loaded(there, row, jinja, **settings))
    return made


@pytest.mark.parametrize("name", ROUND)
def test_label_is_the_answer_as_the_template_writes_it(there, name):
    turn, label, lead = ROUND[name]
    made = example_of(there, {"messages": [ASK, SAY]}, template(turn))
    assert (made.prompt, made.label, made.lead) == ("<user> a b |\n<assistant> ", label, lead)
    assert made.target == made.lead + made.label + made.tail


def test_lead_of_a_row_that_reasons_is_what_follows_its_own_words(there):
    for say in (SAY | {"reasoning_content": "a c"}, SAY | {"content": "<think>\na c\n</think>\n\njoy"}):
        made = example_of(there, {"messages": [ASK, say]}, template(REASON))
        assert made.label == "joy"
        assert made.lead.endswith("</think>\n\n")
        assert "a c" not in made.lead
        assert made.target.endswith("</think>\n\njoy |\n")


def test_answer_that_is_part_of_the_turn_s_end_is_found_where_it_was_written(there):
    jinja = "{% for m in messages %}[{{ m.content }}|end]{% endfor %}{% if add_generation_prompt %}<x>{% endif %}"
    made = example_of(there, {"messages": [ASK, SAY | {"content": "end"}]}, jinja)
    assert (made.prompt, made.label, made.tail) == ("[a b|end][", "end", "|end]")


def test_answer_that_a_rewritten_earlier_turn_says_too_is_trained_in_its_own_turn(there):
    turn = "{% if loop.last %}<think> {% endif %}{{ m.content }}"
    chat = [{"role": "user", "content": "joy"}, SAY, ASK, SAY | {"content": "fear"}]
    made = text_of(there, {"messages": chat}, template(turn))
    assert [made[start:stop] for start, stop in made.spans] == ["joy", "<think> fear |\n"]
    assert made.spans[0][0] > made.index("<assistant>")


@pytest.mark.parametrize("value", [[{"name": "f"}], '[{"name": "f"}]', [{"name": "f", "more": None}], {"name": "f"}])
def test_tools_reach_the_template_as_list_or_json_text(there, value):
    made = text_of(there, {"messages": [ASK, SAY], "tools": value}, "{{ tools | tojson }}" + PLAIN)
    assert made.startswith('[{"name": "f"}]<user>')


@pytest.mark.parametrize("value", [None, "", []])
def test_row_without_tools_is_written_as_if_there_were_no_column(there, value):
    jinja = "{% if tools %}TOOLS{% endif %}" + PLAIN
    assert text_of(there, {"messages": [ASK, SAY], "tools": value}, jinja).startswith("<user>")


def test_tools_that_are_no_json_are_a_problem_of_the_plan(there):
    write_jsonl(there / "train.jsonl", [{"messages": [ASK, SAY], "tools": "[{"}])
    (problem,) = check(config(there))
    assert (problem.where, problem.message) == (
        "train.jsonl:1",
        "the column 'tools' must be a list or an object, but its text is not JSON.",
    )


def test_documents_and_variables_of_the_template_are_filled_from_their_columns(there):
    jinja = "{{ documents[0].text }} {{ today }} {{ style }} {{ m }}" + PLAIN
    row = {"messages": [ASK, SAY], "documents": [{"text": "b"}], "today": "c", "chat_template_kwargs": {"style": "d"}}
    assert text_of(there, row, jinja).startswith("b c d <user>")


@pytest.mark.parametrize("column", ["system", "system_prompt"])
def test_system_text_beside_the_messages_becomes_the_first(there, column):
    shared = {"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "joy"}], column: "be b"}
    assert text_of(there, shared, PLAIN).startswith("<system> be b |\n<user> a |")
    row = {"messages": [ASK, SAY], column: " "}
    assert text_of(there, row, PLAIN).startswith("<user> a b |")
    assert text_of(there, row | {column: "be b"}, PLAIN, system_col="").startswith("<user> a b |")


def test_system_text_that_the_messages_bring_stands_once(there):
    chat = [{"role": "system", "content": "be b"}, ASK, SAY]
    assert text_of(there, {"messages": chat, "system": "be b"}, PLAIN).count("be b") == 1
    with pytest.raises(DataError, match="the column 'system' and the first message are two system texts"):
        text_of(there, {"messages": chat, "system": "be c"}, PLAIN)


def test_calls_without_content_are_trained_where_the_template_writes_them(there):
    call = {"type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}
    say = {"role": "assistant", "content": None, "tool_calls": [call]}
    turn = "{% if m.tool_calls %}{{ m.tool_calls[0].function | tojson }}{% else %}{{ m.content }}{% endif %}"
    made = example_of(there, {"messages": [ASK, say]}, template(turn))
    assert json.loads(made.label.removesuffix(" |")) == {"name": "f", "arguments": {"a": 1}}
    with pytest.raises(DataError, match=r"does not write 'messages\[1\]\.tool_calls'"):
        example_of(there, {"messages": [ASK, say]}, template("{{ m.content or '' }}"))


def test_label_of_a_pair_is_the_column_and_not_what_its_template_writes_round_it(there):
    write_jsonl(there / "train.jsonl", [{"a": "x", "b": 1.5}])
    pair = config(there, pair_format="custom", input_col="a", output_template="So\nAnswer: {b:.2f} kg")
    (made,) = examples(pair, read_rows(pair), None)
    assert (made.prompt, made.target) == ("x", "So\nAnswer: 1.50 kg")
    assert (made.lead, made.label, made.tail) == ("So\nAnswer: ", "1.50", " kg")


MARKED = (
    "{% for m in messages %}<{{ m.role }}> {% if m.role == 'assistant' %}{% generation %}{{ m.content }}"
    "{% endgeneration %}{% else %}{{ m.content }}{% endif %} |\n{% endfor %}" + PROMPT
)


@pytest.mark.parametrize("jinja", [PLAIN + PROMPT, MARKED], ids=["plain", "marked"])
@pytest.mark.parametrize("form", ["messages", "conversations"])
def test_turn_with_a_weight_of_zero_is_not_trained_on(there, jinja, form):
    def turn(role, words, **more):
        key, names = ("content", {}) if form == "messages" else ("value", {"user": "human", "assistant": "gpt"})
        return {"role" if form == "messages" else "from": names.get(role, role), key: words, **more}

    chat = [
        turn("user", "a"),
        turn("assistant", "joy", weight=0),
        turn("user", "b"),
        turn("assistant", "fear", weight=1),
    ]
    settings = {"chat_template": True} | ({} if form == "messages" else {"message_col": form})
    text = text_of(there, {form: chat}, jinja, **settings)
    trained = " ".join(text[start:stop] for start, stop in text.spans)
    assert "fear" in trained
    assert "joy" not in trained


def test_weight_between_zero_and_one_is_refused(there):
    write_jsonl(there / "train.jsonl", [{"messages": [ASK, SAY | {"weight": 0.5}]}])
    (problem,) = check(config(there, chat_template=True))
    assert "'messages[1].weight' must be 0 or 1, but is 0.5" in problem.message


def test_chat_that_no_tokenizer_takes_is_told_by_the_plan(there):
    (there / "train.jsonl").write_text(json.dumps({"messages": [ASK, SAY | {"content": "\ud800"}]}) + "\n")
    (problem,) = check(config(there, chat_template=True))
    assert "half of a surrogate pair" in problem.message


PARTS = (
    "{% for m in messages %}<{{ m.role }}> {% for p in m.content if p.type == 'text' %}{{ p.text }}{% endfor %} |\n"
    "{% endfor %}"
)


@pytest.mark.parametrize("content", ["joy", [{"type": "text", "text": "joy"}]])
def test_template_that_reads_contents_in_parts_alone_writes_every_answer(there, content):
    row = {"messages": [ASK, SAY | {"content": content}]}
    assert text_of(there, row, PARTS + PROMPT) == "<user> a b |\n<assistant> joy |\n"
    assert example_of(there, row, PARTS + PROMPT).label == "joy"


def test_template_that_writes_nothing_of_an_answer_is_refused(there):
    drops = "{% for m in messages %}<{{ m.role }}> {{ m.text }} |\n{% endfor %}"
    with pytest.raises(DataError, match=r"the chat template does not write 'messages\[1\]\.content'"):
        text_of(there, {"messages": [ASK, SAY]}, drops)
    assert "joy" in text_of(there, {"messages": [ASK, SAY | {"text": "joy"}]}, drops)


def test_answer_that_a_chat_asks_for_in_another_way_than_rows_have_it_is_told(there):
    thinks = PLAIN + "{% if add_generation_prompt %}<assistant> <think>\n{% endif %}"
    told = {}
    for name, jinja in {"thinks": thinks, "plain": PLAIN + PROMPT, "no prompt": PLAIN}.items():
        settings, _, tokenizer = loaded(there, {"messages": [ASK, SAY]}, jinja)
        told[name] = prepare(settings, tokenizer, there / "cache").form.otherwise_asked
    assert "asks for an answer with '<think>\\n', and writes nothing there" in told.pop("thinks")
    assert set(told.values()) == {""}


def test_shared_chats_keep_what_a_turn_says_beside_its_value(there):
    turns = [{"from": "human", "value": "a"}, {"from": "gpt", "value": "joy", "reasoning_content": "a c"}]
    assert "a c" in text_of(there, {"conversations": turns}, template(REASON))


def test_shared_chats_whose_assistant_calls_tools_are_trained_on_the_call(there):
    call = {"from": "function_call", "value": '{"name": "f", "arguments": {"x": 1}}'}
    row = {"conversations": [{"from": "human", "value": "a"}, call, {"from": "observation", "value": "b"}]}
    calls = "{% for c in m.tool_calls or [] %}{{ c.function.name }}({{ c.function.arguments.x }}){% endfor %}"
    text = text_of(there, row, template("{{ m.content or '' }}" + calls))
    assert text == "<user> a |\n<assistant> f(1) |\n<tool> b |\n"
    assert [text[slice(*span)] for span in text.spans] == ["f(1) |\n"]
    for value in ("f()", "5"):
        with pytest.raises(DataError, match="must be calls of tools"):
            text_of(there, {"conversations": [row["conversations"][0], call | {"value": value}]}, PLAIN)
