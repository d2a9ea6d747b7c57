"""A strategy is a plugin by file, and may come from another package."""

import sys

import pytest
from data_tools import config, word_tokenizer, write_jsonl

from olivine.data import check, samples
from olivine.data.strategies import strategies

BACKWARDS = '''
from dataclasses import replace
from olivine.data.strategies import RowLayout, Strategy

class Backwards(Strategy):
    """A sample a row, the last row first."""

    @classmethod
    def check(cls, settings):
        if settings.stride is not None:
            yield "the strategy 'backwards' takes no 'stride'.", "Remove it."

    def layout(self, source, settings):
        return RowLayout(replace(source, rows=source.rows[::-1]), settings.max_seq_len)
'''


@pytest.fixture
def backwards(tmp_path, monkeypatch):
    info = tmp_path / "backwards-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: backwards\nVersion: 1.0\n")
    points = "backwards = turned:Backwards\njoin = turned:Backwards\nbroken = turned:Nothing\n"
    (info / "entry_points.txt").write_text(f"[olivine.data.strategies]\n{points}")
    (tmp_path / "turned.py").write_text(BACKWARDS)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "turned", raising=False)
    strategies.forget()
    write_jsonl(tmp_path / "train.jsonl", [{"text": "joy"}])
    yield tmp_path
    strategies.forget()


def test_strategy_of_a_third_party_lays_samples_out(backwards):
    given = config(backwards, strategy="backwards", text_cols="text")
    assert list(check(given)) == []
    laid_out = samples(given, ["a b", "joy", "fear"], word_tokenizer())
    texts = [word_tokenizer().decode(laid_out[index]["input_ids"]) for index in range(3)]
    assert texts == ["<s> fear </s>", "<s> joy </s>", "<s> a b </s>"]


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"strategy": "backwards", "stride": 2}, "the strategy 'backwards' takes no 'stride'."),
        ({"strategy": "backward"}, "Did you mean 'backwards'?"),
        ({"strategy": "broken"}, "'broken' of the package 'backwards' does not load"),
    ],
)
def test_wrong_strategy_is_one_sentence_of_the_plan(backwards, settings, says):
    (problem,) = check(config(backwards, text_cols="text", **settings))
    assert says in str(problem)


def test_third_party_takes_no_name_of_ours(backwards):
    assert strategies.find("join").__module__ == "olivine.data.strategies.join"
    assert strategies.find("join-random") is strategies.own["join_random"]
