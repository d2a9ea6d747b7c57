"""Tokens to calibrate with: read of the user's rows or a text, or written by the model, offline and from a seed."""

from typing import TYPE_CHECKING, Any

from olivine import lazy
from olivine.calibration.sizes import FEWEST, N_TOKENS, OWN, Text
from olivine.calibration.tokens import context_length, read_tokens
from olivine.config.schema import DataConfig
from olivine.kernels.precision import cpu_computes_in_bf16
from olivine.models import Model
from olivine.models.facts import ModelFacts
from olivine.models.finite import NotFiniteError
from olivine.models.opened import Opened
from olivine.models.turns import rendered
from olivine.runtimes.torch import TorchRuntime
from olivine.work import Reporter

if TYPE_CHECKING:
    import torch
else:
    torch = lazy.module("torch")

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
    text: Text = "general",
    held_out: float | None = None,
    n_tokens: int = N_TOKENS,
    length: int | None = None,
    seed: int = 0,
    device: str = "cpu",
    report: Reporter | None = None,
) -> "torch.Tensor":
    """Rows of tokens, int64 [n_rows, length], to calibrate with, all full, about `n_tokens` in all.

    data, held_out: see `read_tokens`. text: what is read where there is no data; with "own" the model writes the
    tokens: half of its rows begin like any text, half like a question of a user, where it has a chat template. opened:
    the model, where it is opened already. Raises DataError when data or text give less than 512 tokens.
    """
    opened = opened or Opened(model)
    if data is not None or text != OWN:
        return read_tokens(opened, data=data, text=text, held_out=held_out, n_tokens=n_tokens, length=length, seed=seed)
    size = min(length or WRITTEN_LENGTH, context_length(model))
    n_rows = -(-min(max(n_tokens, FEWEST), WRITTEN_TOKENS) // size)
    return written_tokens(opened, n_rows, size, seed=seed, device=device, report=report)


def own_text_bytes(facts: ModelFacts, *, in_bf16: bool) -> float:
    """What a model takes that writes its own text: its weights, and the keys and values of all rows at once.

    in_bf16: whether the device computes in bfloat16, see `written_tokens`.
    """
    decoder = facts.as_decoder
    cache = 2 * decoder.n_layers * _width_of_keys(facts) * WRITTEN_TOKENS
    return (2 if in_bf16 else 4) * (facts.n_parameters + cache)


def _width_of_keys(facts: ModelFacts) -> int:
    """Numbers that a token's keys are in one layer: heads may be wider than their share of the hidden size."""
    heads = facts.config.get("num_attention_heads")
    if not heads:
        return facts.as_decoder.hidden_size
    width = facts.config.get("head_dim") or facts.as_decoder.hidden_size // heads
    return int(width * (facts.config.get("num_key_value_heads") or heads))


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
    runtime = TorchRuntime(opened.model, device, dtype or _dtype(device), own=opened.weights)
    openings = _openings(opened.tokenizer, runtime.config)
    forced = [openings[row % len(openings)][:length] for row in range(n_rows)]
    chance = torch.Generator().manual_seed(seed)
    columns = [torch.tensor([opening[0] for opening in forced])]

    def choose(logits: Any) -> Any:
        tokens = _sampled(torch.from_numpy(logits), chance)
        for row, opening in enumerate(forced):
            if len(columns) < len(opening):
                tokens[row] = opening[len(columns)]
        return tokens.numpy()

    for tokens in runtime.write(columns[0][:, None].tolist(), choose, length - 1):
        columns.append(torch.from_numpy(tokens))
        if report is not None and len(columns) % 16 == 0:
            report.progress(len(columns), length)
    return torch.stack(columns, dim=1)


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
    text = rendered(tokenizer, [{"role": "user", "content": _MARK}], asks=False)
    opening, mark, _ = (text or "").partition(_MARK)  # where it demands more messages, plain rows serve as well
    ids: list[int] = tokenizer(opening, add_special_tokens=False)["input_ids"] if mark else []
    return ids
