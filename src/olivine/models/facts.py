"""What is known of a model before anything is loaded: from config.json, a GGUF header or an ONNX header alone."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from olivine.errors import Unsupported
from olivine.models.signature import Signature

UNNAMED = "unknown"  # the architecture of a config.json that names none

Kind = Literal[
    "decoder",
    "encoder",
    "vision",
    "audio",
    "encoder-decoder",
    "image-text",
    "graph",
    "script",
    "diffusion",
    "composite",
]
"""What a model reads and gives, by architecture; a graph is an ONNX model that only its signature tells of, a script
gives a module of which nothing else is known, diffusion is a part of a pipeline, and a composite has parts, each of a
kind of its own."""

_IN_WORDS: Mapping[Kind, str] = {
    "decoder": "a decoder",
    "encoder": "a text encoder",
    "vision": "a vision model",
    "audio": "an audio model",
    "encoder-decoder": "an encoder-decoder",
    "image-text": "a model of images and texts",
    "graph": "an ONNX graph",
    "script": "a module that a script gives",
    "diffusion": "a part of a diffusion pipeline",
    "composite": "a model of several parts",
}


def words(kinds: Collection[Kind]) -> str:
    """Kinds for a sentence, e.g. "a decoder or an audio model"."""
    return " or ".join(said for kind, said in _IN_WORDS.items() if kind in kinds)


@dataclass(frozen=True)
class DecoderFacts:
    """What only a decoder of text has; the fields are those of transformers' configs.

    linear_modules: leaf names of its linear layers, e.g. ("q_proj", "k_proj", ...) or ("qkv_proj", ...).
    """

    hidden_size: int
    n_layers: int
    vocab_size: int
    intermediate_size: int = 0
    context_length: int = 0
    tied_embeddings: bool = False
    linear_modules: tuple[str, ...] = ()

    @property
    def embedding_size(self) -> int:
        """Weights of the embedding; the head has as many."""
        return self.vocab_size * self.hidden_size


@dataclass(frozen=True)
class ModelFacts:
    """Shapes and sizes that checks and estimates need, and what kind of model it is.

    architecture: "LlamaForCausalLM" ... as in config.json; of an ONNX file the name of its graph. decoder: None for
    every other kind of model. task: the hub's name of what the model is for. labels: of a classifier, in the order of
    its outputs; empty where they are not known. signature: inputs and outputs, None where they are not known.
    bytes_per_weight: of the checkpoint as it lies on disk. weight_bytes: size of the checkpoint's files; 0 when not
    known. path: where it lies, None when not local. shapes: of the checkpoint's tensors by name; empty where no header
    tells them by the names of transformers, or of the ONNX file. config: the content of config.json, for what single
    passes ask of it; empty for a GGUF file. parts: of a composite, by name.
    is_told: the config says itself what goes in and comes out (io_config), so that it is one graph that is meant.
    """

    architecture: str
    n_parameters: int
    decoder: DecoderFacts | None = None
    kind: Kind = "decoder"
    task: str = "text-generation"
    labels: tuple[str, ...] = ()
    signature: Signature | None = None
    bytes_per_weight: float = 2.0
    weight_bytes: int = 0
    path: Path | None = None
    config: Mapping[str, Any] = field(default_factory=dict)
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    parts: Mapping[str, "ModelFacts"] = field(default_factory=dict)
    is_told: bool = False

    def as_graph(self, signature: Signature | None, bytes_per_weight: float) -> "ModelFacts":
        """The facts of a graph of this model."""
        return replace(
            self,
            kind="graph",
            decoder=None,
            signature=signature,
            bytes_per_weight=bytes_per_weight,
            weight_bytes=int(bytes_per_weight * self.n_parameters),
            shapes={},
        )

    @property
    def as_decoder(self) -> DecoderFacts:
        """The facts of a decoder; raises Unsupported, which says what the model is, for another kind."""
        if self.decoder is None:
            raise Unsupported(f"the model is {self.in_words}, not a decoder of text")
        return self.decoder

    @property
    def n_in_layers(self) -> int:
        """Weights of a decoder outside of its embedding and, where it has one of its own, its head."""
        decoder = self.as_decoder
        return max(0, self.n_parameters - decoder.embedding_size * (1 if decoder.tied_embeddings else 2))

    @property
    def in_words(self) -> str:
        """E.g. "a text encoder for text-classification with 3 labels (BertForSequenceClassification)"."""
        if self.parts:
            names = ", ".join(f"'{name}'" for name in self.parts)
            return f"a model of the parts {names}"
        use = f" for {self.task}" if self.task and self.kind != "graph" else ""
        labels = f" with {len(self.labels)} labels" if self.labels else ""
        return f"{_IN_WORDS[self.kind]}{use}{labels} ({self.architecture})"
