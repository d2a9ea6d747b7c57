"""Calibration tokens: the user's own rows, a text file, or what the model itself writes, offline and from a seed."""

import random
from array import array
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from olivine import lazy, paths
from olivine.config.schema import DataConfig
from olivine.data import Encoder, read_rows, resolved, split, template_of, texts
from olivine.errors import DataError
from olivine.kernels.precision import cpu_computes_in_bf16
from olivine.models import Model
from olivine.models.config import load_config
from olivine.models.facts import ModelFacts
from olivine.models.finite import NotFiniteError
from olivine.models.loading import load_causal_lm
from olivine.models.opened import Opened
from olivine.work import Reporter

if TYPE_CHECKING:
    import torch
else:
    torch = lazy.module("torch")

N_TOKENS = 8192
LENGTH = 512
# Below this, most inputs of a wide layer were hardly ever seen, and their importance is noise.
FEWEST = 512
# Text of the model's own comes in short rows: decoding 64 rows takes hardly longer than 16, and importances measured
# on rows of 128 tokens serve as well as those on rows of 512 (docs/quantization.md).
WRITTEN_LENGTH = 128
# Every token of a row costs a step of decoding: half of what is read of a user's rows serves as well.
WRITTEN_TOKENS = 4096
_MARK = "\u2063olivine\u2063"


def calibration_tokens(
    model: Model,
    *,
    opened: Opened | None = None,
    data: DataConfig | None = None,
    text: Path | None = None,
    held_out: float | None = None,
    n_tokens: int = N_TOKENS,
    length: int | None = None,
    seed: int = 0,
    device: str = "cpu",
    report: Reporter | None = None,
) -> "torch.Tensor":
    """Rows of tokens, int64 [n_rows, length], to calibrate with, all full, about `n_tokens` in all.

    data: the user's rows, as the data config turns them into text; drawn in an order that the seed decides. held_out: a
    share or count of rows that were split off to evaluate on, and are not looked at. text: a text file, from its start.
    With neither, the model writes the tokens: half of its rows begin like any text, half like a question of a user,
    where it has a chat template. opened: the model, where it is opened already. Raises DataError when data or text give
    less than 512 tokens.
    """
    opened = opened or Opened(model)
    tokenizer = opened.tokenizer
    n_enough = max(n_tokens, FEWEST)
    if data is None and text is None:
        size = min(length or WRITTEN_LENGTH, _context_length(model))
        n_rows = -(-min(n_enough, WRITTEN_TOKENS) // size)
        return written_tokens(opened, n_rows, size, seed=seed, device=device, report=report)
    pieces = _of_rows(data, tokenizer, seed, held_out) if data is not None else _of_file(text, tokenizer)
    ids = _first(pieces, n_enough)
    if len(ids) < FEWEST:
        source = f"data config '{data.name}'" if data is not None else str(text)
        raise DataError(
            f"{source} gives {len(ids)} tokens, but calibration needs at least {FEWEST}; add text, or leave it out: "
            "the model then writes its own"
        )
    size = min(length or LENGTH, len(ids), _context_length(model))
    n_rows = len(ids) // size
    return torch.tensor(ids[: n_rows * size]).view(n_rows, size)


def own_text_bytes(facts: ModelFacts, *, in_bf16: bool) -> float:
    """What a model takes that writes its own text: its weights, and the keys and values of all rows at once.

    in_bf16: whether the device computes in bfloat16, see `written_tokens`.
    """
    heads = facts.config.get("num_attention_heads")
    shared = (facts.config.get("num_key_value_heads") or heads) / heads if heads else 1.0
    cache = 2 * facts.n_layers * facts.hidden_size * shared * WRITTEN_TOKENS
    return (2 if in_bf16 else 4) * (facts.n_parameters + cache)


def written_tokens(
    opened: Opened,
    n_rows: int,
    length: int,
    *,
    seed: int = 0,
    device: str = "cpu",
    dtype: str | None = None,
    report: Reporter | None = None,
) -> "torch.Tensor":
    """What the model writes, int64 [n_rows, length]: drawn at temperature 1 among the 50 likeliest tokens, from a seed.

    A model's own text covers what it will see better than any short foreign one (Liu et al. 2023, arXiv:2305.17888);
    after the opening of a chat it writes the question itself (Xu et al. 2024, arXiv:2406.08464). All rows go forward
    together; openings are fed token by token like everything else, so no row is padded. The whole model is in memory,
    in the type `dtype`; None for bfloat16 where the device computes in it, else float32.
    """
    runnable = load_causal_lm(opened.model, dtype=dtype or _dtype(device), device=device, own=opened.weights)
    openings = _openings(opened.tokenizer, runnable.config)
    forced = [openings[row % len(openings)][:length] for row in range(n_rows)]
    chance = torch.Generator().manual_seed(seed)
    tokens = torch.empty((n_rows, length), dtype=torch.long)
    cache = None
    with torch.inference_mode():
        for position in range(length):
            if position:
                last = tokens[:, position - 1 : position].to(device)
                step = runnable(input_ids=last, past_key_values=cache, use_cache=True)
                cache = step.past_key_values
                tokens[:, position] = _sampled(step.logits[:, -1], chance)
            for row, opening in enumerate(forced):
                if position < len(opening):
                    tokens[row, position] = opening[position]
            if report is not None and position % 16 == 0:
                report.progress(position, length)
    return tokens


def _sampled(logits: "torch.Tensor", chance: "torch.Generator", n_best: int = 50) -> "torch.Tensor":
    """One token a row of logits [n_rows, vocabulary], drawn among the `n_best` likeliest: int64 [n_rows]."""
    values, candidates = logits.float().cpu().topk(min(n_best, logits.shape[-1]))
    if not bool(torch.isfinite(values).all()):
        raise NotFiniteError("the model's own text cannot be sampled: its logits are not finite")
    return candidates.gather(1, torch.multinomial(values.softmax(dim=-1), 1, generator=chance)).squeeze(1)


def _dtype(device: str) -> str:
    return "bfloat16" if device.startswith("cuda") or cpu_computes_in_bf16() else "float32"


def _openings(tokenizer: Any, config: Any) -> list[list[int]]:
    """How a row may begin: with the begin token (or what the model has instead), and like a question of a user."""
    firsts = (tokenizer.bos_token_id, getattr(config, "bos_token_id", None), tokenizer.eos_token_id, 0)
    begin = next(token for token in firsts if token is not None)
    question = _question(tokenizer)
    return [[int(begin)], question] if question else [[int(begin)]]


def _question(tokenizer: Any) -> list[int]:
    """The chat template up to where a user's words begin; empty when there is none."""
    if not getattr(tokenizer, "chat_template", None):
        return []
    from jinja2 import TemplateError

    try:
        rendered = tokenizer.apply_chat_template([{"role": "user", "content": _MARK}], tokenize=False)
    except (TemplateError, ValueError):  # it demands more than one message of a user; plain rows serve as well
        return []
    opening, mark, _ = rendered.partition(_MARK)
    ids: list[int] = tokenizer(opening, add_special_tokens=False)["input_ids"] if mark else []
    return ids


def _of_rows(data: DataConfig, tokenizer: Any, seed: int, held_out: float | None) -> Iterator["array[int]"]:
    rows = read_rows(data)
    if held_out is not None:
        rows = rows.take(split(len(rows), held_out, seed)[0])
    every = list(texts(data, rows, tokenizer))
    random.Random(seed).shuffle(every)  # noqa: S311 - an order, no secret
    encoder = Encoder.of(tokenizer, resolved(data, template=template_of(tokenizer)).pre_process_data_config)
    return (tokens.ids for tokens in encoder.encode(every))


def _of_file(path: Path | None, tokenizer: Any) -> Iterator["array[int]"]:
    if path is None or not paths.is_file(path):
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


def _context_length(model: Model) -> int:
    config = load_config(model.path, trust_remote_code=model.trust_remote_code)
    return int(getattr(config, "max_position_embeddings", None) or LENGTH)
