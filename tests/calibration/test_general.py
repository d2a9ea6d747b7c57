"""The general text is read page by page, in whatever form the tokenizer gives chats, and says where it comes from."""

import pytest
import torch

from olivine.calibration import general
from olivine.calibration.sizes import FEWEST, N_TOKENS, tokens_for
from olivine.calibration.tokens import TooFewTokens, read_tokens
from olivine.models import Model
from olivine.models.opened import Opened


def test_every_page_says_what_it_is_and_where_it_comes_from():
    pages = general.pages()
    assert len(pages) > 50
    assert all(text.strip() and "%%%" not in text for _, text in pages)
    assert all(head.endswith((", own words", ", public domain")) for head, _ in pages)
    kinds = [head.partition(",")[0] for head, _ in pages]
    assert {"chat", "Python", "C", "JSON", "SQL", "news", "a table in Markdown", "French", "Russian novel"} <= set(
        kinds
    )


def test_any_beginning_has_prose_chat_code_and_another_language():
    beginning = {head.partition(",")[0] for head, _ in general.pages()[:8]}
    assert {"prose", "chat", "Python", "French"} <= beginning


def test_chats_are_read_as_the_template_writes_them(tiny_llama):
    tokenizer = Opened(Model("hf", tiny_llama)).tokenizer
    chats = [text for head, text in general.pages() if head.startswith("chat")]
    assert all(text.startswith("user: ") and "\nassistant: " in text for text in chats)
    tokenizer.chat_template = "{% for m in messages %}<|end|>{{ m.content }}{% endfor %}"
    end = tokenizer.convert_tokens_to_ids("<|end|>")
    n_turns = sum(text.count("user: ") + text.count("assistant: ") for text in chats)
    assert sum(list(page).count(end) for page in general.general_tokens(tokenizer)) == n_turns
    tokenizer.chat_template = "{{ raise_exception('no chats') }}"
    assert sum(list(page).count(end) for page in general.general_tokens(tokenizer)) == 0


def test_general_text_is_enough_for_every_tokenizer(tiny_llama):
    opened = Opened(Model("hf", tiny_llama))
    n_words = sum(len(text.split()) for _, text in general.pages())
    assert n_words > 8 * FEWEST  # a token is a word at most
    tokens = read_tokens(opened, n_tokens=FEWEST, length=128)
    assert tokens.shape == (4, 128)
    assert torch.equal(tokens, read_tokens(opened, n_tokens=FEWEST, length=128, seed=1))


def test_size_of_a_model_decides_how_many_tokens_pass():
    counts = [tokens_for(10**exponent) for exponent in range(14)]
    assert counts[0] == N_TOKENS
    assert counts == sorted(counts, reverse=True)
    assert all(count % FEWEST == 0 for count in counts)
    assert counts[-1] == FEWEST
    assert tokens_for(3_800_000_000) == 4096


def test_text_that_is_too_short_is_told_by_its_name(tiny_llama, tmp_path):
    file = tmp_path / "short.txt"
    file.write_text("a few words")
    with pytest.raises(TooFewTokens, match=r"short.txt gives \d+ tokens, .* olivine then takes text that it brings"):
        read_tokens(Opened(Model("hf", tiny_llama)), text=file)
