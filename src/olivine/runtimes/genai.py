"""An ONNX folder in onnxruntime-genai, as a stranger runs it: its own tokenizer, search options and caches.

The runtime gives logits of the last position only; `onnx` gives those of whole texts, from the same graph and weights.
"""

import json
from collections.abc import Callable, Collection
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from olivine import lazy
from olivine.runtimes._base import Tokens, timed
from olivine.runtimes.genai_tokenizer import open_tokenizer

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import onnxruntime_genai
else:
    np, onnxruntime_genai = lazy.module("numpy"), lazy.module("onnxruntime_genai")


class GenaiRuntime:
    """The folder, loaded. Raises RuntimeError, as all that the runtime refuses does."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._model = onnxruntime_genai.Model(str(folder))
        self.config: dict[str, Any] = json.loads((folder / "genai_config.json").read_text(encoding="utf-8"))
        self.context_length = int(self.config["model"]["context_length"])

    @cached_property
    def tokenizer(self) -> Any:
        """The folder's tokenizer; TokenizerRefusedError for one that the runtime does not read."""
        return open_tokenizer(self._folder)

    def cache_length(self, n_tokens: int) -> int:
        """The `max_length` to ask for where a text has that many tokens.

        The runtime refuses a cache that is shorter than a layer's window, and one that is longer than the context.
        """
        window = (self.config["model"]["decoder"].get("sliding_window") or {}).get("window_size") or 0
        return min(self.context_length, max(n_tokens, int(window)))

    def begin(self, **search: Any) -> "Writing":
        """A text with nothing in it yet; search: options in place of the folder's own."""
        params = onnxruntime_genai.GeneratorParams(self._model)
        if search:
            params.set_search_options(**search)
        return Writing(onnxruntime_genai.Generator(self._model, params))

    def generate(
        self, prompt: Tokens, n_most: int, ends: Collection[int], on_token: Callable[[int], None] | None = None
    ) -> list[int]:
        """The likeliest tokens after the prompt, at most `n_most` and up to the context or the first of `ends`."""
        n_room = self.cache_length(len(prompt) + n_most)
        writing = self.begin(max_length=n_room, do_sample=False, num_beams=1)
        writing.read(prompt)
        tokens: list[int] = []
        while len(tokens) < n_most and not writing.is_done:
            token = writing.write()
            if token in ends:
                break
            tokens.append(token)
            if on_token is not None:
                on_token(token)
        return tokens

    def time(self, prompt: Tokens, n_new: int) -> tuple[float, float]:
        """Seconds to read the prompt, and to write `n_new` tokens after the one that it gives."""
        n_room = self.cache_length(len(prompt) + n_new + 1)
        # min_length: an end token must not cut the measurement short
        writing = self.begin(max_length=n_room, min_length=n_room, do_sample=False, num_beams=1)
        prefill, _ = timed(lambda: writing.read(prompt))
        writing.write()  # picks from the prompt's logits; those after it run the model
        decode, _ = timed(lambda: [writing.write() for _ in range(n_new)])
        return prefill, decode


class Writing:
    """A text in the making."""

    def __init__(self, generator: Any) -> None:
        self._generator = generator

    @property
    def is_done(self) -> bool:
        """Whether an end token or the length has been met."""
        return bool(self._generator.is_done())

    @property
    def tokens(self) -> tuple[int, ...]:
        """All that was read and written."""
        return tuple(int(token) for token in self._generator.get_sequence(0))

    def read(self, tokens: Tokens) -> None:
        """Go on with these tokens."""
        self._generator.append_tokens(np.asarray(tokens, dtype=np.int32))

    def write(self) -> int:
        """One more token, chosen as the search options say."""
        self._generator.generate_next_token()
        return int(self._generator.get_next_tokens()[0])

    def logits(self) -> "npt.NDArray[np.float32]":
        """After the last token [vocabulary]; a copy, since the runtime writes into the same place again."""
        every = np.asarray(self._generator.get_logits(), dtype=np.float32)
        last: npt.NDArray[np.float32] = every.reshape(-1, every.shape[-1])[-1].copy()
        return last
