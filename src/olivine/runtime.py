"""Talk to a model folder: onnxruntime-genai for ONNX, transformers for the rest."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from olivine import lazy, paths
from olivine.data import Encoder
from olivine.errors import ModelError
from olivine.models import Model
from olivine.models.loading import load_causal_lm, load_tokenizer

if TYPE_CHECKING:
    import numpy as np
    import torch
else:
    np, torch = lazy.module("numpy"), lazy.module("torch")

Messages = Sequence[Mapping[str, str]]
Listener = Callable[[str], None]


class Chat(Protocol):
    """A model that answers."""

    def answer(self, question: Messages | str, max_new_tokens: int = 256, on_text: Listener | None = None) -> str:
        """The greedy answer; pieces of it go to `on_text` as they come.

        question: messages ({"role", "content"}), rendered by the model's chat template; or text that is continued as
        it is.
        """


def open_chat(folder: Path, tell: Listener = lambda _sentence: None) -> Chat:
    """The model in `folder`, ready to answer; `tell` gets what the user should know about how it does.

    Raises ModelError when the folder holds no model, and MissingExtra when the package that runs it is not installed.
    """
    if paths.is_file(folder / "genai_config.json"):
        lazy.require("onnxruntime_genai", "cpu")
        return _GenaiChat(folder, tell)
    if paths.is_file(folder / "adapter_config.json"):
        raise ModelError(f"{folder} is an adapter, which needs its base; talk to the merged model, or build one")
    if paths.is_file(folder / "config.json"):
        return _TorchChat(folder)
    inner = folder / "model"
    hint = f"; did you mean {inner}?" if paths.is_folder(inner) else ""
    raise ModelError(f"{folder} holds no model: neither genai_config.json nor config.json{hint}")


def cache_length(folder: Path, n_tokens: int) -> int:
    """The `max_length` to ask of onnxruntime-genai for a text of that many tokens.

    It refuses a cache that is shorter than a layer's window, and one that is longer than the context.
    """
    config = json.loads((folder / "genai_config.json").read_text(encoding="utf-8"))["model"]
    window = (config["decoder"].get("sliding_window") or {}).get("window_size") or 0
    return min(int(config["context_length"]), max(n_tokens, int(window)))


class _GenaiChat:
    """An ONNX folder."""

    def __init__(self, folder: Path, tell: Listener) -> None:
        import onnxruntime_genai

        self._genai: Any = onnxruntime_genai
        self._model = onnxruntime_genai.Model(str(folder))
        self._tokenizer = onnxruntime_genai.Tokenizer(self._model)
        config = json.loads((folder / "genai_config.json").read_text(encoding="utf-8"))
        self._context_length: int = config["model"]["context_length"]
        self._folder, self._tell = folder, tell
        self._renderer: Any = None  # transformers' tokenizer, where the runtime cannot render the template
        self._ends = frozenset(int(token) for token in self._tokenizer.eos_token_ids)

    def answer(self, question: Messages | str, max_new_tokens: int = 256, on_text: Listener | None = None) -> str:
        prompt = list(self._tokenizer.encode(self._text(question)))
        if len(prompt) >= self._context_length:
            raise ModelError(f"the prompt has {len(prompt)} tokens, but the model reads {self._context_length}")
        params = self._genai.GeneratorParams(self._model)
        n_most = cache_length(self._folder, len(prompt) + max_new_tokens)
        params.set_search_options(max_length=n_most, do_sample=False)
        generator = self._genai.Generator(self._model, params)
        generator.append_tokens(np.asarray(prompt, dtype=np.int32))
        stream = self._tokenizer.create_stream()
        pieces: list[str] = []
        while not generator.is_done() and len(pieces) < max_new_tokens:
            generator.generate_next_token()
            token = int(generator.get_next_tokens()[0])
            if token in self._ends:
                break
            pieces.append(stream.decode(token))
            if on_text is not None:
                on_text(pieces[-1])
        return "".join(pieces)

    def _text(self, question: Messages | str) -> str:
        if isinstance(question, str):
            return question
        if self._renderer is None:
            try:
                chat = json.dumps([dict(message) for message in question])
                text: str = self._tokenizer.apply_chat_template(chat, add_generation_prompt=True)
            except RuntimeError as error:
                renderer = load_tokenizer(Model("hf", self._folder))
                text = _rendered(renderer, question)
                self._renderer = renderer
                why = str(error).partition(" at row")[0].partition("\n")[0]
                self._tell(f"onnxruntime-genai cannot render the chat ({why}); transformers does")
            return text
        return _rendered(self._renderer, question)


def _rendered(tokenizer: Any, messages: Messages) -> str:
    """The chat as transformers renders it; ModelError without a template, and when it refuses the chat."""
    from jinja2 import TemplateError

    if not tokenizer.chat_template:
        raise ModelError("this model has no chat template; continue a text with --raw")
    try:
        text: str = tokenizer.apply_chat_template(
            [dict(message) for message in messages], tokenize=False, add_generation_prompt=True
        )
    except (TemplateError, TypeError, ValueError) as error:
        raise ModelError(f"the model's chat template refuses this chat: {error}") from error
    return text


class _TorchChat:
    """A Hugging Face folder."""

    def __init__(self, folder: Path) -> None:
        model = Model("hf", folder)
        self._tokenizer = load_tokenizer(model)
        self._model = load_causal_lm(model, dtype="auto")

    def answer(self, question: Messages | str, max_new_tokens: int = 256, on_text: Listener | None = None) -> str:
        ids = self._ids(question)
        with torch.inference_mode():
            written = self._model.generate(
                input_ids=torch.tensor([ids]),
                attention_mask=torch.ones((1, len(ids)), dtype=torch.long),
                max_new_tokens=max_new_tokens,
                do_sample=False,
                pad_token_id=self._tokenizer.pad_token_id,
            )
        text: str = self._tokenizer.decode(written[0, len(ids) :], skip_special_tokens=True)
        if on_text is not None:
            on_text(text)
        return text

    def _ids(self, question: Messages | str) -> list[int]:
        """As transformers has it: before a text what the tokenizer puts there, before a chat what the template says."""
        ids: list[int]
        if isinstance(question, str):
            ids = Encoder(self._tokenizer, add_special_tokens=True).openings([question])[0]
        else:
            ids = self._tokenizer(_rendered(self._tokenizer, question), add_special_tokens=False)["input_ids"]
        return ids
