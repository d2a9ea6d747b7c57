"""Calibration tokens that are read: of the user's own rows, of a text file, or of the text that comes with olivine."""

import random
from array import array
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from olivine import lazy, paths
from olivine.calibration.sizes import FEWEST, GENERAL, N_TOKENS, Text, in_words
from olivine.config.schema import DataConfig
from olivine.data import Encoder, answered, read_rows, resolved, split, template_of, texts
from olivine.errors import DataError
from olivine.models import Model
from olivine.models.config import load_config

if TYPE_CHECKING:
    import torch

    from olivine.models.opened import Opened
else:
    torch = lazy.module("torch")

LENGTH = 512


class TooFewTokens(DataError):  # noqa: N818 - reads as a sentence: raise TooFewTokens(...)
    """What is named to calibrate with is too short. counted: what it gives, without what to do."""

    def __init__(self, source: str, n_tokens: int) -> None:
        self.counted = f"{source} gives {n_tokens:,} tokens, and to calibrate takes {FEWEST} at least"
        super().__init__(
            f"{self.counted}; add text to it, or name none to calibrate with: olivine then takes text that it brings"
        )


def read_tokens(
    opened: "Opened",
    *,
    data: DataConfig | None = None,
    text: Text = "general",
    held_out: float | None = None,
    n_tokens: int = N_TOKENS,
    length: int | None = None,
    seed: int = 0,
) -> "torch.Tensor":
    """Rows of tokens, int64 [n_rows, length], all full, about `n_tokens` in all, of the data or else of the text.

    data: the user's rows, as the data config turns them into text; drawn in an order that the seed decides. held_out: a
    share or count of rows that were split off to evaluate on, and are not looked at. text: a text file, or the general
    text, from its start; "own" is not read but written, see `runtimes.own_text`. Raises TooFewTokens when they give
    less than 512 tokens.
    """
    from olivine.calibration.general import general_tokens

    tokenizer = opened.tokenizer
    if data is not None:
        pieces = _of_rows(data, tokenizer, seed, held_out)
    else:
        pieces = general_tokens(tokenizer) if text == GENERAL else _of_file(Path(text), tokenizer)
    ids = _first(pieces, max(n_tokens, FEWEST))
    if len(ids) < FEWEST:
        raise TooFewTokens(f"data config '{data.name}'" if data is not None else in_words(text), len(ids))
    size = min(length or LENGTH, len(ids), context_length(opened.model))
    n_rows = len(ids) // size
    return torch.tensor(ids[: n_rows * size]).view(n_rows, size)


def _of_rows(data: DataConfig, tokenizer: Any, seed: int, held_out: float | None) -> Iterator["array[int]"]:
    rows = answered(data, read_rows(data), tokenizer)
    if held_out is not None:
        rows = rows.take(split(len(rows), held_out, seed)[0])
    every = list(texts(data, rows, tokenizer))
    random.Random(seed).shuffle(every)  # noqa: S311 - an order, no secret
    encoder = Encoder.of(tokenizer, resolved(data, template=template_of(tokenizer)).pre_process_data_config)
    return (tokens.ids for tokens in encoder.encode(every))


def _of_file(path: Path, tokenizer: Any) -> Iterator["array[int]"]:
    if not paths.is_file(path):
        raise DataError(f"{path}: there is no such text file to calibrate with")
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text: byte {error.start}") from error
    encoder = Encoder(tokenizer, add_special_tokens=True)
    return (tokens.ids for tokens in encoder.encode([text]))


def _first(pieces: Iterable["array[int]"], n_tokens: int) -> list[int]:
    ids: list[int] = []
    for piece in pieces:
        ids.extend(piece)
        if len(ids) >= n_tokens:
            break
    return ids[:n_tokens]


def context_length(model: Model) -> int:
    """Tokens that a row may have, as the model's config says."""
    config = load_config(model.path, trust_remote_code=model.trust_remote_code)
    return int(getattr(config, "max_position_embeddings", None) or LENGTH)
