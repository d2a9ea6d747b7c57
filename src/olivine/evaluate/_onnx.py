"""An ONNX folder on the rows: onnxruntime for the logits of whole texts, onnxruntime-genai for the text it writes.

Two runtimes, because onnxruntime-genai gives logits of the last position only; both execute the same graph and weights.
"""

import json
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from olivine import lazy
from olivine.errors import ModelError
from olivine.evaluate._answer import Answer, known_answer
from olivine.evaluate._rows import Question
from olivine.models import Model

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import onnxruntime
    import onnxruntime_genai
else:
    np = lazy.module("numpy")
    onnxruntime, onnxruntime_genai = lazy.module("onnxruntime"), lazy.module("onnxruntime_genai")

PROVEN = 8  # answers that onnxruntime-genai writes in any case, so that a broken decoding loop cannot hide


class OnnxRuntime:
    """Runs the folder on the execution provider that it was built for."""

    def __init__(self, model: Model, tokenizer: Any, execution_provider: str) -> None:
        self._folder = model.path
        self._config = json.loads((model.path / "genai_config.json").read_text(encoding="utf-8"))
        self._pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0
        self._provider = execution_provider
        self._session: Any = None
        self._generator_model: Any = None
        self._n_written = 0

    def answer(self, batch: Sequence[Question], max_new_tokens: int, end_tokens: Sequence[int]) -> list[Answer]:
        """Answer every question; onnxruntime-genai writes where the target's logits do not tell the text."""
        answers = []
        for question, logits in zip(batch, self._target_logits(batch), strict=True):
            tokens = known_answer(logits, question.target, end_tokens) if self._n_written >= PROVEN else None
            if tokens is None:
                tokens = self._write(question.prompt, max_new_tokens, set(end_tokens))
            answers.append(Answer(logits, tokens))
        return answers

    def _target_logits(self, batch: Sequence[Question]) -> Iterator["npt.NDArray[np.float32]"]:
        """For each question, the logits [target tokens, vocabulary] that predict its target."""
        rows = [question.prompt + question.target for question in batch]
        logits = self._open_session().run(["logits"], self._inputs(rows))[0]
        if logits.shape[1] != max(len(row) for row in rows):
            raise ModelError(
                f"{self._folder}: the graph gives logits of the last token only (prune_lm_head), so its loss cannot be "
                "scored; build it without prune_lm_head or set quality.enabled to false"
            )
        # Rows begin at the left edge: the logits at position i predict token i + 1.
        for index, question in enumerate(batch):
            first = len(question.prompt) - 1
            yield logits[index, first : first + len(question.target)].astype(np.float32)

    def _write(self, prompt: Sequence[int], max_new_tokens: int, end_tokens: set[int]) -> list[int]:
        if self._generator_model is None:
            self._generator_model = onnxruntime_genai.Model(str(self._folder))
        self._n_written += 1
        params = onnxruntime_genai.GeneratorParams(self._generator_model)
        params.set_search_options(max_length=len(prompt) + max_new_tokens, do_sample=False, num_beams=1)
        generator = onnxruntime_genai.Generator(self._generator_model, params)
        generator.append_tokens(np.asarray(prompt, dtype=np.int32))
        tokens: list[int] = []
        while not generator.is_done():
            generator.generate_next_token()
            token = int(generator.get_next_tokens()[0])
            if token in end_tokens:
                break
            tokens.append(token)
        return tokens

    def _open_session(self) -> Any:
        if self._session is None:
            options = onnxruntime.SessionOptions()
            options.log_severity_level = 3
            path = self._folder / self._config["model"]["decoder"]["filename"]
            self._session = onnxruntime.InferenceSession(str(path), options, providers=[self._provider])
        return self._session

    def _inputs(self, rows: Sequence[Sequence[int]]) -> dict[str, Any]:
        width = max(len(row) for row in rows)
        ids = np.full((len(rows), width), self._pad, dtype=np.int64)
        mask = np.zeros((len(rows), width), dtype=np.int64)
        for index, row in enumerate(rows):
            ids[index, : len(row)] = row
            mask[index, : len(row)] = 1
        known = {
            "input_ids": ids,
            "attention_mask": mask,
            "position_ids": np.maximum(mask.cumsum(-1) - 1, 0),
        }
        decoder = self._config["model"]["decoder"]
        empty = (len(rows), decoder["num_key_value_heads"], 0, decoder["head_size"])
        return {value.name: _value(value, known, empty) for value in self._open_session().get_inputs()}


def _value(value: Any, known: dict[str, Any], empty: tuple[int, ...]) -> Any:
    """What an input of the graph is given; all but the known ones are key and value caches with nothing in them."""
    if value.name in known:
        return known[value.name]
    return np.zeros(empty, dtype=np.float16 if value.type == "tensor(float16)" else np.float32)
