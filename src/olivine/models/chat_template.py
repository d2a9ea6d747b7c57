"""The chat template of a model, as transformers would read it: from its files alone."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from olivine import lazy
from olivine.errors import ModelError
from olivine.models._model import Model
from olivine.paths import is_file

if TYPE_CHECKING:
    from olivine.models import gguf_header
else:
    gguf_header = lazy.module("olivine.models.gguf_header")

_MOST_BYTES = 64 * 2**20  # a tokenizer_config.json that lists every added token has a few


def read_chat_template(model: Model) -> str | None:
    """The text of the template; empty where the model has none, None where its files cannot be read here and now."""
    source = model
    while source.format == "adapter" and source.base and not is_file(source.path / "tokenizer_config.json"):
        source = source.base
    try:
        return _of_gguf(source.path) if source.format == "gguf" else _of_folder(source.path)
    except (OSError, ValueError, RecursionError, ModelError):  # loading the tokenizer says what is wrong
        return None


def _of_folder(folder: Path) -> str | None:
    """`chat_template.jinja` wins over the key of tokenizer_config.json, which may hold several by name."""
    own = folder / "chat_template.jinja"
    if is_file(own):
        return own.read_text(encoding="utf-8")
    config = folder / "tokenizer_config.json"
    if not is_file(config):
        return ""
    if config.stat().st_size > _MOST_BYTES:
        return None
    value = json.loads(config.read_text(encoding="utf-8"))
    return _default(value.get("chat_template") if isinstance(value, dict) else None)


def _default(template: Any) -> str:
    if isinstance(template, list):
        named = {item.get("name"): item.get("template") for item in template if isinstance(item, dict)}
        template = " ".join(str(named[name]) for name in ("default", "tool_use") if named.get(name))
    return template if isinstance(template, str) else ""


def _of_gguf(path: Path) -> str:
    return _default(gguf_header.GgufHeader.read(path).get("tokenizer.chat_template"))
