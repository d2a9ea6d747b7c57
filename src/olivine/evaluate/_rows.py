"""Rows to token ids: what a model is asked, and what it should say."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from olivine.data import Example, Text
from olivine.data._encoder import Encoder


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


def questions(examples: Sequence[Example], tokenizer: Any, n_most: int, *, special: bool) -> list[Question]:
    """Token ids of every example, exactly as training makes them: tokenised as a whole, cut where the target begins.

    special: begin and end tokens stand round the text. A prompt with more than `n_most` tokens beside the target keeps
    its end; a target keeps its start.
    """
    encoder = Encoder(tokenizer, add_special_tokens=special)
    encoded = encoder.encode([Text(example.prompt + example.target, len(example.prompt)) for example in examples])
    return [_question(example, made, n_most) for example, made in zip(examples, encoded, strict=True)]


def _question(example: Example, encoded: Any, n_most: int) -> Question:
    ids = [int(token) for token in encoded.ids]
    target = ids[encoded.n_prompt :][: n_most - 1]
    prompt = ids[: encoded.n_prompt][-(n_most - len(target)) :]
    return Question(example, tuple(prompt), tuple(target))
