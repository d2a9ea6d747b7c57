"""The graph of an ONNX folder in onnxruntime, fed a piece at a time, its caches and states handed back to it."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from olivine import lazy
from olivine.errors import Unsupported
from olivine.models import Model
from olivine.runtimes import onnx_folder
from olivine.runtimes._base import Runtime, Tokens
from olivine.runtimes.together import Together, groups, reads_together

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import onnxruntime
else:
    np, onnxruntime = lazy.module("numpy"), lazy.module("onnxruntime")

PIECE = 512  # tokens of a text whose logits are held at once
_DTYPES = {
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    "tensor(int64)": "int64",
    "tensor(int32)": "int32",
}


class OnnxRuntime(Runtime):
    """A decoder with everything that it hands from step to step: caches, caches of a window, states of a convolution.

    accuracy_level: replaces that of every quantized product; the weights stay the files of the folder.
    """

    def __init__(self, model: Model, accuracy_level: int | None = None) -> None:
        self._path = onnx_folder.file_of(model)
        provider = str(model.attributes["execution_provider"])
        self.device = provider.removesuffix("ExecutionProvider").lower()
        self._session = _session(model, provider, accuracy_level)
        config = json.loads((model.path / "genai_config.json").read_text(encoding="utf-8"))["model"]
        self.context_length = int(config["context_length"])
        self.n_vocabulary = int(config["vocab_size"])
        self._decoder = config["decoder"]
        self._presents = _presents(model, self._decoder)
        self._windowed = _windowed(self._decoder)
        self._inputs = {value.name: value for value in self._session.get_inputs()}
        self._together = reads_together(onnx_folder.operators(model))
        self._past: dict[str, Any] = {}
        self._n_fed = 0
        self._is_pruned = False

    def feed(
        self, rows: "Sequence[Tokens] | npt.NDArray[np.int64]", *, fresh: bool, last_only: bool = False
    ) -> "npt.NDArray[np.float32]":
        """See Runtime; all rows have one length."""
        given = np.asarray(rows, dtype=np.int64)
        if fresh:
            self._n_fed, self._past = 0, {}
        if self._is_pruned and not last_only:
            return np.concatenate([self._run(given[:, column : column + 1]) for column in range(given.shape[1])], 1)
        before = (self._n_fed, self._past)
        logits = self._run(given)
        if last_only or logits.shape[1] == given.shape[1]:
            return np.ascontiguousarray(logits[:, -1:]) if last_only else logits
        # prune_lm_head: the graph gives the last token's logits only, so it is fed one token at a time
        self._is_pruned = True
        self._n_fed, self._past = before
        return self.feed(rows, fresh=False)

    def logits(self, texts: Sequence[Tokens], starts: Sequence[int]) -> "list[npt.NDArray[np.float32]]":
        """See Runtime; as many texts at a time as the graph reads alike.

        Of a text alone, what is not asked for is read in pieces; several are read at once, since attention goes on
        after a piece for one row only.
        """
        read: dict[int, npt.NDArray[np.float32]] = {}
        together = Together.ALONE if self._is_pruned else self._together
        for group in groups([len(text) for text in texts], together, lambda _index: False):
            # the logits at position i predict token i + 1
            first = starts[group[0]] - 1 if len(group) == 1 else 0
            width = max(len(texts[index]) for index in group) - 1
            rows = np.zeros((len(group), width), dtype=np.int64)
            for row, index in zip(rows, group, strict=True):
                row[: len(texts[index]) - 1] = texts[index][:-1]
            logits = self._predicting(rows, first)
            for row, index in zip(logits, group, strict=True):
                read[index] = row[starts[index] - 1 - first : len(texts[index]) - 1 - first]
        return [read[index] for index in range(len(texts))]

    def _predicting(self, rows: "npt.NDArray[np.int64]", first: int) -> "npt.NDArray[np.float32]":
        """Logits [rows, tokens, vocabulary] from the position `first` on."""
        for start in range(0, first, PIECE):
            self.feed(rows[:, start : min(start + PIECE, first)], fresh=start == 0, last_only=True)
        return self.feed(rows[:, first:], fresh=first == 0)

    def _run(self, given: Any) -> Any:
        n_rows, n_new = given.shape
        end = self._n_fed + n_new
        known = {
            "input_ids": given,
            "attention_mask": np.ones((n_rows, end), dtype=np.int64),
            "position_ids": np.tile(np.arange(self._n_fed, end, dtype=np.int64), (n_rows, 1)),
        }
        feed = {name: self._value(name, known, n_rows) for name in self._inputs}
        pasts = [name for name in self._inputs if name in self._presents]
        logits, *presents = self._session.run(["logits", *(self._presents[name] for name in pasts)], feed)
        self._past, self._n_fed = dict(zip(pasts, presents, strict=True)), end
        return logits.astype(np.float32, copy=False)

    def _value(self, name: str, known: dict[str, Any], n_rows: int) -> Any:
        """What an input of the graph is given; before the first token, a cache or state with nothing in it."""
        value = self._inputs[name]
        if name in known:
            return known[name].astype(_DTYPES[value.type], copy=False)
        if name in self._past:
            return self._past[name]
        if name not in self._presents or value.type not in _DTYPES:
            raise Unsupported(f"{self._path}: the graph wants the input '{name}' ({value.type}), which is not served")
        return np.zeros(self._empty(name, value.shape, n_rows), dtype=_DTYPES[value.type])

    def _empty(self, name: str, shape: Sequence[int | str], n_rows: int) -> list[int]:
        """[rows, heads, past length, head size] of a cache; a state of a convolution is [rows, ...] of zeros.

        A size that the graph only names is the config's. The cache of a layer with a window is a ring that must hold
        the window from the start; all others begin with no room and grow.
        """
        if name in self._windowed or name in _caches(self._decoder):
            own = (n_rows, int(self._decoder["num_key_value_heads"]), 0, int(self._decoder["head_size"]))
            sizes = [size if isinstance(size, int) else of for size, of in zip(shape, own, strict=True)]
            return [n_rows, sizes[1], self._windowed.get(name, 0), sizes[3]]
        if not all(isinstance(size, int) for size in shape[1:]):
            raise Unsupported(f"{self._path}: the size of the state '{name}' {list(shape)} is not told")
        return [n_rows, *(int(size) for size in shape[1:])]


def _session(model: Model, provider: str, accuracy_level: int | None) -> Any:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # several models take turns on the cores
    path = onnx_folder.file_of(model)
    if accuracy_level is None:
        return onnxruntime.InferenceSession(str(path), options, providers=[provider])
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(path.parent))
    return onnxruntime.InferenceSession(onnx_folder.at_level(model, accuracy_level), options, providers=[provider])


def _presents(model: Model, decoder: Mapping[str, Any]) -> dict[str, str]:
    """Name of a cache or state going in -> its name coming out, for every layer, as genai_config.json has them."""
    pairs = dict(_state_names(decoder))
    if not pairs:
        raise Unsupported(f"{model.path / 'genai_config.json'} names no caches of a decoder")
    return {past % layer: present % layer for past, present in pairs.items() for layer in _layers(decoder)}


def _state_names(decoder: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Patterns of names: of keys and values, of convolutions, of recurrent layers, whatever the config has."""
    for key, past in decoder.get("inputs", {}).items():
        present = decoder.get("outputs", {}).get(key.replace("past_", "present_", 1))
        if key.startswith("past_") and isinstance(past, str) and "%d" in past and isinstance(present, str):
            yield past, present


def _layers(decoder: Mapping[str, Any]) -> range:
    return range(int(decoder.get("num_hidden_layers", 0)))


def _caches(decoder: Mapping[str, Any]) -> set[str]:
    """Names of the key and value caches, all layers."""
    patterns = [decoder["inputs"].get(f"past_{kind}_names") for kind in ("key", "value")]
    return {pattern % layer for pattern in patterns if pattern for layer in _layers(decoder)}


def _windowed(decoder: Mapping[str, Any]) -> dict[str, int]:
    """Caches of layers with a window -> tokens of the window."""
    window = decoder.get("sliding_window") or {}
    patterns = [decoder["inputs"].get(f"past_{kind}_names") for kind in ("key", "value")]
    return {
        pattern % layer: int(window.get("window_size") or 0)
        for pattern in patterns
        if pattern
        for layer in window.get("layers") or ()
    }
