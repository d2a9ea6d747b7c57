"""An encoder-decoder in parts: the encoder once, then the decoder token after token, on what it remembers."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from olivine import lazy
from olivine.errors import ModelError
from olivine.models.seq2seq import DECODER_IDS, HIDDEN, LOGITS, PAST, PRESENT, Seq2Seq
from olivine.models.signature import Signature

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
else:
    np = lazy.module("numpy")


class PartSession(Protocol):
    """What runs one part: named arrays in, named arrays out."""

    def run(self, inputs: Mapping[str, Any]) -> "dict[str, npt.NDArray[Any]]":
        """All outputs by their names."""


class Seq2SeqSession:
    """The parts as one model. Without a decoder that goes on from a past, every step reads all tokens anew.

    signatures, sessions: of the parts, by name. heard: is called with what each part is given.
    """

    def __init__(
        self,
        roles: Seq2Seq,
        signatures: Mapping[str, Signature],
        sessions: Mapping[str, PartSession],
    ) -> None:
        self._roles, self._signatures, self._sessions = roles, signatures, sessions
        self.heard: Callable[[str, Mapping[str, Any]], None] = lambda _part, _inputs: None

    def run(self, inputs: Mapping[str, Any]) -> "dict[str, npt.NDArray[Any]]":
        """The logits of each token of `decoder_input_ids`, as they are when it is written after those before it.

        Beside them what the parts themselves gave, as PART/NAME: hidden states of the encoder, logits of a decoder.
        """
        given = dict(inputs)
        tokens = np.asarray(given.pop(DECODER_IDS))
        writing = self.begin(given)
        roles = self._roles
        if roles.with_past is None:
            logits = writing.read(tokens)
            return {LOGITS: logits, f"{roles.encoder}/{writing.hidden_name}": writing.hidden}
        first = writing.read(tokens[:, :1])
        rest = [writing.read(tokens[:, place : place + 1]) for place in range(1, tokens.shape[1])]
        told = {f"{roles.encoder}/{writing.hidden_name}": writing.hidden, f"{roles.decoder}/{LOGITS}": first}
        if rest:
            told[f"{roles.with_past}/{LOGITS}"] = np.concatenate(rest, axis=1)
        return {LOGITS: np.concatenate([first, *rest], axis=1), **told}

    def generate(self, inputs: Mapping[str, Any], start: Sequence[int], n_most: int, ends: Sequence[int]) -> list[int]:
        """The likeliest tokens after those of `start`, at most `n_most` and up to the first of `ends`, of one row."""
        writing = self.begin(inputs)
        written: list[int] = []
        tokens = list(start)
        while len(written) < n_most:
            logits = writing.read(np.asarray([tokens], dtype=np.int64))
            best = int(logits[0, -1].argmax())
            if best in ends:
                break
            written.append(best)
            tokens = [best]
        return written

    def begin(self, inputs: Mapping[str, Any]) -> "_Writing":
        """Read the source."""
        return _Writing(self, self._roles, inputs)

    def call(self, part: str, given: Mapping[str, Any]) -> "dict[str, npt.NDArray[Any]]":
        """Run a part on those of the values that it takes. ModelError, with the part's name, when it cannot."""
        feed = {}
        for spec in self._signatures[part].inputs:
            if spec.name not in given:
                raise ModelError(f"the part '{part}' takes '{spec.name}', which no part before it gives")
            value = given[spec.name]
            feed[spec.name] = value if spec.dtype in ("string", str(value.dtype)) else value.astype(spec.dtype)
        self.heard(part, feed)
        try:
            return self._sessions[part].run(feed)
        except ModelError as error:
            raise ModelError(f"the part '{part}': {error}") from error


class _Writing:
    """A source that was read, and the tokens after it so far."""

    def __init__(self, session: Seq2SeqSession, roles: Seq2Seq, inputs: Mapping[str, Any]) -> None:
        self._session, self._roles = session, roles
        outputs = session.call(roles.encoder, inputs)
        self.hidden_name = next(name for name in outputs if "hidden" in name)
        self.hidden = outputs[self.hidden_name]
        self._source = {HIDDEN: self.hidden}
        if "attention_mask" in inputs:
            self._source["encoder_attention_mask"] = inputs["attention_mask"]
        self._past: dict[str, Any] = {}
        self._tokens: Any = None  # all of them, where each step reads them anew
        self._n_read = 0

    def read(self, tokens: Any) -> Any:
        """The logits [rows, tokens, vocabulary] after each of the tokens, which follow those before."""
        roles = self._roles
        if roles.with_past is None:
            self._tokens = tokens if self._tokens is None else np.concatenate([self._tokens, tokens], axis=1)
            logits = self._session.call(roles.decoder, self._given(self._tokens))[LOGITS]
            return logits[:, -tokens.shape[1] :]
        if not self._past:
            return self._step(roles.decoder, tokens)
        # the decoder with a past is fed a token at a time: that is the form of it which Optimum exports
        steps = [self._step(roles.with_past, tokens[:, place : place + 1]) for place in range(tokens.shape[1])]
        return np.concatenate(steps, axis=1)

    def _step(self, part: str, tokens: Any) -> Any:
        outputs = self._session.call(part, {**self._given(tokens), **self._past})
        starts = (f"{PRESENT}.", f"{PRESENT}_key_values.", f"{PAST}.")
        for name, value in outputs.items():
            start = next((start for start in starts if name.startswith(start)), None)
            if start is not None:  # what does not change, such as keys of the source, need not come again
                self._past[f"{PAST}.{name.removeprefix(start)}"] = value
        self._n_read += tokens.shape[1]
        return outputs[LOGITS]

    def _given(self, tokens: Any) -> dict[str, Any]:
        """What a decoder may take."""
        places = np.arange(self._n_read, self._n_read + tokens.shape[1])
        return {**self._source, "input_ids": tokens, DECODER_IDS: tokens, "cache_position": places}
