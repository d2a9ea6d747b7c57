"""What a model does with one question."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from olivine.evaluate._rows import Question

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


@dataclass(frozen=True)
class Answer:
    """logits: [target tokens, vocabulary], those that predict the target. tokens: greedy, without the end token.

    prompt: the tokens that were read, where the runtime made them itself. text: what it wrote, in its own words.
    """

    logits: "npt.NDArray[np.float32]"
    tokens: list[int]
    prompt: tuple[int, ...] | None = None
    text: str | None = None


class Runtime(Protocol):
    """What runs a model on questions; one class for each kind of model. context_length: tokens it reads at most."""

    context_length: int

    def answer(self, batch: Sequence[Question], max_new_tokens: int, end_tokens: Sequence[int]) -> list[Answer]:
        """Answer every question of the batch."""


def known_answer(
    logits: "npt.NDArray[np.float32]", target: Sequence[int], end_tokens: Sequence[int]
) -> list[int] | None:
    """The greedy text, where the logits of the target tell it: each target token comes first, up to the end token.

    Greedy decoding would write just the target then, so that it need not run; None when it would write something else.
    """
    if not target or target[-1] not in end_tokens or logits.argmax(axis=-1).tolist() != list(target):
        return None
    return until_end(target, end_tokens)


def until_end(tokens: Sequence[int], end_tokens: Sequence[int]) -> list[int]:
    """The tokens before the first end token."""
    ends = set(end_tokens)
    return list(tokens[: next((i for i, token in enumerate(tokens) if token in ends), len(tokens))])
