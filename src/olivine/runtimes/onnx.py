"""The graph of an ONNX folder in onnxruntime, fed a piece at a time, its caches and states handed back to it."""

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from olivine import lazy
from olivine.models import Model
from olivine.runtimes import onnx_folder
from olivine.runtimes._base import Runtime, Tokens
from olivine.runtimes.decoder_inputs import DecoderInputs, Input
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
        inputs = [Input(one.name, _DTYPES.get(one.type, ""), one.shape) for one in self._session.get_inputs()]
        self._inputs = DecoderInputs(model.path, inputs)
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
        inputs = self._inputs
        feed = inputs.feed(given, self._n_fed, self._past)
        logits, *presents = self._session.run(["logits", *(inputs.presents[name] for name in inputs.pasts)], feed)
        self._past, self._n_fed = dict(zip(inputs.pasts, presents, strict=True)), self._n_fed + given.shape[1]
        return logits.astype(np.float32, copy=False)


def _session(model: Model, provider: str, accuracy_level: int | None) -> Any:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # several models take turns on the cores
    path = onnx_folder.file_of(model)
    if accuracy_level is None:
        return onnxruntime.InferenceSession(str(path), options, providers=[provider])
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(path.parent))
    return onnxruntime.InferenceSession(onnx_folder.at_level(model, accuracy_level), options, providers=[provider])
