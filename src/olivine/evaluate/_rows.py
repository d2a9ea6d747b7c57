"""Rows to token ids: what a model is asked, and what it should say."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from olivine.data import Example, Text
from olivine.data._encoder import Encoder, Tokens
from olivine.errors import DataError


@dataclass(frozen=True)
class Question:
    """One row to score. prompt and target are token ids; target ends with the end token."""

    example: Example
    prompt: tuple[int, ...]
    target: tuple[int, ...]

    @property
    def length(self) -> int:
        """Tokens of prompt and target together."""
        return len(self.prompt) + len(self.target)


def questions(
    examples: Sequence[Example], tokenizer: Any, n_most: int, *, special: bool, context: int = 2**31
) -> list[Question]:
    """Token ids of every example, exactly as training makes them: tokenised as a whole, cut where the target begins.

    special: begin and end tokens stand round the text. context: what the model reads at most; an example with more
    tokens is left out. A prompt with more than `n_most` tokens beside the target keeps its end (and begin token); a
    target keeps its start. Raises DataError for an example without a prompt: nothing would be asked.
    """
    encoder = Encoder(tokenizer, add_special_tokens=special)
    encoded = encoder.encode([Text(example.prompt + example.target, len(example.prompt)) for example in examples])
    return [
        _question(example, tokens, n_most, encoder.begin)
        for example, tokens in zip(examples, encoded, strict=True)
        if len(tokens.ids) <= context
    ]


def _question(example: Example, encoded: Tokens, n_most: int, begin: int | None) -> Question:
    ids = [int(token) for token in encoded.ids]
    target = ids[encoded.n_prompt :][: n_most - 1]
    prompt, n_room = ids[: encoded.n_prompt], n_most - len(target)
    if not prompt:
        raise DataError(f"{example.where}: the text begins with what is to be predicted; put a prompt before it")
    if len(prompt) > n_room:
        opening = prompt[:1] if prompt[0] == begin and n_room > 1 else []
        prompt = opening + prompt[len(prompt) - n_room + len(opening) :]
    return Question(example, tuple(prompt), tuple(target))
