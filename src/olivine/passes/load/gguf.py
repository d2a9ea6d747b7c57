"""GGUF: a llama.cpp file as an input model like any other."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

from olivine.config.schema import DataConfig
from olivine.errors import Unsupported
from olivine.models import Model
from olivine.models.facts import ModelFacts
from olivine.models.gguf_header import GgufHeader
from olivine.models.inspect import GGUF_ARCHITECTURES
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
        """Write config.json, generation_config.json and the tokenizer's files."""
        from transformers import AutoTokenizer

        with _readable(model.path):
            tokenizer = AutoTokenizer.from_pretrained(model.path.parent, **_where(model.path))
        tokenizer.save_pretrained(context.output)
        record = gguf_config(model.path)
        (context.output / "config.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
        ends = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
        ends["pad_token_id"] = tokenizer.pad_token_id
        generation = {key: value for key, value in ends.items() if value is not None}
        text = json.dumps(generation, indent=2) + "\n"
        (context.output / "generation_config.json").write_text(text, encoding="utf-8")
        return Model("hf", context.output, base=model, task=model.task)


def gguf_config(path: Path) -> dict[str, Any]:
    """The config of a checkpoint of the file's model; raises Unsupported where transformers cannot tell."""
    from transformers import AutoConfig

    with _readable(path):
        config = AutoConfig.from_pretrained(path.parent, **_where(path))
    return _plain(config.to_dict(), _architecture(path))


def _where(path: Path) -> dict[str, Any]:
    return {"gguf_file": path.name, "trust_remote_code": False}


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except (ValueError, KeyError, NotImplementedError) as error:
        raise Unsupported(f"{path}: transformers cannot read its config or tokenizer: {error}") from error


def _architecture(path: Path) -> str:
    name = GgufHeader.read(path).architecture
    if name not in GGUF_ARCHITECTURES:
        raise Unsupported(
            f"{path} is of the architecture '{name}'; GGUF files are read of {', '.join(GGUF_ARCHITECTURES)}"
        )
    return GGUF_ARCHITECTURES[name]


def _plain(config: dict[str, Any], architecture: str) -> dict[str, Any]:
    """The config as a checkpoint of its own would hold it."""
    for key in ("quantization_config", "_name_or_path", "_model_name_or_path"):
        config.pop(key, None)
    config["dtype"] = "float32"
    if not config.get("architectures"):
        config["architectures"] = [architecture]
    return config
