"""The delivered tokenizer as onnxruntime-genai reads it, held against transformers: text by text, chat by chat."""

# ruff: noqa: RUF001 - the texts are in many scripts on purpose

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from olivine import lazy
from olivine.data import Encoder
from olivine.errors import OlivineError
from olivine.models.turns import rendered
from olivine.work import Reporter

if TYPE_CHECKING:
    import onnx
else:
    onnx = lazy.module("onnx")

# White space, digits, marks, scripts, what is composed, what has no letters, what looks like a special token.
TEXTS = (
    "",
    "The quick brown fox jumps over the lazy dog.",
    " a space before, one after ",
    "two  spaces,   three\tand\t\ttabs",
    "lines\nand\n\nparagraphs\n",
    "\r\nas Windows ends them\r\n",
    "1. one\n\n2. two\n  3. three",
    "12345 6789, 3.14 and 1,000,000",
    "don't WE'LL it's they'VE",
    'x = {"a": [1, 2]};\n\n    if y:\n\t\treturn z  # …',
    "café, naïve, Ünïcödé",
    "cafe\u0301 with a combining accent",
    "你好，世界。 こんにちは、日本",
    "Привет мир, γειά σου, שלום, مرحبا ١٢٣, हिन्दी",
    "😀 and 👩‍👩‍👧, € and ½, ﬁ and ①",
    "a\u00a0hard space, \u3000a wide one",
    "— “quoted” – ‘so’ …",
    "a" * 60,
)
CHATS = (
    [{"role": "user", "content": "hello"}],
    [
        {"role": "user", "content": "What is 2 + 2?"},
        {"role": "assistant", "content": "4"},
        {"role": "user", "content": "  And\n\n3?  "},
    ],
)
N_TOLD = 3  # texts that a warning names


class TokenizerDied(OlivineError):  # noqa: N818 - names what happened
    """The process of the runtime's tokenizer ended by itself."""


class RuntimeTokenizer:
    """The tokenizer of a folder as the runtime reads it; RuntimeError for what the runtime refuses.

    It lives in a process of its own: in a busy process the runtime's tokenizer now and then ends it in native code. One
    that dies is started again and asked once more; TokenizerDied when it dies again.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._process = self._started()
        self._ask({"encode": ""})

    def encode(self, text: str) -> list[int]:
        """Token ids of a text."""
        ids: list[int] = self._ask({"encode": text})
        return ids

    def apply_chat_template(self, messages: str, **settings: Any) -> str:
        """The text of a chat; messages: as JSON."""
        return str(self._ask({"messages": messages, "settings": settings}))

    def close(self) -> None:
        """End the process; there is nothing left to ask."""
        self._process.kill()
        with suppress(OSError):  # what it had not read any more
            self._process.communicate()

    def _started(self) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            # -P: a file in the current folder must not stand in for a library
            [sys.executable, "-P", "-m", "olivine.passes.export._tokenizer_process", str(self._folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            encoding="utf-8",
        )

    def _ask(self, wish: Mapping[str, Any]) -> Any:
        try:
            return self._answer(wish)
        except TokenizerDied:
            self.close()
            self._process = self._started()
            return self._answer(wish)

    def _answer(self, wish: Mapping[str, Any]) -> Any:
        stdin, stdout = self._process.stdin, self._process.stdout
        if stdin is None or stdout is None:
            raise ValueError("the process has no pipes")
        with suppress(OSError):  # it died; its output ends, and that is what is told
            stdin.write(json.dumps(wish) + "\n")
            stdin.flush()
        line = stdout.readline()
        if not line:
            raise TokenizerDied(f"onnxruntime-genai crashed while it read the tokenizer of {self._folder}")
        record = json.loads(line)
        if "error" in record:
            raise RuntimeError(record["error"])
        return record["answer"]


def of_runtime(folder: Path, scratch: Path, report: Reporter) -> RuntimeTokenizer | None:
    """The tokenizer of a built folder as the runtime reads it; None where there is none, or it cannot, with a warning.

    scratch: a folder for a stand-in of the model.
    """
    if not (folder / "tokenizer.json").is_file():
        return None
    place = stand_in(folder, scratch / "tokenizer")
    try:
        return RuntimeTokenizer(place)
    except RuntimeError as error:
        report.warn(f"onnxruntime-genai cannot read the model's tokenizer, so it takes token ids only: {error}")
        return None


def compare(ours: Any, theirs: RuntimeTokenizer, report: Reporter) -> None:
    """Warn of every text that the runtime's tokenizer reads otherwise than transformers, naming it.

    Training and scoring use transformers' tokens; where the runtime makes others of the same text, the model answers
    something else than it was trained for. theirs: of `of_runtime`.
    """
    texts = list(_texts(ours))
    differing = [text for text in texts if _ids(ours, text) != theirs.encode(text)]
    if differing:
        told = ", ".join(json.dumps(text, ensure_ascii=False) for text in differing[:N_TOLD])
        report.warn(
            f"onnxruntime-genai's tokenizer reads {len(differing)} of {len(texts)} texts as other tokens than "
            f"transformers: {told}{' ...' if len(differing) > N_TOLD else ''}"
        )
    if Encoder(ours, add_special_tokens=True).begin is not None:
        begin = ours.bos_token
        report.warn(
            f"transformers puts {begin} before a text, onnxruntime-genai's encode never does: where the model needs "
            f"it, begin prompts that are no chats with {begin}"
        )


def _texts(tokenizer: Any) -> Iterator[str]:
    """Texts, some with every special token in them, and chats as the template renders them."""
    yield from TEXTS
    for token in tokenizer.all_special_tokens:
        yield from (token, f"before{token}after", f"before {token} after\n")
    if tokenizer.chat_template:
        yield from (text for chat in CHATS if (text := rendered(tokenizer, chat)) is not None)


def _ids(tokenizer: Any, text: str) -> list[int]:
    ids: list[int] = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    return ids


def stand_in(folder: Path, place: Path) -> Path:
    """A folder with the same tokenizer and next to no model: the runtime gives a tokenizer only with a model."""
    place.mkdir(parents=True, exist_ok=True)  # scratch survives a killed step
    for path in folder.iterdir():
        if path.is_file() and path.suffix in (".json", ".jinja", ".txt", ".model") and path.name != "genai_config.json":
            shutil.copyfile(path, place / path.name)
    config = json.loads((folder / "genai_config.json").read_text(encoding="utf-8"))
    config["model"]["decoder"] = {
        "filename": "model.onnx",
        "head_size": 1,
        "hidden_size": 1,
        "inputs": {"input_ids": "input_ids"},
        "outputs": {"logits": "logits"},
        "num_attention_heads": 1,
        "num_hidden_layers": 0,
        "num_key_value_heads": 1,
    }
    config["model"]["type"] = "llama"
    (place / "genai_config.json").write_text(json.dumps(config), encoding="utf-8")
    onnx.save(_identity(), str(place / "model.onnx"))
    return place


def _identity() -> Any:
    """A graph with the inputs and outputs of a decoder that hands its ids on as logits."""
    helper, types = onnx.helper, onnx.TensorProto
    nodes = [
        helper.make_node("Cast", ["input_ids"], ["floats"], to=types.FLOAT),
        helper.make_node("Unsqueeze", ["floats", "axes"], ["logits"]),
    ]
    graph = helper.make_graph(
        nodes,
        "identity",
        [helper.make_tensor_value_info("input_ids", types.INT64, ["rows", "ids"])],
        [helper.make_tensor_value_info("logits", types.FLOAT, ["rows", "ids", 1])],
        [helper.make_tensor("axes", types.INT64, [1], [2])],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
