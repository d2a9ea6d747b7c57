"""A model fed token by token or piece by piece, its attention cache kept: one class for each runtime."""

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

from olivine import lazy
from olivine.errors import Unsupported
from olivine.evaluate.parity import _graph
from olivine.models import Model
from olivine.models.loading import load_causal_lm

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import onnxruntime
    import torch
else:
    np, torch = lazy.module("numpy"), lazy.module("torch")
    onnxruntime = lazy.module("onnxruntime")

_DTYPES = {
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    "tensor(int64)": "int64",
    "tensor(int32)": "int32",
}


class Stepper(Protocol):
    """A loaded model. n_vocabulary: width of its logits. context_length: tokens that it reads at most."""

    n_vocabulary: int
    context_length: int
    device: str

    def feed(self, ids: Sequence[Sequence[int]], *, fresh: bool, last_only: bool = False) -> "npt.NDArray[np.float32]":
        """Logits [rows, ids, vocabulary] after each id, or after the last one only.

        All rows have one length and go on where they were; `fresh` forgets what was fed before.
        """


def open_stepper(model: Model, device: str | None, dtype: str, accuracy_level: int | None = None) -> Stepper:
    """Load a model. device: "cpu" or "cuda", None for a GPU where there is one; ONNX runs where it was built for."""
    if model.format == "onnx":
        return OnnxStepper(model, accuracy_level)
    return TorchStepper(model, device or torch_device(), dtype)


def torch_device() -> str:
    """The GPU where there is one."""
    return "cuda" if torch.cuda.is_available() else "cpu"


class TorchStepper:
    """A Hugging Face model or adapter in transformers."""

    def __init__(self, model: Model, device: str, dtype: str) -> None:
        self._model = load_causal_lm(model, dtype=dtype, device=device)
        self.device = device
        self._cache: Any = None
        config = self._model.config.get_text_config()
        self.n_vocabulary = int(config.vocab_size)
        self.context_length = int(getattr(config, "max_position_embeddings", 0) or 2**31)

    def feed(self, ids: Sequence[Sequence[int]], *, fresh: bool, last_only: bool = False) -> "npt.NDArray[np.float32]":
        """See Stepper."""
        with torch.inference_mode():
            given = torch.tensor(ids, device=self.device)
            cache = None if fresh else self._cache
            result = self._model(
                input_ids=given, past_key_values=cache, use_cache=True, logits_to_keep=1 if last_only else 0
            )
            self._cache = result.past_key_values
            logits: npt.NDArray[np.float32] = result.logits.float().cpu().contiguous().numpy()
            return logits


class OnnxStepper:
    """The graph of an ONNX folder in onnxruntime, its key and value caches handed back to it.

    accuracy_level: replaces that of every quantized product; the weights stay the files of the folder.
    """

    def __init__(self, model: Model, accuracy_level: int | None = None) -> None:
        self._path = _graph.file_of(model)
        provider = str(model.attributes["execution_provider"])
        self.device = provider.removesuffix("ExecutionProvider").lower()
        self._session = _session(model, provider, accuracy_level)
        config = json.loads((model.path / "genai_config.json").read_text(encoding="utf-8"))["model"]
        self.context_length = int(config["context_length"])
        self._presents = _presents(model, config["decoder"])
        self._empty = (1, int(config["decoder"]["num_key_value_heads"]), 0, int(config["decoder"]["head_size"]))
        self._inputs = {value.name: value for value in self._session.get_inputs()}
        self.n_vocabulary = int(config["vocab_size"])
        self._past: dict[str, Any] = {}
        self._n_fed = 0
        self._is_pruned = False

    def feed(self, ids: Sequence[Sequence[int]], *, fresh: bool, last_only: bool = False) -> "npt.NDArray[np.float32]":
        """See Stepper."""
        given = np.asarray(ids, dtype=np.int64)
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
        return self.feed(ids, fresh=False)

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
        """What an input of the graph is given; a cache is empty before the first token."""
        value = self._inputs[name]
        if name in known:
            return known[name].astype(_DTYPES[value.type], copy=False)
        if name in self._past:
            return self._past[name]
        if name not in self._presents or value.type not in _DTYPES:
            raise Unsupported(f"{self._path}: the graph wants the input '{name}' ({value.type}), which is not served")
        # [batch, heads, past length, head size]; a size that the graph only names is the config's
        sizes = [given if isinstance(given, int) else own for given, own in zip(value.shape, self._empty, strict=True)]
        return np.zeros([n_rows, sizes[1], 0, sizes[3]], dtype=_DTYPES[value.type])


def _session(model: Model, provider: str, accuracy_level: int | None) -> Any:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # several models take turns on the cores
    path = _graph.file_of(model)
    if accuracy_level is None:
        return onnxruntime.InferenceSession(str(path), options, providers=[provider])
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(path.parent))
    return onnxruntime.InferenceSession(_graph.at_level(model, accuracy_level), options, providers=[provider])


def _presents(model: Model, decoder: Any) -> dict[str, str]:
    """Name of a cache going in -> its name coming out, for every layer, as genai_config.json has them."""
    try:
        pairs = [
            (decoder["inputs"][f"past_{kind}_names"], decoder["outputs"][f"present_{kind}_names"])
            for kind in ("key", "value")
        ]
        n_layers = int(decoder["num_hidden_layers"])
    except KeyError as error:
        raise Unsupported(
            f"{model.path / 'genai_config.json'} names no {error} of a decoder with key and value caches"
        ) from None
    return {past % layer: present % layer for past, present in pairs for layer in range(n_layers)}
