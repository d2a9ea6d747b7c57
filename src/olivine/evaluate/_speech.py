"""What a model writes of the sounds or texts of rows, beside what is said in them, or expected.

A model with a decoder writes greedily, token after token, from the tokens of its language and task; one of CTC says for
every frame what it hears. Both are the same for a checkpoint and for every graph that is made of it.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from olivine import lazy
from olivine.errors import DataError
from olivine.models import Model
from olivine.models.loading import load_tokenizer
from olivine.models.speech import Prompt, prompt_of
from olivine.runtimes.module import AnySession, ModuleSession
from olivine.runtimes.seq2seq import Seq2SeqSession
from olivine.runtimes.speech import SpeechSession

if TYPE_CHECKING:
    import numpy as np
else:
    np = lazy.module("numpy")

TASK = "automatic-speech-recognition"
FEATURES, TOKENS = "input_features", "decoder_input_ids"
Next = Callable[[Sequence[int]], Any]
"""Logits [vocabulary] after the tokens so far."""


class Transcriber:
    """Writes what a model makes of a sound or text. seconds: that it took for all so far."""

    def __init__(self, model: Model, session: AnySession, *, has_decoder: bool) -> None:
        self._tokenizer = load_tokenizer(Model("hf", model.path))
        self._prompt = prompt_of(model.path) if has_decoder else None
        self._session = session
        self.seconds = 0.0

    def text(self, row: Mapping[str, Any], outputs: Mapping[str, Any], seconds: float) -> str:
        """What is said in the sound of a row. outputs: of it, for which the model took `seconds`."""
        if self._prompt is None:
            self.seconds += seconds
            return str(self._tokenizer.decode(outputs["logits"][0].argmax(axis=-1)))
        started = time.perf_counter()
        tokens = self._tokens({name: value for name, value in row.items() if name != TOKENS}, self._prompt)
        self.seconds += time.perf_counter() - started
        return str(self._tokenizer.decode(tokens, skip_special_tokens=True))

    def _tokens(self, source: Mapping[str, Any], prompt: Prompt) -> list[int]:
        if isinstance(self._session, Seq2SeqSession):
            n_most = prompt.n_most - len(prompt.tokens)
            return self._session.generate(source, prompt.tokens, n_most, prompt.ends)
        return list(_written(_next(self._session, source), prompt))


def expected_of(row: Mapping[str, Any], column: str, where: str) -> str:
    """What is said in the sound of a row, or is to be written of it; DataError where its column holds no text."""
    text = row.get(column)
    if not isinstance(text, str):
        raise DataError(f"{where}: the column '{column}' holds no text of what is said, but {text!r:.40}")
    return text


def teacher(folder: Path, column: str | None) -> Callable[[Mapping[str, Any]], list[int]]:
    """The tokens that the decoder of the model in a folder reads of a row: its prompt, and what is said in the row."""
    prompt, tokenizer = prompt_of(folder), load_tokenizer(Model("hf", folder))

    def tokens(row: Mapping[str, Any]) -> list[int]:
        text = row.get(column or "")
        said = tokenizer(text_target=text, add_special_tokens=False)["input_ids"] if isinstance(text, str) else []
        return [*prompt.tokens, *said][: prompt.n_most]

    return tokens


def _written(following: Next, prompt: Prompt) -> Iterator[int]:
    tokens = list(prompt.tokens)
    while len(tokens) < prompt.n_most:
        token = int(following(tokens).argmax())
        if token in prompt.ends:
            return
        tokens.append(token)
        yield token


def _next(session: AnySession, source: Mapping[str, Any]) -> Next:
    """What gives the logits; a graph without caches reads all anew for each token."""
    if isinstance(session, ModuleSession):
        return session.decoder(source)
    if isinstance(session, SpeechSession):
        return session.decoder(source[FEATURES])
    return partial(_read_anew, session, source)


def _read_anew(session: AnySession, source: Mapping[str, Any], tokens: Sequence[int]) -> Any:
    return session.run({**source, TOKENS: np.array([tokens], np.int64)})["logits"][0, -1]
