"""GGUF below an adapter: the file is read as a checkpoint, and the adapter stays on top of it."""

import shutil
from collections.abc import Mapping
from dataclasses import replace
from typing import ClassVar

from olivine.config.schema import DataConfig
from olivine.errors import Unsupported
from olivine.models import Model
from olivine.models.deciding import deciding_files
from olivine.models.facts import ModelFacts
from olivine.models.gguf import open_gguf
from olivine.passes._base import Pass
from olivine.work import Context, Estimate, Machine


class GgufBase(Pass):
    """Read config and tokenizer out of the GGUF file that an adapter is of; the adapter stays on top.

    The plan puts this step first when the input model is an adapter of a .gguf file. The result is that adapter, whose
    base is a Hugging Face folder without weights of its own: they are dequantized out of the file when they are read.
    """

    accepts: ClassVar[frozenset[str]] = frozenset({"adapter"})
    produces: ClassVar[str] = "adapter"
    libraries: ClassVar[tuple[str, ...]] = ("transformers", "gguf")

    def estimate(self, facts: ModelFacts, machine: Machine, data: Mapping[str, DataConfig]) -> Estimate:  # noqa: ARG002
        """The vocabulary in memory, the tokenizer and the adapter on disk."""
        return Estimate(memory_bytes=800_000_000, disk_bytes=60_000_000)

    def requires(self, model: Model) -> None:
        """An adapter of a GGUF file."""
        super().requires(model)
        if model.base is None or model.base.format != "gguf":
            raise Unsupported(f"pass '{self.name}' opens the GGUF file below an adapter, and this one's base is none")

    def run(self, model: Model, context: Context) -> Model:
        """Open the file into the step's folder, beside the adapter."""
        if model.base is None:
            raise ValueError("requires() lets none through without a base")
        folders = context.output / "adapter", context.output / "base"
        for name, path in deciding_files(model):
            (folders[0] / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, folders[0] / name)
        folders[1].mkdir()
        return replace(model, path=folders[0], base=open_gguf(model.base, folders[1]))
