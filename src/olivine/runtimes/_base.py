"""The contract of a runtime, and the one loop that decodes: feed, choose, feed what was chosen."""

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from olivine import lazy

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
else:
    np = lazy.module("numpy")

Tokens = Sequence[int]


class Runtime(ABC):
    """A loaded model. n_vocabulary: width of its logits. context_length: tokens that it reads at most."""

    n_vocabulary: int
    context_length: int
    device: str

    @abstractmethod
    def feed(self, rows: Sequence[Tokens], *, fresh: bool, last_only: bool = False) -> "npt.NDArray[np.float32]":
        """Logits [rows, tokens, vocabulary] after each token, or after the last one only.

        The rows go on where they were; `fresh` forgets what was fed before.
        """

    @abstractmethod
    def logits(self, texts: Sequence[Tokens], starts: Sequence[int]) -> "list[npt.NDArray[np.float32]]":
        """For each text the logits [tokens from its start on, vocabulary] that predict those tokens, all read anew."""

    def generate(
        self, prompts: Sequence[Tokens], n_most: int, ends: Tokens = (), n_vocabulary: int | None = None
    ) -> list[list[int]]:
        """The likeliest tokens after each prompt, at most `n_most` and up to the context or the first of `ends`.

        n_vocabulary: only the first so many tokens are written.
        """
        room = [max(0, min(n_most, self.context_length - len(prompt))) for prompt in prompts]
        columns: list[Any] = []
        done = np.zeros(len(prompts), dtype=bool)
        for tokens in self.write(prompts, lambda logits: logits[:, :n_vocabulary].argmax(axis=-1), max(room)):
            columns.append(tokens)
            done |= np.isin(tokens, list(ends))
            if done.all():
                break
        written = np.stack(columns, axis=1).tolist() if columns else [[] for _ in prompts]
        return [until_end(row[:most], ends) for row, most in zip(written, room, strict=True)]

    def sample(
        self,
        n_rows: int,
        length: int,
        seed: int,
        begin: int,
        end: Tokens,
        n_vocabulary: int,
        report: Callable[[int, int], None] = lambda _done, _total: None,
    ) -> list[list[int]]:
        """Rows of `length` tokens at temperature 1, each with `begin` first, and again after an end token."""
        random, last = np.random.default_rng(seed), np.full(n_rows, begin)

        def choose(logits: Any) -> Any:
            nonlocal last
            drawn = draw(logits[:, :n_vocabulary], random.random(n_rows))
            last = np.where(np.isin(last, list(end)), begin, drawn)
            return last

        columns = [last]
        for tokens in self.write([[begin]] * n_rows, choose, length - 1):
            columns.append(tokens)
            report(len(columns) - 1, length)
        return [[int(token) for token in row] for row in np.stack(columns, axis=1)]

    def time(self, prompt: Tokens, n_new: int) -> tuple[float, float]:
        """Seconds to read the prompt, and to write `n_new` tokens after the one that it gives."""
        steps = self.write([prompt], lambda logits: logits.argmax(axis=-1), n_new + 1)
        prefill, _ = timed(lambda: next(steps))
        decode, _ = timed(lambda: list(steps))
        return prefill, decode

    def write(self, prompts: Sequence[Tokens], choose: Callable[[Any], Any], n_steps: int) -> Iterator[Any]:
        """The tokens [rows] that `choose` picks of the logits [rows, vocabulary], `n_steps` times; each is fed next."""
        rows, fresh = prompts, True
        for _ in range(n_steps):
            tokens = choose(self.feed(rows, fresh=fresh, last_only=True)[:, -1])
            yield tokens
            rows, fresh = tokens[:, None].tolist(), False


def draw(logits: Any, uniform: Any) -> Any:
    """The token of each row whose share of the cumulated probabilities holds that row's number in [0, 1)."""
    shifted = logits.astype(np.float64) - np.nanmax(logits, axis=-1, keepdims=True)
    cumulated = np.nan_to_num(np.exp(shifted)).cumsum(axis=-1)
    reached = cumulated > (uniform * cumulated[:, -1])[:, None]
    return reached.argmax(axis=-1)


def until_end(tokens: Tokens, ends: Tokens) -> list[int]:
    """The tokens before the first end token."""
    of = set(ends)
    return list(tokens[: next((index for index, token in enumerate(tokens) if token in of), len(tokens))])


def timed(action: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds that the action took, and its result."""
    started = time.perf_counter()
    result = action()
    return time.perf_counter() - started, result
