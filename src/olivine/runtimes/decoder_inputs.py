"""What the graph of a decoder is given: tokens, what tells their places, and what it handed out for those before."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from olivine import lazy
from olivine.errors import Unsupported

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
else:
    np = lazy.module("numpy")


_KNOWN = ("input_ids", "attention_mask", "position_ids")


class Input(NamedTuple):
    """An input of a graph. dtype: numpy's name, "" for one that is not served. shape: sizes, or names of sizes."""

    name: str
    dtype: str
    shape: Sequence[int | str]


class DecoderInputs:
    """The inputs of the graph that a folder's genai_config.json describes.

    presents: name of a cache or state going in -> its name coming out, for every layer.
    """

    def __init__(self, folder: Path, inputs: Sequence[Input]) -> None:
        self._folder, self._inputs = folder, {one.name: one for one in inputs}
        config = json.loads((folder / "genai_config.json").read_text(encoding="utf-8"))["model"]
        self._decoder = config["decoder"]
        self.presents = self._states()
        self._windowed = _windowed(self._decoder)

    @property
    def pasts(self) -> list[str]:
        """The caches and states that this graph reads."""
        return [name for name in self._inputs if name in self.presents]

    @property
    def unserved(self) -> list[str]:
        """Inputs that are not known to a decoder, or of a type that is not."""
        known = {*_KNOWN, *self.presents}
        return [name for name, one in self._inputs.items() if name not in known or not one.dtype]

    def feed(self, tokens: "npt.NDArray[np.int64]", n_fed: int, past: Mapping[str, Any]) -> dict[str, Any]:
        """A value for every input: for tokens [rows, tokens] after `n_fed` others, of which `past` is left.

        Raises Unsupported for a graph with inputs that are not served.
        """
        if self.unserved:
            raise Unsupported(f"{self._folder}: the graph wants the input '{self.unserved[0]}', which is not served")
        n_rows, n_new = tokens.shape
        end = n_fed + n_new
        known = {
            "input_ids": tokens,
            "attention_mask": np.ones((n_rows, end), dtype=np.int64),
            "position_ids": np.tile(np.arange(n_fed, end, dtype=np.int64), (n_rows, 1)),
        }
        return {name: self._value(name, known, past, n_rows) for name in self._inputs}

    def _value(self, name: str, known: Mapping[str, Any], past: Mapping[str, Any], n_rows: int) -> Any:
        """Before the first token, a cache or state has nothing in it."""
        value = self._inputs[name]
        if name in known:
            return known[name].astype(value.dtype, copy=False)
        if name in past:
            return past[name]
        return np.zeros(self._empty(name, value.shape, n_rows), dtype=value.dtype)

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
            raise Unsupported(f"{self._folder}: the size of the state '{name}' {list(shape)} is not told")
        return [n_rows, *(int(size) for size in shape[1:])]

    def _states(self) -> dict[str, str]:
        pairs = dict(_state_names(self._decoder))
        if not pairs:
            raise Unsupported(f"{self._folder / 'genai_config.json'} names no caches of a decoder")
        return {past % layer: present % layer for past, present in pairs.items() for layer in _layers(self._decoder)}


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
