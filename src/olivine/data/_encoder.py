"""Text to token ids, with begin and end tokens exactly once."""

from array import array
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any, NamedTuple

from olivine.errors import Unsupported

_BATCH = 1024  # texts handed to the tokenizer at once: its own records of a text are many times its size


class Tokens(NamedTuple):
    """Token ids of one text; the first `n_prompt` of them are the prompt of a pair."""

    ids: "array[int]"
    n_prompt: int = 0


class Stream(NamedTuple):
    """Token ids of all texts with the joiner between them, and where each text begins."""

    ids: "array[int]"
    starts: list[int]


class Encoder:
    """A tokenizer that puts its own begin and end tokens round each text when it has them and they are wanted.

    What the text brings itself is not doubled: a text that begins with the begin token, or ends with the end token
    (white space after it does not count), keeps its own.
    """

    def __init__(self, tokenizer: Any, *, add_special_tokens: bool) -> None:
        self._tokenizer = tokenizer
        self._begin = tokenizer.bos_token_id if add_special_tokens else None
        self._end = tokenizer.eos_token_id if add_special_tokens else None

    def encode(self, texts: Sequence[str]) -> Iterator[Tokens]:
        """Ids of each text. A token that reaches over the end of the prompt belongs to the target."""
        has_prompts = any(getattr(text, "border", 0) for text in texts)
        if has_prompts and not self._tokenizer.is_fast:
            raise Unsupported("strategy 'pair' needs a fast tokenizer (tokenizer.json), which says where tokens stand")
        remaining = iter(texts)
        while batch := list(islice(remaining, _BATCH)):
            encoded = self._call([str(text) for text in batch], return_offsets_mapping=has_prompts)
            offsets = encoded["offset_mapping"] if has_prompts else [()] * len(batch)
            for text, ids, places in zip(batch, encoded["input_ids"], offsets, strict=True):
                yield self._tokens(text, ids, places)

    def stream(self, texts: Sequence[str], joiner: str) -> Stream:
        """All texts as one stream.

        Without an end token, a text is tokenised together with the joiner after it, so that tokens may span the two.
        """
        ids, starts = array("i"), []
        last = len(texts) - 1
        between = self._after_end(joiner) if self._end is not None else []
        joined = texts if self._end is not None else [text + joiner * (i < last) for i, text in enumerate(texts)]
        for index, tokens in enumerate(self.encode(joined)):
            starts.append(len(ids))
            ids.extend(tokens.ids)
            if index < last:
                ids.extend(between)
        return Stream(ids, starts)

    def _tokens(self, text: str, ids: list[int], places: Sequence[tuple[int, int]]) -> Tokens:
        begin = [self._begin] if self._begin is not None and not self._begins(text, ids) else []
        end = [self._end] if self._end is not None and not self._ends(text, ids) else []
        border = getattr(text, "border", 0)
        n_prompt = next((index for index, (_, stop) in enumerate(places) if stop > border), len(places))
        return Tokens(array("i", [*begin, *ids, *end]), len(begin) + n_prompt if border else 0)

    def _begins(self, text: str, ids: list[int]) -> bool:
        return self._begin in ids and text.lstrip().startswith(self._tokenizer.bos_token)

    def _ends(self, text: str, ids: list[int]) -> bool:
        return self._end in ids and text.rstrip().endswith(self._tokenizer.eos_token)

    def _after_end(self, joiner: str) -> list[int]:
        """Ids of the joiner as it follows an end token: at the start of a text, some tokenizers put a space first."""
        ids: list[int] = self._call([self._tokenizer.eos_token + joiner])["input_ids"][0]
        return ids[1:] if ids[:1] == [self._end] else self._call([joiner])["input_ids"][0]

    def _call(self, texts: list[str], **wanted: bool) -> Any:
        return self._tokenizer(
            texts,
            add_special_tokens=False,
            return_attention_mask=False,
            return_token_type_ids=False,
            verbose=False,  # longer than the model's context is no fault here: the strategies cut
            **wanted,
        )
