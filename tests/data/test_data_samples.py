"""Samples, token by token: each strategy against lists written by hand."""

import json

import pytest
from data_tools import ID, E, J, P, S, config, ids, word_tokenizer
from hypothesis import given, settings
from hypothesis import strategies as st

from olivine.data import Text, samples
from olivine.errors import ConfigError, DataError, Unsupported

TEXTS = ["a b c", "d", "e f"]
X = -100
WORD = word_tokenizer()


def made(texts=TEXTS, tokenizer=WORD, **text):
    return samples(config("", **{"max_seq_len": 6, "joiner": "|", **text}), texts, tokenizer)


def input_ids(sample_set):
    return [sample["input_ids"] for sample in sample_set]


def labels(sample_set):
    return [sample["labels"] for sample in sample_set]


def test_line_by_line_is_a_sample_a_row():
    found = made(strategy="line-by-line")
    assert input_ids(found) == [[S, *ids("a b c"), E], [S, ID["d"], E], [S, *ids("e f"), E]]
    assert labels(found) == input_ids(found)
    assert [sample["attention_mask"] for sample in found] == [[1] * 5, [1] * 3, [1] * 4]


def test_line_by_line_cuts_at_the_maximum_and_counts():
    found = made(strategy="line-by-line", max_seq_len=4)
    assert input_ids(found)[0] == [S, *ids("a b c")]
    assert found.statistics.n_truncated == 1
    assert "1 cut to the maximum length" in found.summary()


def test_padding_stands_right_is_masked_and_not_trained():
    found = made(strategy="line-by-line", pad_to_max_len=True)
    assert found[1] == {
        "input_ids": [S, ID["d"], E, P, P, P],
        "labels": [S, ID["d"], E, X, X, X],
        "attention_mask": [1, 1, 1, 0, 0, 0],
    }


def test_end_token_is_trained_where_padding_is_the_same_token():
    tokenizer = word_tokenizer(pad="</s>")
    (found,) = made(["d"], tokenizer, strategy="line-by-line", pad_to_max_len=True)
    assert found["input_ids"] == [S, ID["d"], E, E, E, E]
    assert found["labels"] == [S, ID["d"], E, X, X, X]
    assert found["attention_mask"] == [1, 1, 1, 0, 0, 0]


def test_short_samples_are_dropped_when_wanted():
    found = made([*TEXTS, "a b c d"], strategy="line-by-line", drop_short_sequences=True)
    assert input_ids(found) == [[S, *ids("a b c d"), E]]
    assert found.statistics.n_dropped == 3


def test_line_by_line_random_draws_rows_with_replacement_the_same_ones_each_time():
    every = input_ids(made(strategy="line-by-line"))
    found = input_ids(made(strategy="line-by-line-random", max_samples=20, random_seed=3))
    assert len(found) == 20
    assert all(sample in every for sample in found)
    assert all(sample in found for sample in every)
    assert found == input_ids(made(strategy="line-by-line-random", max_samples=20, random_seed=3))
    assert found != input_ids(made(strategy="line-by-line-random", max_samples=20, random_seed=4))


def test_line_by_line_random_draws_short_rows_again():
    text = {"strategy": "line-by-line-random", "max_samples": 10, "max_seq_len": 5, "drop_short_sequences": True}
    found = made(**text, random_retries=50)
    assert input_ids(found) == [[S, *ids("a b c"), E]] * 10
    few = made(**text, random_retries=0)
    assert 0 < len(few) < 10
    assert few.statistics.n_dropped == 10 - len(few)


def test_join_is_one_stream_in_blocks_and_keeps_the_remainder():
    stream = [S, *ids("a b c"), E, J, S, ID["d"], E, J, S, *ids("e f"), E]
    found = made(strategy="join")
    assert input_ids(found) == [stream[:6], stream[6:12], stream[12:]]
    assert labels(found) == input_ids(found)
    assert found.summary() == "3 rows became 3 blocks: 2 of 6 tokens and a last one of 2"


def test_join_without_special_tokens_adds_nothing_but_the_joiner():
    found = made(strategy="join", add_special_tokens=False, joiner=" | ")
    stream = ids("a b c | d | e f")
    assert input_ids(found) == [stream[:6], stream[6:]]


def test_small_data_set_gives_one_short_block():
    found = made(strategy="join", max_seq_len=1024)
    assert [len(sample["input_ids"]) for sample in found] == [14]
    assert found.summary() == "3 rows became 1 block of 14 tokens"


def test_join_drops_the_remainder_only_when_wanted():
    found = made(strategy="join", drop_short_sequences=True)
    assert [len(sample["input_ids"]) for sample in found] == [6, 6]
    assert found.statistics.n_dropped == 1


def test_join_pads_the_remainder_and_may_leave_the_mask_out():
    found = made(strategy="join", pad_to_max_len=True, use_attention_mask=False)
    assert found[-1] == {"input_ids": [ID["f"], E, P, P, P, P], "labels": [ID["f"], E, X, X, X, X]}


def test_remainder_of_one_token_has_nothing_to_train_on_and_is_dropped():
    found = made(strategy="join", max_seq_len=13)
    assert [len(sample["input_ids"]) for sample in found] == [13]
    assert found.statistics.n_dropped == 1


def test_join_random_starts_at_rows():
    stream = [S, *ids("a b c"), E, J, S, ID["d"], E, J, S, *ids("e f"), E]
    blocks = [stream[:6], stream[6:12], stream[10:]]
    found = input_ids(made(strategy="join-random", max_samples=20))
    assert len(found) == 20
    assert {tuple(block) for block in found} == {tuple(block) for block in blocks}
    full = made(strategy="join-random", max_samples=20, drop_short_sequences=True, random_retries=50)
    assert {tuple(block) for block in input_ids(full)} == {tuple(block) for block in blocks[:2]}


def test_sliding_window_masks_what_the_block_before_had():
    stream = [S, *ids("a b c"), E, J, S, ID["d"], E, J, S, *ids("e f"), E]
    found = made(strategy="join-sliding-window", stride=4)
    assert input_ids(found) == [stream[:6], stream[4:10], stream[8:14]]
    assert labels(found) == [stream[:6], [X, X, *stream[6:10]], [X, X, *stream[10:14]]]
    assert made(strategy="join-sliding-window", stride=6).statistics == made(strategy="join").statistics


@settings(max_examples=60, deadline=None)
@given(
    texts=st.lists(st.lists(st.sampled_from("abcdef"), min_size=1, max_size=9).map(" ".join), min_size=1, max_size=8),
    length=st.integers(2, 9),
    stride=st.integers(1, 9),
)
def test_sliding_window_trains_each_token_of_the_stream_once(texts, length, stride):
    text = {"strategy": "join-sliding-window", "max_seq_len": length, "stride": min(stride, length)}
    whole = made(texts, strategy="join", max_seq_len=10_000)[0]["input_ids"]
    found = samples(config("", joiner="|", **text), texts, WORD)
    trained = [label for sample in found for label in sample["labels"] if label != X]
    n_lost = len(whole) - len(trained)
    assert trained == whole[: len(trained)]
    assert n_lost == (found.statistics.n_dropped if text["stride"] == length else 0)


@settings(max_examples=60, deadline=None)
@given(
    texts=st.lists(st.lists(st.sampled_from("abcdef"), min_size=1, max_size=9).map(" ".join), min_size=1, max_size=8),
    length=st.integers(2, 30),
    special=st.booleans(),
)
def test_join_keeps_every_token_in_order(texts, length, special):
    found = samples(config("", joiner=" | ", max_seq_len=length, add_special_tokens=special), [*texts, "a b"], WORD)
    rows = [[S, *ids(text), E] if special else ids(text) for text in [*texts, "a b"]]
    stream = rows[0] + [token for row in rows[1:] for token in (J, *row)]
    joined = [token for sample in found for token in sample["input_ids"]]
    assert joined == stream[: len(stream) - found.statistics.n_dropped]
    assert found.statistics.n_tokens == len(joined)
    assert found.statistics.n_trained_tokens == len(joined) - len(found)


def test_max_samples_keeps_the_first():
    assert input_ids(made(strategy="line-by-line", max_samples=2)) == input_ids(made(strategy="line-by-line"))[:2]


def test_pair_masks_the_prompt():
    (found,) = made([Text("a b c joy", border=6)], strategy="pair")
    assert found["input_ids"] == [S, *ids("a b c joy"), E]
    assert found["labels"] == [X, X, X, X, ID["joy"], E]
    (whole,) = made([Text("a b c joy", border=6)], strategy="pair", ignore_source_in_labels=False)
    assert whole["labels"] == whole["input_ids"]


def test_pair_cuts_prompt_and_target_on_their_own():
    text = {"strategy": "pair", "source_max_len": 3, "target_max_len": 2}
    found = made([Text("a b c d joy fear", border=8)], **text)
    assert found[0]["input_ids"] == [S, *ids("a b joy fear")]
    assert found[0]["labels"] == [X, X, X, *ids("joy fear")]
    assert found.statistics.n_truncated == 1
    (padded,) = made([Text("a joy", border=2)], **text, pad_to_max_len=True)
    assert padded["labels"] == [X, X, ID["joy"], E, X]


def test_pair_whose_prompt_fills_the_length_is_dropped_and_if_all_do_refused():
    long, short = Text("a b c d e f joy", border=12), Text("a joy", border=2)
    found = made([long, *[short] * 19], strategy="pair")
    assert (len(found), found.statistics.n_dropped, found.statistics.n_lost) == (19, 1, 1)
    message = r"1 of 1 rows lose every token .* maximum of 6 tokens; 'max_seq_len: 8' .* 9 cuts none"
    with pytest.raises(DataError, match=message):
        made([long], strategy="pair")


def test_token_over_the_border_belongs_to_the_target():
    (found,) = made([Text("a joy", border=3)], strategy="pair")
    assert found["labels"] == [X, X, ID["joy"], E]


def test_begin_token_is_the_one_that_the_tokenizer_puts_there_itself():
    assert WORD("a")["input_ids"] == [S, ID["a"]]
    assert input_ids(made(["a"], strategy="line-by-line")) == [[S, ID["a"], E]]
    assert input_ids(made(["a b"], strategy="line-by-line", add_special_tokens=False)) == [ids("a b")]
    tokenizer = word_tokenizer(adds_begin=False)  # it has one, but whoever runs the model would not see it
    assert input_ids(made(["a"], tokenizer, strategy="line-by-line")) == [[ID["a"], E]]


@pytest.mark.parametrize("adds_begin", [True, False])
def test_begin_token_is_as_the_config_says(adds_begin):
    tokenizer = word_tokenizer(adds_begin=adds_begin)
    assert input_ids(made(["a"], tokenizer, strategy="line-by-line", begin_token=True)) == [[S, ID["a"], E]]
    assert input_ids(made(["a"], tokenizer, strategy="line-by-line", begin_token=False)) == [[ID["a"], E]]


@pytest.mark.parametrize("text", ["<s> a", "a </s>", "<s> a </s>", "<s> a </s>\n", " <s> a"])
def test_begin_and_end_tokens_of_the_text_are_not_doubled(text):
    for strategy in ("line-by-line", "join"):
        assert input_ids(made([text], strategy=strategy)) == [[S, ID["a"], E]]


def test_end_tokens_inside_the_text_do_not_stand_for_its_own():
    assert input_ids(made(["a </s> b"], strategy="line-by-line")) == [[S, ID["a"], E, ID["b"], E]]


def test_tokenizer_without_begin_token_gets_none():
    tokenizer = word_tokenizer(begin=None)
    assert input_ids(made(["a"], tokenizer, strategy="line-by-line")) == [[ID["a"], E]]


def test_begin_and_end_token_may_be_the_same():
    tokenizer = word_tokenizer(begin="</s>")
    assert input_ids(made(["a"], tokenizer, strategy="line-by-line")) == [[E, ID["a"], E]]


def test_join_without_end_token_joins_text_and_joiner_before_tokenising():
    tokenizer = word_tokenizer(end=None)
    found = made(["a", "d"], tokenizer, strategy="join", joiner=" | ")
    assert input_ids(found) == [[S, ID["a"], J, S, ID["d"]]]


def test_byte_level_tokens_are_those_of_the_whole_text(tiny_llama):
    """A real kind of tokenizer: the stream spells begin, text, end and joiner as one text would."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_llama)
    texts = ["what a lovely day", "the house"]
    (found,) = made(texts, tokenizer, strategy="join", joiner="\n\n", max_seq_len=999, begin_token=True)
    whole = "<s>what a lovely day</s>\n\n<s>the house</s>"
    assert found["input_ids"] == tokenizer(whole, add_special_tokens=False)["input_ids"]
    prompt = "### Text: what a lovely day\n### The tone is:\n"
    (pair,) = made([Text(prompt + "joy", border=len(prompt))], tokenizer, strategy="pair", max_seq_len=99)
    trained = [label for label in pair["labels"] if label != X]
    assert tokenizer.decode(trained) == "joy</s>"


def test_empty_texts_are_left_out_and_counted():
    found = made(["a b", "", " \n", "c d"], strategy="line-by-line")
    assert input_ids(found) == [[S, *ids("a b"), E], [S, *ids("c d"), E]]
    assert found.statistics.n_empty_rows == 2
    assert "2 rows left out as empty" in found.summary()


def test_statistics_count_rows_samples_and_tokens():
    found = made(strategy="line-by-line", max_seq_len=4, pad_to_max_len=True)
    assert found.statistics.to_json() == {
        "n_rows": 3,
        "n_empty_rows": 0,
        "n_samples": 3,
        "n_truncated": 1,
        "n_dropped": 0,
        "n_lost": 0,
        "n_tokens": 11,
        "n_trained_tokens": 8,
    }
    assert found.lengths.tolist() == [4, 3, 4]
    json.dumps(found[0])


@pytest.mark.parametrize(
    ("texts", "text", "message"),
    [
        ([], {}, "gives no sample: there are no rows"),
        (["", " "], {}, "gives no sample: all 2 rows have an empty text"),
        (["a"], {"drop_short_sequences": True}, "less than 6 tokens, and the longest has 3; lower 'max_seq_len'"),
        (
            ["a"],
            {"add_special_tokens": False, "strategy": "line-by-line"},
            "the longest has 1 token, and at least two",
        ),
    ],
)
def test_no_sample_at_all_says_why(texts, text, message):
    with pytest.raises(DataError, match=f"data config 'tones' {message}" if "gives" in message else message):
        made(texts, **text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ({"strategy": "join-random"}, "'join-random' needs 'max_samples'"),
        ({"strategy": "line-by-line-random"}, "'line-by-line-random' needs 'max_samples'"),
        ({"strategy": "join-sliding-window"}, "needs a 'stride' from 1 to 'max_seq_len' \\(6\\), but got None"),
        ({"strategy": "join-sliding-window", "stride": 7}, "but got 7"),
        (
            {"strategy": "line-by-line", "pad_to_max_len": True, "use_attention_mask": False},
            "only for the join strategies",
        ),
        ({"chat_template": True, "text_template": "{a}"}, "both say how a row becomes text"),
    ],
)
def test_settings_that_do_not_hold_together_are_refused(text, message):
    with pytest.raises(ConfigError, match=message):
        made(**text)


def test_pair_needs_a_tokenizer_that_knows_where_tokens_stand():
    class Slow:
        is_fast, bos_token_id, eos_token_id, pad_token_id = False, None, E, P

    with pytest.raises(Unsupported, match="fast tokenizer"):
        made([Text("a joy", border=2)], Slow(), strategy="pair")
