"""A model as people use it, asked for one thing at a time: the seconds until each token of a text, or each batch."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from olivine import lazy
from olivine.errors import ModelError
from olivine.models import Model
from olivine.runtimes._base import Runtime, timed
from olivine.runtimes.genai import GenaiRuntime
from olivine.runtimes.module import AnySession, open_session
from olivine.runtimes.torch import TorchRuntime, default_device

if TYPE_CHECKING:
    import numpy as np
else:
    np = lazy.module("numpy")

Request = Callable[[], list[float]]
"""Makes one request; gives the seconds of its parts."""


@dataclass(frozen=True)
class Asked:
    """What is asked for: `n_new` tokens after the first one that follows a prompt, or the outputs for a file of inputs.

    seed: of the tokens of the prompt, of which there are `n_prompt`. n_rows: texts that a decoder reads and writes at
    once. watches_gpu: whether the GPU's memory is looked at between requests. inputs: an .npz with an array for each
    input of a model that is no decoder. provider: that runs a graph which is no folder of onnxruntime-genai.
    """

    n_prompt: int
    n_new: int
    seed: int
    inputs: str | None = None
    provider: str = "CPUExecutionProvider"
    n_rows: int = 1
    watches_gpu: bool = False


def open_requests(model: Model, device: str | None, dtype: str, asked: Asked) -> tuple[Request, int]:
    """Load the model; what makes a request, and how many tokens its prompt has: 0 for what is no decoder.

    Seconds of a decoder are until the first token, and from each to the one after it; of any other graph there is one.
    """
    if asked.inputs is not None:
        return _runs(open_session(model, asked.provider, device or default_device()), asked), 0
    if model.format == "onnx":
        genai = GenaiRuntime(model.path)
        prompt = _prompt(int(genai.config["model"]["vocab_size"]), genai.context_length, asked)
        return _folder_writes(genai, prompt, asked), len(prompt)
    runtime = TorchRuntime(model, device or default_device(), dtype)
    prompt = _prompt(runtime.n_vocabulary, runtime.context_length, asked)
    return _writes(runtime, prompt, asked), len(prompt)


def _prompt(n_vocabulary: int, context_length: int, asked: Asked) -> list[int]:
    """Tokens that leave room in the context for what is written. ModelError where there is none."""
    n_prompt = min(asked.n_prompt, context_length - asked.n_new - 1)
    if n_prompt < 1:
        raise ModelError(f"{asked.n_new} new_tokens do not fit into the {context_length} tokens that the model reads")
    tokens: list[int] = np.random.default_rng(asked.seed).integers(0, n_vocabulary, n_prompt).tolist()
    return tokens


def _writes(runtime: Runtime, prompt: Sequence[int], asked: Asked) -> Request:
    def request() -> list[float]:
        rows = [prompt] * asked.n_rows
        steps = runtime.write(rows, lambda logits: logits.argmax(axis=-1), asked.n_new + 1)
        return [timed(lambda: next(steps))[0] for _ in range(asked.n_new + 1)]

    return request


def _folder_writes(runtime: GenaiRuntime, prompt: Sequence[int], asked: Asked) -> Request:
    tokens = np.asarray(prompt if asked.n_rows == 1 else [prompt] * asked.n_rows, dtype=np.int32)
    rows = {} if asked.n_rows == 1 else {"batch_size": asked.n_rows}

    def request() -> list[float]:
        n_room = runtime.cache_length(len(prompt) + asked.n_new + 1)
        # min_length: an end token must not cut the measurement short
        writing = runtime.begin(max_length=n_room, min_length=n_room, do_sample=False, num_beams=1, **rows)
        read, _ = timed(lambda: writing.read(tokens))
        first, *others = (timed(writing.write_rows)[0] for _ in range(asked.n_new + 1))
        return [read + first, *others]

    return request


def _runs(session: AnySession, asked: Asked) -> Request:
    with np.load(Path(asked.inputs or "")) as arrays:
        inputs = dict(arrays)
    return lambda: [timed(lambda: session.run(inputs))[0]]
