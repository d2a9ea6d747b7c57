"""A Hugging Face model or adapter on questions: one pass over the prompts serves target and greedy text."""

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


class TorchRuntime:
    """Runs a checkpoint or adapter in float32 on the CPU, in bfloat16 on a GPU."""

    def __init__(self, model: Model, tokenizer: Any, device: str) -> None:
        self._model = load_causal_lm(model, dtype="float32" if device == "cpu" else "bfloat16", device=device)
        self._device = device
        self._pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0

    def answer(self, batch: Sequence[Question], max_new_tokens: int, end_tokens: Sequence[int]) -> list[Answer]:
        """Answer every question of the batch; prompts stand at the right edge, so that what follows lines up."""
        with torch.inference_mode():
            prompts, mask = self._padded([question.prompt for question in batch], left=True)
            start = self._model(**self._inputs(prompts, mask), use_cache=True, logits_to_keep=1)
            first = start.logits[:, -1]
            logits = self._target_logits(batch, first, mask, start.past_key_values)
            known = [known_answer(values, q.target, end_tokens) for values, q in zip(logits, batch, strict=True)]
            if all(tokens is not None for tokens in known):
                return [Answer(values, tokens or []) for values, tokens in zip(logits, known, strict=True)]
            start.past_key_values.crop(-max(len(question.target) for question in batch))
            written = self._greedy(first, mask, start.past_key_values, max_new_tokens, end_tokens)
        return [Answer(values, tokens) for values, tokens in zip(logits, written, strict=True)]

    def _target_logits(self, batch: Sequence[Question], first: Any, mask: Any, cache: Any) -> list[Any]:
        """For each question the logits that predict its target: those after the prompt, then those after each token."""
        targets, target_mask = self._padded([question.target for question in batch], left=False)
        both = torch.cat([mask, target_mask], dim=1)
        rest = self._model(**self._inputs(targets, both), past_key_values=cache, use_cache=True).logits
        every = torch.cat([first[:, None], rest], dim=1)
        return [every[row, : len(question.target)].float().cpu().numpy() for row, question in enumerate(batch)]

    def _greedy(self, logits: Any, mask: Any, cache: Any, n_most: int, end_tokens: Sequence[int]) -> list[list[int]]:
        """The best token again and again, until every row has met an end token or `n_most` are written."""
        ends = torch.tensor(list(end_tokens) or [-1], device=self._device)
        tokens = logits.argmax(dim=-1)
        written, done = [tokens], torch.isin(tokens, ends)
        while len(written) < n_most and not bool(done.all()):
            mask = torch.cat([mask, torch.ones_like(mask[:, :1])], dim=1)
            step = self._model(**self._inputs(tokens[:, None], mask), past_key_values=cache, use_cache=True)
            tokens = step.logits[:, -1].argmax(dim=-1)
            written.append(tokens)
            done |= torch.isin(tokens, ends)
        return [until_end(row, end_tokens) for row in torch.stack(written, dim=1).tolist()]

    def _inputs(self, ids: Any, mask: Any) -> dict[str, Any]:
        """Ids that are the last columns of what `mask` covers, with their positions in each row."""
        positions = (mask.cumsum(dim=-1) - 1).clamp(min=0)[:, -ids.shape[1] :]
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
