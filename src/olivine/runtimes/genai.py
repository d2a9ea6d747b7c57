"""An ONNX folder in onnxruntime-genai, as a stranger runs it: its own tokenizer, search options and caches.

The runtime gives logits of the last position only; `onnx` gives those of whole texts, from the same graph and weights.
"""

import json
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from olivine import lazy
from olivine.models import Model
from olivine.runtimes._base import Tokens, timed
from olivine.runtimes.genai_tokenizer import open_tokenizer
from olivine.runtimes.onnx_folder import execution_provider, operators
from olivine.runtimes.together import Together, groups, writes_together

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import onnxruntime_genai
else:
    np, onnxruntime_genai = lazy.module("numpy"), lazy.module("onnxruntime_genai")


POSITIONS = 8192  # of a pass: the runtime makes its caches for all of them at once, 1 GB for an 8B model in float16


@dataclass
class Written:
    """What was written after a prompt.

    target: what should be. tokens: what is, without the end token. logits: [vocabulary] that each token was chosen by,
    the first of them and as long as everything before was the target: those that predict its tokens.
    """

    target: Tokens = ()
    tokens: list[int] = field(default_factory=list)
    logits: "list[npt.NDArray[np.float32]]" = field(default_factory=list)
    is_done: bool = False

    @property
    def wants_logits(self) -> bool:
        """Whether the next logits predict a token of the target."""
        place = len(self.tokens)
        return not self.is_done and place < len(self.target) and self.tokens == list(self.target[:place])

    def add(self, token: int, ends: Collection[int]) -> None:
        """Go on with a token, or end with one of `ends`."""
        self.is_done = self.is_done or token in ends
        if not self.is_done:
            self.tokens.append(token)


# Of a session that is opened and not run: weights stay mapped, and none is packed for the kernels or unfolded.
_UNPACKED = {
    "graph_optimization_level": "ORT_DISABLE_ALL",
    "session.disable_prepacking": "1",
    "session.intra_op.allow_spinning": "0",
}


class GenaiRuntime:
    """The folder, loaded. Raises RuntimeError, as all that the runtime refuses does.

    only_to_look: no weight is read before something is run, which then takes long.
    """

    def __init__(self, folder: Path, *, only_to_look: bool = False) -> None:
        self._folder = folder
        settings = onnxruntime_genai.Config(str(folder))
        if only_to_look:
            settings.overlay(json.dumps({"model": {"decoder": {"session_options": _UNPACKED}}}))
        self._model = onnxruntime_genai.Model(settings)
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

    def answers(
        self,
        prompts: Sequence[Tokens],
        targets: Sequence[Tokens],
        n_most: int,
        ends: Collection[int],
        n_positions: int = POSITIONS,
    ) -> list[Written]:
        """What `generate` gives for each prompt, and by which logits; in one pass where that changes nothing.

        The folder's own end tokens end a text too. n_positions: of all rows of a pass, prompts and what is written.
        """
        rows = [Written(target) for target in targets]
        own = self.config["model"].get("eos_token_id", [])
        own = own if isinstance(own, list) else [own]
        pad, context = self.config["model"].get("pad_token_id"), self.context_length

        def alone(index: int) -> bool:
            """A row that ends with what padding is, or that others would take the room of."""
            is_long = self._together is Together.PADDED and max(map(len, prompts)) + n_most > context
            return is_long or prompts[index][-1] == pad or pad is None

        for group in groups([len(prompt) for prompt in prompts], self._together, alone):
            n_rows = max(1, n_positions // (max(len(prompts[index]) for index in group) + n_most))
            for at in range(0, len(group), n_rows):
                part = group[at : at + n_rows]
                self._write([prompts[index] for index in part], [rows[index] for index in part], n_most, {*ends, *own})
        return rows

    def _write(self, prompts: Sequence[Tokens], rows: Sequence[Written], n_most: int, ends: Collection[int]) -> None:
        """Write after prompts that are read in one pass."""
        width = max(map(len, prompts))
        given = np.full((len(prompts), width), self.config["model"].get("pad_token_id") or 0, dtype=np.int32)
        for index, prompt in enumerate(prompts):
            given[index, : len(prompt)] = prompt
        options = {"max_length": self.cache_length(width + n_most), "batch_size": len(prompts)}
        writing = self.begin(**options, do_sample=False, num_beams=1)
        writing.read(given if len(prompts) > 1 else given[0])
        for _ in range(n_most):
            if writing.is_done or all(row.is_done for row in rows):
                break
            if any(row.wants_logits for row in rows):
                for row, logits in zip(rows, writing.every_logits(len(rows)), strict=True):
                    if row.wants_logits:
                        row.logits.append(logits.copy())
            for row, token in zip(rows, writing.write_rows(), strict=True):
                row.add(token, ends)

    @cached_property
    def _together(self) -> Together:
        """How rows may stand together where it writes."""
        provider, decoder = execution_provider(self._folder), self.config["model"]["decoder"]
        return writes_together(operators(Model("onnx", self._folder)), provider, decoder)

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

    def read(self, tokens: "Tokens | npt.NDArray[np.int32]") -> None:
        """Go on with these tokens; [rows, tokens] where several rows are written."""
        self._generator.append_tokens(np.asarray(tokens, dtype=np.int32))

    def write(self) -> int:
        """One more token, chosen as the search options say."""
        return self.write_rows()[0]

    def write_rows(self) -> list[int]:
        """One more token of each row."""
        self._generator.generate_next_token()
        return [int(token) for token in self._generator.get_next_tokens()]

    def logits(self) -> "npt.NDArray[np.float32]":
        """After the last token [vocabulary]; a copy, since the runtime writes into the same place again."""
        last: npt.NDArray[np.float32] = self.every_logits(1)[0].copy()
        return last

    def every_logits(self, n_rows: int) -> "npt.NDArray[np.float32]":
        """After the last token of each row [rows, vocabulary]; the runtime writes into the same place again."""
        every = np.asarray(self._generator.get_logits(), dtype=np.float32)
        return every.reshape(n_rows, -1, every.shape[-1])[:, -1]
