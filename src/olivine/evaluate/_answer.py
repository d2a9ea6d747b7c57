"""What a model does with questions: the logits of their targets, and the text that it writes in their place."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

from olivine import lazy
from olivine.evaluate._rows import Question
from olivine.models import Model
from olivine.runtimes import Runtime, until_end
from olivine.runtimes.genai import GenaiRuntime, Written
from olivine.runtimes.genai_tokenizer import TokenizerRefusedError
from olivine.runtimes.onnx import OnnxRuntime
from olivine.runtimes.torch import TorchRuntime

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
else:
    np = lazy.module("numpy")


@dataclass(frozen=True)
class Answer:
    """logits: [target tokens, vocabulary], those that predict the target. tokens: greedy, without the end token.

    prompt: the tokens that were read, where the runtime made them itself. text: what it wrote, in its own words.
    """

    logits: "npt.NDArray[np.float32]"
    tokens: list[int]
    prompt: tuple[int, ...] | None = None
    text: str | None = None


class Answers(Protocol):
    """A model that answers; one class for each way that models are used.

    context_length: tokens it reads at most. untyped: why its rows are asked in token ids, where users would type text
    that is tokenized by the same program; None otherwise.
    """

    context_length: int
    untyped: str | None

    @property
    def runtime(self) -> Runtime:
        """What gives the logits of any text."""

    def answer(self, batch: Sequence[Question], max_new_tokens: int, end_tokens: Sequence[int]) -> list[Answer]:
        """Answer every question of the batch."""


def answers_of(model: Model, device: str, execution_provider: str) -> Answers:
    """The model, ready to answer: in transformers on `device`, an ONNX folder with that execution provider."""
    if model.format == "onnx":
        return FolderAnswers(model, execution_provider)
    return CheckpointAnswers(model, device)


class CheckpointAnswers:
    """A checkpoint or adapter, in float32 on the CPU, in bfloat16 on a GPU."""

    untyped: str | None = None

    def __init__(self, model: Model, device: str) -> None:
        self._runtime = TorchRuntime(model, device, "float32" if device == "cpu" else "bfloat16")
        self.context_length = self._runtime.context_length

    @property
    def runtime(self) -> Runtime:
        """See Answers."""
        return self._runtime

    def answer(self, batch: Sequence[Question], max_new_tokens: int, end_tokens: Sequence[int]) -> list[Answer]:
        """See Answers; text is written only where the target's logits do not tell it."""
        texts, starts = [question.prompt + question.target for question in batch], [len(q.prompt) for q in batch]
        logits = self._runtime.logits(texts, starts)
        known = [known_answer(values, q.target, end_tokens) for values, q in zip(logits, batch, strict=True)]
        unknown = [question.prompt for question, tokens in zip(batch, known, strict=True) if tokens is None]
        written = iter(self._runtime.generate(unknown, max_new_tokens, end_tokens) if unknown else [])
        return [
            Answer(values, next(written) if tokens is None else tokens)
            for values, tokens in zip(logits, known, strict=True)
        ]


class FolderAnswers:
    """An ONNX folder on the execution provider that it was built for, as its own settings say, but greedily.

    onnxruntime-genai writes, and tells by which logits; as long as it writes the target these are the target's. Where
    it writes something else, onnxruntime gives the logits of the target, from the same graph and weights.
    """

    def __init__(self, model: Model, execution_provider: str) -> None:
        self._genai = GenaiRuntime(model.path)
        self.context_length = self._genai.context_length
        attributes = {**model.attributes, "execution_provider": execution_provider}
        self._model = replace(model, attributes=attributes)
        self._tokenizer: Any = None
        self.untyped: str | None = None
        try:
            self._tokenizer = self._genai.tokenizer
        except TokenizerRefusedError as error:
            self.untyped = str(error)

    @cached_property
    def runtime(self) -> Runtime:
        """See Answers: onnxruntime, with the same graph and weights."""
        return OnnxRuntime(self._model)

    def answer(self, batch: Sequence[Question], max_new_tokens: int, end_tokens: Sequence[int]) -> list[Answer]:
        """Answer every question as a stranger would have it answered: text in, text out."""
        typed = [self._typed(question) for question in batch]
        prompts = [question.prompt if ids is None else ids for question, ids in zip(batch, typed, strict=True)]
        written = self._genai.answers(prompts, [question.target for question in batch], max_new_tokens, end_tokens)
        logits = self._target_logits(prompts, written)
        return [
            Answer(values, one.tokens, ids, None if ids is None else self._text(one.tokens))
            for values, one, ids in zip(logits, written, typed, strict=True)
        ]

    def _typed(self, question: Question) -> tuple[int, ...] | None:
        """The tokens that the runtime makes of the question's text; None where it is asked in tokens."""
        if self._tokenizer is None or question.text is None:
            return None
        prompt = tuple(int(token) for token in self._tokenizer.encode(question.text)) or question.prompt
        return prompt[max(0, question.length - self.context_length + len(prompt) - len(question.prompt)) :]

    def _text(self, tokens: Sequence[int]) -> str:
        return str(self._tokenizer.decode(np.asarray(tokens, dtype=np.int32))) if tokens else ""

    def _target_logits(
        self, prompts: Sequence[Sequence[int]], written: Sequence[Written]
    ) -> "list[npt.NDArray[np.float32]]":
        """For each row the logits [target tokens, vocabulary] that predict its target."""
        other = [index for index, row in enumerate(written) if len(row.logits) < len(row.target)]
        texts, starts = [(*prompts[index], *written[index].target) for index in other], [len(prompts[i]) for i in other]
        read = dict(zip(other, self.runtime.logits(texts, starts) if other else [], strict=True))
        return [read[index] if index in read else np.stack(row.logits) for index, row in enumerate(written)]


def known_answer(
    logits: "npt.NDArray[np.float32]", target: Sequence[int], end_tokens: Sequence[int]
) -> list[int] | None:
    """The greedy text, where the logits of the target tell it: each target token comes first, up to the end token.

    Greedy decoding would write just the target then, so that it need not run; None when it would write something else.
    """
    if not target or target[-1] not in end_tokens or logits.argmax(axis=-1).tolist() != list(target):
        return None
    return until_end(target, end_tokens)
