"""Talk to a model folder: onnxruntime-genai for ONNX, transformers for the rest."""

import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from olivine import lazy, paths
from olivine.data import Encoder
from olivine.errors import ModelError
from olivine.jinja import BY_TEMPLATES, in_parts, reads_parts
from olivine.models import Model
from olivine.models.loading import load_tokenizer
from olivine.models.speech import hears
from olivine.models.turns import as_read, end_tokens
from olivine.runtimes.genai import GenaiRuntime
from olivine.runtimes.genai_tokenizer import TokenizerRefusedError
from olivine.runtimes.opening import open_model, runnable
from olivine.runtimes.torch import TorchRuntime

_UNFINISHED = "\N{REPLACEMENT CHARACTER}"

Messages = Sequence[Mapping[str, str]]
Listener = Callable[[str], None]


class Chat(Protocol):
    """A model in memory that answers one question after the other. n_written: tokens of its last answer."""

    n_written: int

    def answer(self, question: Messages | str, max_new_tokens: int = 256, on_text: Listener | None = None) -> str:
        """The greedy answer; pieces of it go to `on_text` as they come.

        question: messages ({"role", "content"}), rendered by the model's chat template; or text that is continued as
        it is.
        """


def open_chat(path: Path, tell: Listener = lambda _sentence: None, base: Path | None = None) -> Chat:
    """The model at `path` (see open_model), ready to answer.

    tell: gets what the user should know about how it does. base: what an adapter adapts, else what it names. Raises
    ModelError where there is no model, and MissingExtra when the package that runs it is not installed.
    """
    folder = paths.of_user(path)
    if paths.is_file(folder / "genai_config.json"):
        lazy.require("onnxruntime_genai", "cpu")
        if hears(folder):
            raise ModelError(f"{folder} hears sounds and reads no chat: run.py beside it transcribes a WAV file")
        try:
            return _GenaiChat(folder, tell)
        except TokenizerRefusedError as error:
            raise ModelError(f"{folder} has no tokenizer that onnxruntime-genai reads: {error}") from error
        except (RuntimeError, ValueError, LookupError, TypeError, AttributeError) as error:
            raise ModelError(f"{folder} is damaged, or not for this onnxruntime-genai: {error}") from error
    return _TorchChat(open_model(folder, base))


class _GenaiChat:
    """An ONNX folder in onnxruntime-genai, with the runtime's own tokenizer."""

    def __init__(self, folder: Path, tell: Listener) -> None:
        self._runtime = GenaiRuntime(folder)
        self._tokenizer = self._runtime.tokenizer
        self._folder, self._tell = folder, tell
        self._renderer: Any = None  # transformers' tokenizer, where the runtime cannot render the template
        self._ends = frozenset(int(token) for token in self._tokenizer.eos_token_ids)
        self.n_written = 0

    def answer(self, question: Messages | str, max_new_tokens: int = 256, on_text: Listener | None = None) -> str:
        prompt = list(self._tokenizer.encode(self._text(question)))
        context = self._runtime.context_length
        if len(prompt) >= context:
            raise ModelError(f"the prompt has {len(prompt)} tokens, but the model reads {context}")
        stream = self._tokenizer.create_stream()
        pieces: list[str] = []

        def keep(token: int) -> None:
            pieces.append(stream.decode(token))
            if on_text is not None:
                on_text(pieces[-1])

        self.n_written = len(self._runtime.generate(prompt, max_new_tokens, self._ends, keep))
        return "".join(pieces)

    def _text(self, question: Messages | str) -> str:
        if isinstance(question, str):
            return question
        if self._renderer is None:
            try:
                chat = in_parts(question) if reads_parts(self._written) else [dict(message) for message in question]
                text: str = self._tokenizer.apply_chat_template(json.dumps(chat), add_generation_prompt=True)
            except RuntimeError as error:
                renderer = load_tokenizer(Model("hf", self._folder))
                text = _rendered(renderer, question)
                self._renderer = renderer
                why = str(error).partition(" at row")[0].partition("\n")[0]
                self._tell(f"onnxruntime-genai cannot render the chat ({why}); transformers does")
            return text
        return _rendered(self._renderer, question)

    def _written(self, chat: Messages) -> str:
        """What the runtime makes of a chat; empty where it refuses it."""
        try:
            return str(self._tokenizer.apply_chat_template(json.dumps(chat), add_generation_prompt=False))
        except RuntimeError:
            return ""


def _rendered(tokenizer: Any, messages: Messages) -> str:
    """The chat as transformers renders it; ModelError without a template, and when it refuses the chat."""
    from jinja2 import TemplateError

    if not tokenizer.chat_template:
        raise ModelError("this model has no chat template; continue a text with --raw")
    try:
        text: str = tokenizer.apply_chat_template(
            as_read(tokenizer, [dict(message) for message in messages]), tokenize=False, add_generation_prompt=True
        )
    except (TemplateError, *BY_TEMPLATES) as error:
        raise ModelError(f"the model's chat template refuses this chat: {error}") from error
    return text


class _TorchChat:
    """A checkpoint, an adapter on one, or a GGUF file in transformers, on the CPU."""

    def __init__(self, model: Model) -> None:
        with tempfile.TemporaryDirectory(prefix="olivine-chat-") as scratch:  # all of it is in memory then
            opened = runnable(model, Path(scratch))
            self._tokenizer = load_tokenizer(opened)
            self._runtime = TorchRuntime(opened, "cpu", "auto")
            bottom = opened.base if opened.format == "adapter" and opened.base is not None else opened
            self._ends = end_tokens(self._tokenizer, bottom.path)  # at which it is scored, too
        self.n_written = 0

    def answer(self, question: Messages | str, max_new_tokens: int = 256, on_text: Listener | None = None) -> str:
        tokens: list[int] = []
        told = ""

        def keep(token: int) -> None:
            nonlocal told
            tokens.append(token)
            if on_text is None:
                return
            text = self._decoded(tokens)
            if not text.endswith(_UNFINISHED):  # a character of several tokens
                on_text(text[len(told) :])
                told = text

        pad = self._tokenizer.pad_token_id
        written = self._runtime.answer(self._ids(question), max_new_tokens, pad, self._ends, keep)
        self.n_written = len(written)
        text = self._decoded(written)
        if on_text is not None:
            on_text(text[len(told) :])
        return text

    def _decoded(self, tokens: Sequence[int]) -> str:
        text: str = self._tokenizer.decode(list(tokens), skip_special_tokens=True)
        return text

    def _ids(self, question: Messages | str) -> list[int]:
        """As transformers has it: before a text what the tokenizer puts there, before a chat what the template says."""
        ids: list[int]
        if isinstance(question, str):
            ids = Encoder(self._tokenizer, add_special_tokens=True).openings([question])[0]
        else:
            ids = self._tokenizer(_rendered(self._tokenizer, question), add_special_tokens=False)["input_ids"]
        return ids
