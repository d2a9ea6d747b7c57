"""A GGUF file as a checkpoint: its config and tokenizer as transformers converts them, its weights where they are."""

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from olivine.errors import Unsupported
from olivine.models._model import Model
from olivine.models.gguf_header import GgufHeader
from olivine.models.inspect import GGUF_ARCHITECTURES

_log = logging.getLogger(__name__)


def open_gguf(model: Model, folder: Path) -> Model:
    """Write config.json, generation_config.json and the tokenizer's files of a GGUF model into `folder`.

    The result is a Hugging Face folder whose weights are dequantized out of the file when they are read; its config
    has no `quantization_config`. Raises Unsupported where transformers cannot read config or tokenizer.
    """
    from transformers import AutoTokenizer

    _log.info("reading config and tokenizer out of %s, %.0f MB", model.path.name, model.path.stat().st_size / 1e6)
    with _readable(model.path):
        tokenizer = AutoTokenizer.from_pretrained(model.path.parent, **_where(model.path))
    tokenizer.save_pretrained(folder)
    _write(gguf_config(model.path), folder / "config.json")
    names = ("bos_token_id", "eos_token_id", "pad_token_id")
    tokens = {name: getattr(tokenizer, name) for name in names}
    _write({name: token for name, token in tokens.items() if token is not None}, folder / "generation_config.json")
    return Model("hf", folder, base=model, task=model.task)


def readable(model: Model, scratch: Path) -> Model:
    """The same model with a GGUF file, or one below an adapter, opened: its config and tokenizer go into `scratch`."""
    if model.format == "adapter" and model.base is not None:
        base = readable(model.base, scratch)
        return model if base is model.base else replace(model, base=base)
    if model.format != "gguf":
        return model
    folder = scratch / f"gguf-{len(list(scratch.iterdir()))}"
    folder.mkdir()
    return open_gguf(model, folder)


def _write(record: dict[str, Any], path: Path) -> None:
    path.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


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
