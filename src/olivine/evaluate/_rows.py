"""Rows to token ids: what a model is asked, and what it should say."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from olivine.config.schema import PreProcess
from olivine.data import Encoder, Example, Text
from olivine.errors import DataError


@dataclass(frozen=True)
class Question:
    """One row to score. prompt and target are token ids; target ends with the end token.

    text: what is typed to ask it: the example's prompt, without white space that the first token of the target takes
    in. None where no text gives the tokens of the prompt, as those of one that was cut.
    """

    example: Example
    prompt: tuple[int, ...]
    target: tuple[int, ...]
    text: str | None = None

    @property
    def length(self) -> int:
        """Tokens of prompt and target together."""
        return len(self.prompt) + len(self.target)


def questions(
    examples: Sequence[Example], tokenizer: Any, n_most: int, settings: PreProcess, context: int = 2**31
) -> list[Question]:
    """Token ids of every example, exactly as training makes them: tokenised as a whole, cut where the target begins.

    settings: of the rows, resolved. context: what the model reads at most; an example with more
    tokens is left out. A prompt with more than `n_most` tokens beside the target keeps its end (and begin token); a
    target keeps its start. Raises DataError for an example without a prompt: nothing would be asked.
    """
    encoder = Encoder.of(tokenizer, settings)
    encoded = encoder.encode([Text(example.prompt + example.target, len(example.prompt)) for example in examples])
    return [
        _question(example, tokens, n_most, encoder)
        for example, tokens in zip(examples, encoded, strict=True)
        if len(tokens.ids) <= context
    ]


def passages(texts: Sequence[str], tokenizer: Any, n_most: int, where: str = "passages.txt") -> list[Question]:
    """Pieces of plain text: a model goes on after the first quarter of the tokens, of which there are `n_most`."""
    encoder = Encoder(tokenizer, add_special_tokens=True)
    pieces = []
    for number, ids in enumerate(encoder.openings(texts), 1):
        kept = ids[:n_most]
        n_prompt = max(1, len(kept) // 4)
        example = Example(tokenizer.decode(kept[:n_prompt]), "", tokenizer.decode(kept[n_prompt:]), f"{where}:{number}")
        pieces.append(Question(example, tuple(kept[:n_prompt]), tuple(kept[n_prompt:])))
    return pieces


def _question(example: Example, encoded: Any, n_most: int, encoder: Encoder) -> Question:
    ids = [int(token) for token in encoded.ids]
    target = ids[encoded.n_prompt :][: n_most - 1]
    prompt, n_room = ids[: encoded.n_prompt], n_most - len(target)
    if not prompt:
        raise DataError(f"{example.where}: the text begins with what is to be predicted; put a prompt before it")
    if len(prompt) > n_room:
        opening = prompt[:1] if prompt[0] == encoder.begin and n_room > 1 else []
        prompt = opening + prompt[len(prompt) - n_room + len(opening) :]
    return Question(example, tuple(prompt), tuple(target), _typed(example.prompt, prompt, encoder))


def _typed(text: str, prompt: list[int], encoder: Encoder) -> str | None:
    """The text whose tokens the prompt is: all of it, or without some of the white space at its end."""
    n_least = len(text.rstrip())
    beginnings = [text[:length] for length in range(len(text), n_least - 1, -1)]
    encoded = zip(beginnings, encoder.openings(beginnings), strict=True)
    return next((typed for typed, ids in encoded if ids == prompt), None)
