"""An ONNX folder on the rows: onnxruntime for the logits of targets, onnxruntime-genai for the text it writes.

Two runtimes, because onnxruntime-genai gives logits of the last position only; both execute the same graph and weights.
"""

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from olivine import lazy
from olivine.evaluate._answer import Answer
from olivine.evaluate._onnx_stepper import OnnxStepper
from olivine.evaluate._rows import Question
from olivine.models import Model
from olivine.runtime import cache_length

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import onnxruntime_genai
else:
    np, onnxruntime_genai = lazy.module("numpy"), lazy.module("onnxruntime_genai")

PIECE = 512  # tokens of a prompt whose logits are held at once


class OnnxRuntime:
    """Runs the folder on the execution provider that it was built for, as its own settings say, but greedily."""

    def __init__(self, model: Model, execution_provider: str) -> None:
        self._model = replace(model, attributes={**model.attributes, "execution_provider": execution_provider})
        config = json.loads((model.path / "genai_config.json").read_text(encoding="utf-8"))["model"]
        self.context_length = int(config["context_length"])
        self._stepper: OnnxStepper | None = None
        self._generator_model: Any = None
        self._tokenizer: Any = None

    def answer(self, batch: Sequence[Question], max_new_tokens: int, end_tokens: Sequence[int]) -> list[Answer]:
        """Answer every question as a stranger would have it answered: text in, text out, one prompt at a time."""
        return [self._answer(question, max_new_tokens, set(end_tokens)) for question in batch]

    def _answer(self, question: Question, max_new_tokens: int, end_tokens: set[int]) -> Answer:
        if self._generator_model is None:
            self._open()
        if self._tokenizer is None or question.text is None:
            tokens = self._write(question.prompt, max_new_tokens, end_tokens)
            return Answer(self._target_logits(question.prompt, question.target), tokens)
        prompt = tuple(int(token) for token in self._tokenizer.encode(question.text)) or question.prompt
        prompt = prompt[max(0, question.length - self.context_length + len(prompt) - len(question.prompt)) :]
        tokens = self._write(prompt, max_new_tokens, {*end_tokens, *self._tokenizer.eos_token_ids.tolist()})
        text = self._tokenizer.decode(np.asarray(tokens, dtype=np.int32)) if tokens else ""
        return Answer(self._target_logits(prompt, question.target), tokens, prompt, text)

    def _open(self) -> None:
        self._generator_model = onnxruntime_genai.Model(str(self._model.path))
        try:
            self._tokenizer = onnxruntime_genai.Tokenizer(self._generator_model)
        except RuntimeError:  # a kind that the runtime does not know; the export has said so
            self._tokenizer = None

    def _target_logits(self, prompt: Sequence[int], target: Sequence[int]) -> "npt.NDArray[np.float32]":
        """The logits [target tokens, vocabulary] that predict the target."""
        if self._stepper is None:
            self._stepper = OnnxStepper(self._model)
        ids = [*prompt, *target][:-1]  # nothing is asked after the last token
        first = len(prompt) - 1  # the logits at position i predict token i + 1
        for start in range(0, first, PIECE):
            self._stepper.feed([ids[start : min(start + PIECE, first)]], fresh=start == 0, last_only=True)
        logits: npt.NDArray[np.float32] = self._stepper.feed([ids[first:]], fresh=first == 0)[0]
        return logits

    def _write(self, prompt: Sequence[int], max_new_tokens: int, end_tokens: set[int]) -> list[int]:
        params = onnxruntime_genai.GeneratorParams(self._generator_model)
        n_most = cache_length(self._model.path, len(prompt) + max_new_tokens)
        params.set_search_options(max_length=n_most, do_sample=False, num_beams=1)
        generator = onnxruntime_genai.Generator(self._generator_model, params)
        generator.append_tokens(np.asarray(prompt, dtype=np.int32))
        tokens: list[int] = []
        while not generator.is_done() and len(tokens) < max_new_tokens:
            generator.generate_next_token()
            token = int(generator.get_next_tokens()[0])
            if token in end_tokens:
                break
            tokens.append(token)
        return tokens
