"""Which tokens are trained on: by hand, for every form, strategy and kind of chat template."""

import pytest
from data_tools import ID, E, J, S, config, ids, word_tokenizer, write_jsonl
from hypothesis import given, settings
from hypothesis import strategies as st

from olivine.data import Text, examples, prepare, read_rows, samples, texts
from olivine.errors import DataError

X = -100
WORD = word_tokenizer()
CHAT = [
    {"role": "user", "content": "a b"},
    {"role": "assistant", "content": "joy"},
    {"role": "user", "content": "c"},
    {"role": "assistant", "content": "fear d"},
]
PLAIN = (
    "{% for m in messages %}<{{ m['role'] }}> {{ m['content'] }}</s> {% endfor %}"
    "{% if add_generation_prompt %}<assistant> {% endif %}"
)
MARKED = (
    "{% for m in messages %}<{{ m['role'] }}> {% if m['role'] == 'assistant' %}"
    "{% generation %}{{ m['content'] }}{% endgeneration %}{% else %}{{ m['content'] }}{% endif %}</s> {% endfor %}"
)
# Writes all turns of the assistant but the last in capitals' place: earlier turns lose their first word.
REWRITES = (
    "{% for m in messages %}<{{ m['role'] }}> {% if m['role'] == 'assistant' and loop.last %}<think> {% endif %}"
    "{{ m['content'] }}</s> {% endfor %}{% if add_generation_prompt %}<assistant> <think> {% endif %}"
)


@pytest.fixture
def there(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def rows(folder, rows, tokenizer=WORD, **text):
    write_jsonl(folder / "train.jsonl", rows)
    return prepare(config(folder, **{"max_seq_len": 64, **text}), tokenizer).samples()


def trained_text(folder, messages, template, **text):
    write_jsonl(folder / "train.jsonl", [{"messages": messages}])
    settings = config(folder, **text)
    (made,) = texts(settings, read_rows(settings), word_tokenizer(chat_template=template))
    return [made[start:stop] for start, stop in made.spans]


def test_prompt_is_masked_by_default_and_the_end_token_is_trained(there):
    (found,) = rows(there, [{"prompt": "a b ", "completion": "joy"}])
    assert found["input_ids"] == [S, *ids("a b joy"), E]
    assert found["labels"] == [X, X, X, ID["joy"], E]


@pytest.mark.parametrize("template", [PLAIN, MARKED])
def test_call_that_the_template_does_not_write_is_not_trained_as_an_empty_turn(there, template):
    call = {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": {}}}]}
    chat = [CHAT[0], call, {"role": "tool", "content": "c"}, CHAT[1]]
    assert trained_text(there, chat, template, train_on="assistant") == ["joy</s>"]
    with pytest.raises(DataError, match="no token of any row is to be trained"):
        rows(there, [{"messages": chat[:2]}], word_tokenizer(chat_template=template))


def test_everything_is_trained_when_the_config_says_so(there):
    (found,) = rows(there, [{"prompt": "a b ", "completion": "joy"}], train_on="all")
    assert found["labels"] == found["input_ids"] == [S, *ids("a b joy"), E]


def test_template_trains_on_its_last_column_when_the_config_says_so(there):
    text = {"text_template": "{phrase} | {tone} p", "strategy": "line-by-line"}
    row = {"phrase": "a b", "tone": "joy"}
    assert rows(there, [row], **text)[0]["labels"] == [S, *ids("a b | joy p"), E]
    assert rows(there, [row], train_on="completion", **text)[0]["labels"] == [X, X, X, X, *ids("joy p"), E]


def test_instruction_with_its_input_is_the_prompt(there):
    (found,) = rows(there, [{"instruction": "a", "input": "b", "output": "joy fear"}], max_seq_len=256)
    assert found["labels"][-3:] == [*ids("joy fear"), E]
    assert set(found["labels"][:-3]) == {X}


@pytest.mark.parametrize("template", [PLAIN, MARKED])
def test_turns_of_the_assistant_are_trained_each_with_its_end(there, template):
    assert trained_text(there, CHAT, template) == ["joy</s>", "fear d</s>"]
    assert trained_text(there, CHAT, template, train_on="completion") == ["fear d</s>"]


def test_labels_of_a_chat_by_hand(there):
    tokenizer = word_tokenizer(chat_template="{% for m in messages %}{{ m['content'] }} | {% endfor %}")
    (found,) = rows(there, [{"messages": CHAT}], tokenizer)
    assert found["input_ids"] == [*ids("a b | joy | c | fear d |"), E]  # before it stands what the template says
    assert found["labels"] == [X, X, X, ID["joy"], J, X, X, *ids("fear d"), J, E]


def test_turns_are_found_where_a_template_rewrites_earlier_ones(there):
    assert trained_text(there, CHAT, REWRITES) == ["joy</s>", "fear d</s>"]


def test_same_words_of_the_user_are_not_taken_for_the_assistants(there):
    talk = [{"role": r, "content": "joy"} for r in ("user", "assistant", "user", "assistant")]
    write_jsonl(there / "train.jsonl", [{"messages": talk}])
    settings = config(there)
    (made,) = texts(settings, read_rows(settings), word_tokenizer(chat_template=PLAIN))
    before = [made[:start].rsplit("<", 1)[1] for start, _ in made.spans]
    assert before == ["assistant> ", "assistant> "]


def test_chat_that_ends_with_the_user_does_not_train_the_end_token(there):
    tokenizer = word_tokenizer(chat_template="{% for m in messages %}{{ m['content'] }} | {% endfor %}")
    (found,) = rows(there, [{"messages": CHAT[:3]}], tokenizer)
    assert found["labels"] == [X, X, X, ID["joy"], J, X, X, X]


@pytest.mark.parametrize("template", [PLAIN, MARKED])
@pytest.mark.parametrize("empty", ["", " ", None])
def test_turn_of_the_assistant_that_is_empty_is_not_trained_on(there, template, empty):
    silent = {"role": "assistant", "content": empty or ""}
    assert trained_text(there, [CHAT[0], silent, *CHAT[2:]], template) == ["fear d</s>"]
    ends = [*CHAT[:3], silent]
    assert trained_text(there, ends, template) == ["joy</s>"]
    assert trained_text(there, ends, template, train_on="completion") == ["joy</s>"]


@pytest.mark.parametrize("template", [PLAIN, "{{ 'You are. ' if messages[0]['role'] != 'system' }}" + PLAIN, REWRITES])
def test_chat_that_the_assistant_begins_trains_its_words_and_not_what_the_template_puts_before(there, template):
    assert trained_text(there, [CHAT[1], *CHAT[2:]], template) == ["joy</s>", "fear d</s>"]
    assert trained_text(there, [CHAT[1]], template) == ["joy</s>"]


def test_chat_that_the_assistant_begins_is_scored_behind_the_header(there):
    write_jsonl(there / "train.jsonl", [{"messages": CHAT[1:2]}])
    settings = config(there)
    (example,) = examples(settings, read_rows(settings), word_tokenizer(chat_template=PLAIN))
    assert (example.prompt, example.label) == ("<assistant> ", "joy")


def test_turn_that_the_template_leaves_out_is_refused(there):
    template = (
        "{% for m in messages if m['role'] == 'user' %}{{ m['content'] }} {% endfor %}{{ 1 if add_generation_prompt }}"
    )
    with pytest.raises(DataError, match=r"train\.jsonl:1: .* does not write 'messages\[1\]\.content'"):
        rows(there, [{"messages": CHAT[:2]}], word_tokenizer(chat_template=template))


def test_real_chat_template_trains_answers_and_turn_ends(tiny_llama, there):
    """A byte-level tokenizer and a template with the turn-end <|end|>, which is not the end token."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_llama)
    (found,) = rows(there, [{"messages": CHAT}], tokenizer, max_seq_len=256)
    assert tokenizer.decode([label for label in found["labels"] if label != X]) == "joy<|end|>fear d<|end|></s>"
    rendered = tokenizer.apply_chat_template(CHAT, tokenize=True, return_dict=False)
    assert found["input_ids"] == [*rendered, tokenizer.eos_token_id]
    assert found["labels"][-1] == tokenizer.eos_token_id


def test_marks_of_the_template_agree_with_those_of_transformers(tiny_llama, there):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_llama)
    template = MARKED.replace("</s>", "")
    own = tokenizer.apply_chat_template(
        CHAT, chat_template=template, tokenize=True, return_dict=True, return_assistant_tokens_mask=True
    )
    (found,) = rows(
        there, [{"messages": CHAT}], tokenizer, chat_template=template, max_seq_len=256, add_special_tokens=False
    )
    assert found["input_ids"] == own["input_ids"]
    assert [int(label != X) for label in found["labels"]] == own["assistant_masks"]


def test_end_token_is_trained_where_it_is_the_padding_token_too(there):
    tokenizer = word_tokenizer(pad="</s>")
    row = {"prompt": "a ", "completion": "joy"}
    (found,) = rows(there, [row], tokenizer, max_seq_len=6, pad_to_max_len=True)
    assert found["input_ids"] == [S, ID["a"], ID["joy"], E, E, E]
    assert found["labels"] == [X, X, ID["joy"], E, X, X]
    assert found["attention_mask"] == [1, 1, 1, 1, 0, 0]


def test_each_sample_begins_as_the_tokenizer_does_and_ends_in_a_trained_end(tiny_llama, there):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_llama)
    for row, n_begin in (
        ({"prompt": "the quick ", "completion": "fox"}, 0),
        ({"messages": CHAT}, 0),
        ({"text": "<s>joy and fear</s>"}, 1),
    ):
        for sample in rows(there, [row] * 3, tokenizer, strategy="line-by-line", max_seq_len=256):
            assert sample["input_ids"].count(tokenizer.bos_token_id) == n_begin
            assert sample["labels"][-1] == sample["input_ids"][-1] == tokenizer.eos_token_id


def test_join_keeps_what_is_trained_of_each_row():
    pairs = [Text("a joy", border=2), Text("b c fear", border=4)]
    made = samples(config("", strategy="join", train_on="completion", joiner="|", max_seq_len=6), pairs, WORD)
    stream = [S, ID["a"], ID["joy"], E, J, S, *ids("b c fear"), E]
    wanted = [X, X, ID["joy"], E, X, X, X, X, ID["fear"], E]
    assert [s["input_ids"] for s in made] == [stream[:6], stream[6:]]
    assert [s["labels"] for s in made] == [wanted[:6], wanted[6:]]


def test_sliding_window_masks_prompts_and_overlaps():
    pairs = [Text("a joy", border=2), Text("b c fear", border=4)]
    text = {"strategy": "join-sliding-window", "stride": 3, "train_on": "completion", "joiner": "|", "max_seq_len": 4}
    made = samples(config("", **text), pairs, WORD)
    stream = [S, ID["a"], ID["joy"], E, J, S, *ids("b c fear"), E]
    wanted = [X, X, ID["joy"], E, X, X, X, X, ID["fear"], E]
    assert [s["input_ids"] for s in made] == [stream[0:4], stream[6:10]]  # between them nothing is trained
    assert [s["labels"] for s in made] == [wanted[0:4], [X, *wanted[7:10]]]
    assert made.statistics.n_dropped == 1


PAIRS = st.lists(
    st.tuples(st.lists(st.sampled_from("abcd"), max_size=5), st.lists(st.sampled_from(["joy", "fear"]), max_size=5)),
    min_size=1,
    max_size=8,
).filter(lambda pairs: any(prompt or target for prompt, target in pairs))


def by_hand(pairs):
    """Ids and labels of each row, as a person would write them."""
    for prompt, target in pairs:
        if prompt or target:
            yield [S, *ids(" ".join([*prompt, *target])), E], [X] * (1 + len(prompt)) + [*ids(" ".join(target)), E]


def as_texts(pairs):
    made = []
    for prompt, target in pairs:
        text = " ".join([*prompt, *target])
        border = len(" ".join(prompt)) + bool(prompt and target)
        made.append(Text(text, spans=[(border, len(text))]))
    return made


@settings(max_examples=80, deadline=None)
@given(pairs=PAIRS, length=st.integers(2, 12), strategy=st.sampled_from(["line-by-line", "join", "pair"]))
def test_labels_are_those_written_by_hand(pairs, length, strategy):
    text = {"strategy": strategy, "train_on": "completion", "max_seq_len": length, "joiner": "|"}
    whole = list(by_hand(pairs))
    if strategy == "join":
        stream = ([], [])
        for index, (row_ids, row_labels) in enumerate(whole):
            stream[0].extend([J] * bool(index) + row_ids)
            stream[1].extend([X] * bool(index) + row_labels)
        cut = [(stream[0][at : at + length], stream[1][at : at + length]) for at in range(0, len(stream[0]), length)]
    else:
        cut = [(row_ids[:length], row_labels[:length]) for row_ids, row_labels in whole]
    wanted = [both for both in cut if any(label != X for label in both[1][1:])]
    n_lost = len(cut) - len(wanted)
    try:
        made = samples(config("", **text), as_texts(pairs), WORD)
    except DataError:
        assert not wanted or (strategy != "join" and n_lost > 0.05 * len(cut))
        return
    assert [(s["input_ids"], s["labels"]) for s in made] == wanted
    assert made.lengths.tolist() == [len(row) for row, _ in wanted]
    assert made.statistics.n_trained_tokens == sum(label != X for _, row in wanted for label in row[1:])


def test_too_many_rows_that_lose_everything_name_the_length_that_would_do(there):
    lines = [{"prompt": "a b c d ", "completion": "joy"}] * 2 + [{"prompt": "a ", "completion": "joy"}] * 18
    message = (
        r"2 of 20 rows lose every token that is to be trained at a maximum of 4 tokens; "
        r"'max_seq_len: 6' keeps some of 95% of the rows, 7 cuts none"
    )
    with pytest.raises(DataError, match=message):
        rows(there, lines, max_seq_len=4)
    assert len(rows(there, lines, max_seq_len=6)) == 20
    kept = rows(there, [*lines[1:], lines[-1]], max_seq_len=4)  # 1 of 20 is 5 %: not more than that
    assert (len(kept), kept.statistics.n_lost) == (19, 1)
    assert "1 left out as the cut took all that was to be trained" in kept.summary()
