"""A model fed token by token or piece by piece, its attention cache kept: one class for each runtime."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

from olivine import lazy
from olivine.evaluate._onnx_stepper import OnnxStepper
from olivine.evaluate._torch import context_of
from olivine.models import Model
from olivine.models.loading import load_causal_lm

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import torch
else:
    torch = lazy.module("torch")


class Stepper(Protocol):
    """A loaded model. n_vocabulary: width of its logits. context_length: tokens that it reads at most."""

    n_vocabulary: int
    context_length: int
    device: str

    def feed(self, ids: Sequence[Sequence[int]], *, fresh: bool, last_only: bool = False) -> "npt.NDArray[np.float32]":
        """Logits [rows, ids, vocabulary] after each id, or after the last one only.

        All rows have one length and go on where they were; `fresh` forgets what was fed before.
        """


def open_stepper(model: Model, device: str | None, dtype: str, accuracy_level: int | None = None) -> Stepper:
    """Load a model. device: "cpu" or "cuda", None for a GPU where there is one; ONNX runs where it was built for."""
    if model.format == "onnx":
        return OnnxStepper(model, accuracy_level)
    return TorchStepper(model, device or torch_device(), dtype)


def torch_device() -> str:
    """The GPU where there is one."""
    return "cuda" if torch.cuda.is_available() else "cpu"


class TorchStepper:
    """A Hugging Face model or adapter in transformers."""

    def __init__(self, model: Model, device: str, dtype: str) -> None:
        self._model = load_causal_lm(model, dtype=dtype, device=device)
        self.device = device
        self._cache: Any = None
        config = self._model.config.get_text_config()
        self.n_vocabulary = int(config.vocab_size)
        self.context_length = context_of(config)

    def feed(self, ids: Sequence[Sequence[int]], *, fresh: bool, last_only: bool = False) -> "npt.NDArray[np.float32]":
        """See Stepper."""
        with torch.inference_mode():
            given = torch.tensor(ids, device=self.device)
            cache = None if fresh else self._cache
            result = self._model(
                input_ids=given, past_key_values=cache, use_cache=True, logits_to_keep=1 if last_only else 0
            )
            self._cache = result.past_key_values
            logits: npt.NDArray[np.float32] = result.logits.float().cpu().contiguous().numpy()
            return logits
