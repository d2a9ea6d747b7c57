"""A Hugging Face model or adapter on questions: one pass over prompt and target, then greedy text where that differs.

Two passes, because no cache can be rolled back that forgets: that of a window, or the state of a convolution.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from olivine import lazy
from olivine.evaluate._answer import Answer, known_answer, until_end
from olivine.evaluate._rows import Question
from olivine.models import Model
from olivine.models.loading import load_causal_lm

if TYPE_CHECKING:
    import torch
else:
    torch = lazy.module("torch")

UNLIMITED = 2**31  # context of a model that names none


def context_of(config: Any) -> int:
    """Tokens that a model reads at most, by its transformers config."""
    return int(getattr(config.get_text_config(), "max_position_embeddings", 0) or UNLIMITED)


class TorchRuntime:
    """Runs a checkpoint or adapter in float32 on the CPU, in bfloat16 on a GPU."""

    def __init__(self, model: Model, tokenizer: Any, device: str) -> None:
        self._model = load_causal_lm(model, dtype="float32" if device == "cpu" else "bfloat16", device=device)
        self._device = device
        self._pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0
        self.context_length = context_of(self._model.config)

    def answer(self, batch: Sequence[Question], max_new_tokens: int, end_tokens: Sequence[int]) -> list[Answer]:
        """Answer every question of the batch; text is written only where the target's logits do not tell it."""
        with torch.inference_mode():
            logits = self._target_logits(batch)
            known = [known_answer(values, q.target, end_tokens) for values, q in zip(logits, batch, strict=True)]
            unknown = [question for question, tokens in zip(batch, known, strict=True) if tokens is None]
            written = iter(self._greedy(unknown, max_new_tokens, end_tokens) if unknown else [])
        return [
            Answer(values, next(written) if tokens is None else tokens)
            for values, tokens in zip(logits, known, strict=True)
        ]

    def _target_logits(self, batch: Sequence[Question]) -> list[Any]:
        """For each question the logits that predict its target; rows begin at the left edge, and no cache is kept."""
        rows, mask = self._padded([question.prompt + question.target for question in batch], left=False)
        first = min(len(question.prompt) for question in batch) - 1  # the logits at position i predict token i + 1
        kept = torch.arange(first, rows.shape[1] - 1, device=self._device)
        logits = self._model(**self._inputs(rows, mask), use_cache=False, logits_to_keep=kept).logits
        starts = [len(question.prompt) - 1 - first for question in batch]
        return [
            logits[row, start : start + len(question.target)].float().cpu().numpy()
            for row, (question, start) in enumerate(zip(batch, starts, strict=True))
        ]

    def _greedy(self, batch: Sequence[Question], n_most: int, end_tokens: Sequence[int]) -> list[list[int]]:
        """The best token again and again, until every row has met an end token or `n_most` are written.

        Prompts stand at the right edge, so that what follows lines up. A text ends where the context does.
        """
        ids, mask = self._padded([question.prompt for question in batch], left=True)
        ends = torch.tensor(list(end_tokens) or [-1], device=self._device)
        done, cache = torch.zeros(len(batch), dtype=torch.bool, device=self._device), None
        written: list[Any] = []
        while len(written) < n_most and not bool(done.all()):
            step = self._model(**self._inputs(ids, mask), past_key_values=cache, use_cache=True, logits_to_keep=1)
            cache, tokens = step.past_key_values, step.logits[:, -1].argmax(dim=-1)
            written.append(tokens)
            done |= torch.isin(tokens, ends)
            ids, mask = tokens[:, None], torch.cat([mask, torch.ones_like(mask[:, :1])], dim=1)
        texts = torch.stack(written, dim=1).tolist()
        room = [self.context_length - len(question.prompt) for question in batch]
        return [until_end(text[:most], end_tokens) for text, most in zip(texts, room, strict=True)]

    def _inputs(self, ids: Any, mask: Any) -> dict[str, Any]:
        """Ids that are the last columns of what `mask` covers, with their positions in each row."""
        positions = (mask.cumsum(dim=-1) - 1).clamp(min=0, max=self.context_length - 1)[:, -ids.shape[1] :]
        return {"input_ids": ids, "attention_mask": mask, "position_ids": positions}

    def _padded(self, rows: Sequence[Sequence[int]], *, left: bool) -> tuple[Any, Any]:
        width = max(len(row) for row in rows)
        ids = torch.full((len(rows), width), self._pad, dtype=torch.long)
        mask = torch.zeros((len(rows), width), dtype=torch.long)
        for index, row in enumerate(rows):
            columns = slice(width - len(row), width) if left else slice(0, len(row))
            ids[index, columns] = torch.tensor(row)
            mask[index, columns] = 1
        return ids.to(self._device), mask.to(self._device)
