"""Text to token ids, with begin and end tokens exactly once, and which of them are trained on."""

from array import array
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any, NamedTuple, Self

from olivine.config.schema import PreProcess
from olivine.data.forms import Span, Text
from olivine.errors import Unsupported

BATCH = 1024  # texts handed to the tokenizer at once: its own records of a text are many times its size


class Tokens(NamedTuple):
    """Token ids of one text; the first `n_prompt` of them are the prompt of a pair.

    trained: ranges of tokens that are trained on, in order; None: all of them.
    """

    ids: "array[int]"
    n_prompt: int = 0
    trained: tuple[Span, ...] | None = None


class Encoder:
    """A tokenizer that puts begin and end tokens round each text when it has them and they are wanted.

    The begin token is what the tokenizer itself puts before a text, so that whoever runs the model later gives it the
    same tokens; `begin_token` True puts it there in any case, False never. The end token is always trained.
    What the text brings itself is not doubled: a text that begins with the begin token, or ends with the end token
    (white space after it does not count), keeps its own.
    """

    def __init__(self, tokenizer: Any, *, add_special_tokens: bool, begin_token: bool | None = None) -> None:
        self._tokenizer = tokenizer
        wanted = add_special_tokens and (begins_itself(tokenizer) if begin_token is None else begin_token)
        self.begin: int | None = tokenizer.bos_token_id if wanted else None
        self.end: int | None = tokenizer.eos_token_id if add_special_tokens else None
        # The library below transformers, which turns every result into Python lists that nobody reads here.
        self._fast: Any = getattr(tokenizer, "backend_tokenizer", None) if tokenizer.is_fast else None
        if self._fast is not None:
            self._fast.no_truncation()  # longer than the model's context is no fault here: the strategies cut
            self._fast.no_padding()

    @classmethod
    def of(cls, tokenizer: Any, settings: PreProcess) -> Self:
        """The encoder of a data config. Before a chat stands what its template says, and nothing else."""
        begin = False if settings.chat_template and settings.begin_token is None else settings.begin_token
        return cls(tokenizer, add_special_tokens=settings.add_special_tokens, begin_token=begin)

    def encode(self, texts: Sequence[str]) -> Iterator[Tokens]:
        """Ids of each text, a batch of texts at a time; see `batch`."""
        remaining = iter(texts)
        while some := list(islice(remaining, BATCH)):
            yield from self.batch(some)

    def batch(self, texts: Sequence[str]) -> list[Tokens]:
        """Ids of each text. A token that reaches into a trained span belongs to it.

        The end token that is put after a text is trained with the last of its characters.
        """
        if any(isinstance(text, Text) and text.spans is not None for text in texts):
            return self._with_spans(texts)
        every = self._ids([str(text) for text in texts])
        return [Tokens(self._framed(text, ids)[0]) for text, ids in zip(texts, every, strict=True)]

    def openings(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of texts that somebody is to go on with: with the begin token, without an end."""
        return [
            [*([self.begin] if self.begin is not None and not self._begins(text, ids) else []), *ids]
            for text, ids in zip(texts, self._ids(list(texts)), strict=True)
        ]

    def joiner(self, text: str) -> list[int]:
        """Ids of the joiner as it follows an end token: at the start of a text, some tokenizers put a space first."""
        if self.end is None:
            return self._ids([text])[0]
        ids = self._ids([self._tokenizer.eos_token + text])[0]
        return ids[1:] if ids[:1] == [self.end] else self._ids([text])[0]

    def _with_spans(self, texts: Sequence[str]) -> list[Tokens]:
        if self._fast is None:
            raise Unsupported(
                "what is trained on is not all of a text, which needs a fast tokenizer (tokenizer.json): it says where "
                "tokens stand"
            )
        encoded = self._fast.encode_batch([str(text) for text in texts], add_special_tokens=False)
        return [self._marked(text, encoding) for text, encoding in zip(texts, encoded, strict=True)]

    def _marked(self, text: str, encoding: Any) -> Tokens:
        ids, n_begin, n_end = self._framed(text, encoding.ids)
        spans = text.spans if isinstance(text, Text) else None
        if spans is None:
            return Tokens(ids)
        trained = [_tokens_of(encoding, span, len(text), n_begin) for span in spans]
        trained = [span for span in trained if span[0] < span[1]]
        if n_end and spans and not text[spans[-1][1] :].strip():
            trained.append((len(ids) - n_end, len(ids)))
        n_prompt = trained[0][0] if trained else len(ids)
        return Tokens(ids, n_prompt if isinstance(text, Text) and text.border else 0, tuple(trained))

    def _framed(self, text: str, ids: list[int]) -> tuple["array[int]", int, int]:
        """The ids with begin and end token where the text lacks its own, and how many of each were added."""
        begin = [self.begin] if self.begin is not None and not self._begins(text, ids) else []
        end = [self.end] if self.end is not None and not self._ends(text, ids) else []
        return array("i", [*begin, *ids, *end]), len(begin), len(end)

    def _begins(self, text: str, ids: list[int]) -> bool:
        return self.begin in ids and text.lstrip().startswith(self._tokenizer.bos_token)

    def _ends(self, text: str, ids: list[int]) -> bool:
        return self.end in ids and text.rstrip().endswith(self._tokenizer.eos_token)

    def _ids(self, texts: list[str]) -> list[list[int]]:
        if self._fast is not None:
            return [encoding.ids for encoding in self._fast.encode_batch_fast(texts, add_special_tokens=False)]
        ids: list[list[int]] = self._tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]
        return ids


def begins_itself(tokenizer: Any) -> bool:
    """Whether the tokenizer puts its begin token before a text in transformers, unasked."""
    begin = tokenizer.bos_token_id
    if begin is None:
        return False
    ids: list[int] = tokenizer(["a"], verbose=False)["input_ids"][0]
    return ids[:1] == [begin]


def _tokens_of(encoding: Any, span: Span, n_characters: int, n_begin: int) -> Span:
    """The tokens that hold the characters of the span, `n_begin` places further."""
    start, stop = span
    first = _token_at(encoding, start, stop)
    if first is None:
        return 0, 0
    after = _token_at(encoding, stop, n_characters)
    last = len(encoding) if after is None else after
    if after is not None and encoding.token_to_chars(after)[0] < stop:  # it begins inside the span
        last += 1
    return n_begin + first, n_begin + max(last, first + 1)


def _token_at(encoding: Any, at: int, stop: int) -> int | None:
    """The first token that holds a character from `at` on; tokenizers leave white space between words out."""
    for character in range(at, stop):
        token: int | None = encoding.char_to_token(character)
        if token is not None:
            return token
    return None
