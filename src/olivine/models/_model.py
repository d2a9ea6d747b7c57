"""The record of a model that flows from step to step: where it lies, what it is, what it was made from."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, Self

from olivine.paths import is_file

Format = Literal["hf", "gguf", "adapter", "onnx", "openvino", "script", "diffusers", "composite"]
GENAI_CONFIG = "genai_config.json"
ONNX_FILE = "onnx_file"  # the attribute of an ONNX model that names its graph where no genai_config.json does
OPENVINO_FILE = "openvino_file"  # the attribute of a model of OpenVINO that names its .xml file


@dataclass(frozen=True)
class Model:
    """A model on disk; nothing of it is loaded.

    format: how its files lie: "hf" a Hugging Face folder, "gguf" one GGUF file, "adapter" a PEFT folder, "onnx" a
      graph in a folder, with its external data, "openvino" an .xml file of layers with its .bin of weights, "script"
      a file whose function gives a module of torch, "diffusers" a part of a pipeline of diffusers, "composite" several
      models that are used together. `packaging` is another thing.
    path: the folder, or the GGUF file or script; of a composite, the folder of what belongs to all of its parts, or the
      path of the first part where there is no such folder.
    base: what the weights come from when they do not lie in `path`. For an adapter, the model that it adapts. For an
      "hf" folder, None when the folder has its own safetensors; otherwise the folder holds only config and tokenizer,
      and its weights are computed when read: of an adapter (the merge of it and its base) or of a GGUF file.
    task: the task of the Hugging Face hub; empty for a graph of which it is not known.
    trust_remote_code: the config allowed this model to bring its own Python.
    attributes: small facts that later steps need (precision, execution provider), and what the config says of how the
      input model is loaded and exported, see `olivine.models.scripted`; JSON values.
    parts: of a composite, each a model by itself, by its name and in order.
    """

    format: Format
    path: Path
    base: "Model | None" = None
    task: str = "text-generation"
    trust_remote_code: bool = False
    attributes: Mapping[str, Any] = field(default_factory=dict)
    parts: Mapping[str, "Model"] = field(default_factory=dict)

    @property
    def form(self) -> Format:
        """The format of what a pass works on: of a composite, that of its parts, graphs of ONNX among others aside.

        Such a graph waits for the others: it is what they become.
        """
        forms = dict.fromkeys(part.form for part in self.parts.values())
        return next((form for form in forms if form != "onnx" or len(forms) == 1), self.format)

    @property
    def packaging(self) -> Literal["plain", "genai"]:
        """Whether onnxruntime-genai loads it: a folder with the graph of a decoder, its tokenizer and its settings."""
        is_genai = self.format == "onnx" and ONNX_FILE not in self.attributes and is_file(self.path / GENAI_CONFIG)
        return "genai" if is_genai else "plain"

    @property
    def is_graph(self) -> bool:
        """Whether it is a graph that gives numbers and writes no text: of ONNX as it is, or of OpenVINO."""
        return self.format == "openvino" or (self.format == "onnx" and self.packaging == "plain")

    def to_json(self) -> dict[str, Any]:
        """JSON values only; the inverse of `from_json`."""
        return {
            "format": self.format,
            "path": str(self.path),
            "base": self.base.to_json() if self.base else None,
            "task": self.task,
            "trust_remote_code": self.trust_remote_code,
            "attributes": dict(self.attributes),
            **({"parts": {name: part.to_json() for name, part in self.parts.items()}} if self.parts else {}),
        }

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Self:
        """The record that `to_json` gave, with paths as they were written there."""
        base = record.get("base")
        return cls(
            format=record["format"],
            path=Path(record["path"]),
            base=cls.from_json(base) if base else None,
            task=record.get("task", "text-generation"),
            trust_remote_code=record.get("trust_remote_code", False),
            attributes=dict(record.get("attributes", {})),
            parts={name: cls.from_json(part) for name, part in record.get("parts", {}).items()},
        )

    def part(self, name: str) -> "Model":
        """The part of that name; a model that has no such part is meant as a whole."""
        return self.parts.get(name, self)

    def at(self, path: Path) -> Self:
        """The same model in another place."""
        return replace(self, path=path)
