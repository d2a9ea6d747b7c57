"""GGUF: a llama.cpp file as an input model like any other."""

from collections.abc import Mapping
from typing import ClassVar

from olivine.config.schema import DataConfig
from olivine.models import Model
from olivine.models.facts import ModelFacts
from olivine.models.gguf import open_gguf
from olivine.passes._base import Pass, PassParams
from olivine.work import Context, Estimate, Machine


class Gguf(Pass):
    """Read config and tokenizer out of a GGUF file; its weights stay there and are dequantized when read.

    The plan puts this step first when the input model is a .gguf file. The result is a Hugging Face folder without
    weights of its own: tokenizer and chat template as transformers converts them, a config without
    `quantization_config`.
    """

    aliases: ClassVar[tuple[str, ...]] = ()
    Params: ClassVar[type[PassParams]] = PassParams
    accepts: ClassVar[frozenset[str]] = frozenset({"gguf"})
    produces: ClassVar[str] = "hf"
    is_usual_way: ClassVar[bool] = True
    libraries: ClassVar[tuple[str, ...]] = ("transformers", "gguf")
    modules: ClassVar[Mapping[str, str]] = {}

    def estimate(self, facts: ModelFacts, machine: Machine, data: Mapping[str, DataConfig]) -> Estimate:  # noqa: ARG002
        """The vocabulary in memory, the tokenizer on disk."""
        return Estimate(memory_bytes=800_000_000, disk_bytes=20_000_000)

    def run(self, model: Model, context: Context) -> Model:
        """Open the file into the step's folder."""
        return open_gguf(model, context.output)
