"""A checkpoint or adapter in transformers.

Logits of whole texts keep no cache and text is written anew, because no cache can be rolled back that forgets: that of
a window, or the state of a convolution.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from olivine import lazy
from olivine.models import Model
from olivine.models.loading import load_causal_lm
from olivine.models.tensors import Weights
from olivine.runtimes._base import Runtime, Tokens

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import torch
else:
    torch = lazy.module("torch")

UNLIMITED = 2**31  # context of a model that names none


class TorchRuntime(Runtime):
    """Runs the model's own Python. dtype, own: see `load_causal_lm`. config: transformers' own."""

    def __init__(self, model: Model, device: str, dtype: str, own: Weights | None = None) -> None:
        self._module = load_causal_lm(model, dtype=dtype, device=device, own=own)
        self.config = self._module.config
        config = self.config.get_text_config()
        self.device = device
        self.n_vocabulary = int(config.vocab_size)
        self.context_length = int(getattr(config, "max_position_embeddings", 0) or UNLIMITED)
        self._cache: Any = None
        self._mask: Any = None  # [rows, all tokens fed]; None while no row is padded

    def feed(self, rows: Sequence[Tokens], *, fresh: bool, last_only: bool = False) -> "npt.NDArray[np.float32]":
        """See Runtime. Fresh rows of unequal length end together; what stands before a row's start means nothing."""
        if fresh:
            self._cache, self._mask = None, None
        ids, mask = self._padded(rows, left=True)
        if fresh and not bool(mask.all()):
            self._mask = mask
        elif self._mask is not None:
            self._mask = torch.cat([self._mask, mask], dim=1)
        with torch.inference_mode():
            kept = 1 if last_only else 0
            given = {} if self._mask is None else self._placed(self._mask, ids.shape[1])
            step = self._module(
                input_ids=ids, **given, past_key_values=self._cache, use_cache=True, logits_to_keep=kept
            )
            self._cache = step.past_key_values
            return _numbers(step.logits)

    def logits(self, texts: Sequence[Tokens], starts: Sequence[int]) -> "list[npt.NDArray[np.float32]]":
        """See Runtime: one pass over all texts, which begin together."""
        ids, mask = self._padded(texts, left=False)
        first = min(starts) - 1  # the logits at position i predict token i + 1
        kept = torch.arange(first, ids.shape[1] - 1, device=self.device)
        with torch.inference_mode():
            given = self._placed(mask, ids.shape[1])
            logits = self._module(input_ids=ids, **given, use_cache=False, logits_to_keep=kept).logits
        return [
            _numbers(logits[row, start - 1 - first : len(text) - 1 - first])
            for row, (text, start) in enumerate(zip(texts, starts, strict=True))
        ]

    def answer(
        self,
        prompt: Tokens,
        max_new_tokens: int,
        pad: int | None,
        ends: Sequence[int],
        on_token: Callable[[int], None] | None = None,
    ) -> list[int]:
        """What transformers writes greedily after the prompt, by the model's own generation config; ends included.

        ends: tokens that it ends at, by the generation config where there are none. on_token: hears each token as it is
        written.
        """
        stops = {"eos_token_id": list(ends)} if ends else {}
        with torch.inference_mode():
            written = self._module.generate(
                input_ids=torch.tensor([list(prompt)], device=self.device),
                attention_mask=torch.ones((1, len(prompt)), dtype=torch.long, device=self.device),
                max_new_tokens=max_new_tokens,
                do_sample=False,
                pad_token_id=pad,
                **stops,
                streamer=_Tokens(on_token) if on_token is not None else None,
            )
        return [int(token) for token in written[0, len(prompt) :]]

    def _placed(self, mask: Any, n_new: int) -> dict[str, Any]:
        """The mask and each row's own positions of the last `n_new` columns."""
        positions = (mask.cumsum(dim=-1) - 1).clamp(min=0, max=self.context_length - 1)[:, -n_new:]
        return {"attention_mask": mask, "position_ids": positions}

    def _padded(self, rows: Sequence[Tokens], *, left: bool) -> tuple[Any, Any]:
        """Tokens [rows, width], and the mask of those that are no padding."""
        width = max(len(row) for row in rows)
        ids = torch.zeros((len(rows), width), dtype=torch.long)
        mask = torch.zeros((len(rows), width), dtype=torch.long)
        for index, row in enumerate(rows):
            columns = slice(width - len(row), width) if left else slice(0, len(row))
            ids[index, columns] = torch.tensor(row)
            mask[index, columns] = 1
        return ids.to(self.device), mask.to(self.device)


class _Tokens:
    """What transformers' `generate` tells of its tokens: first the prompt, then one after the other."""

    def __init__(self, on_token: Callable[[int], None]) -> None:
        self._on_token, self._is_prompt = on_token, True

    def put(self, tokens: Any) -> None:
        """Tokens of the prompt, or the next one."""
        if not self._is_prompt:
            self._on_token(int(tokens.reshape(-1)[-1]))
        self._is_prompt = False

    def end(self) -> None:
        """Nothing follows."""


def default_device() -> str:
    """The GPU where there is one."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def _numbers(tensor: Any) -> "npt.NDArray[np.float32]":
    numbers: npt.NDArray[np.float32] = tensor.float().cpu().contiguous().numpy()
    return numbers
