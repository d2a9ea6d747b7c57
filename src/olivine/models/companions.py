"""What lies beside the weights of a folder and is read long after them: wrong settings of tokenizer and generation.

A model of any vendor may come with odd files. What transformers, the model builder or the runtime would refuse after
the training is refused before it, from the files alone.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from types import NoneType
from typing import Any

from olivine.errors import ModelError
from olivine.models.json_files import is_file, read_object

# What makes a Hugging Face folder beside its weights; everything else in a user's folder stays theirs.
COMPANIONS = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
    "preprocessor_config.json",
    "processor_config.json",
)

SAMPLING: Mapping[str, tuple[float, float]] = {
    "temperature": (0, math.inf),
    "top_k": (0, math.inf),
    "top_p": (0, 1),
    "repetition_penalty": (0, math.inf),
}
"""Least and most of what decides how a token is drawn; the runtime refuses to generate beyond them."""

_TOKEN_IDS = ("bos_token_id", "eos_token_id", "pad_token_id")
_OBJECTS = ("special_tokens_map.json", "added_tokens.json", "vocab.json", "chat_template.json")
_TOKEN = (str, dict, NoneType)
_TOKENIZER_TYPES: Mapping[str, tuple[type, ...]] = {
    "model_max_length": (int, float, NoneType),
    "tokenizer_class": (str, NoneType),
    "chat_template": (str, list, dict, NoneType),
    "added_tokens_decoder": (dict, NoneType),
    **dict.fromkeys(("bos_token", "eos_token", "pad_token", "unk_token"), _TOKEN),
    **dict.fromkeys(("add_bos_token", "add_eos_token", "add_prefix_space"), (bool, NoneType)),
}
_PARSED_BYTES = (
    8 * 2**20
)  # tokenizer.json of a large vocabulary has more, which takes a second to parse: its end is read


def refuse_companions(folder: Path, config: Mapping[str, Any]) -> None:
    """ModelError for the first file beside the weights whose settings do not hold."""
    n_tokens = config.get("vocab_size")
    _refuse_generation(folder / "config.json", config, n_tokens)
    if is_file(path := folder / "generation_config.json"):
        _refuse_generation(path, read_object(path), n_tokens)
    for path in (folder / name for name in _OBJECTS):
        if is_file(path):
            read_object(path)
    if is_file(path := folder / "tokenizer_config.json"):
        _refuse_types(path, read_object(path))
    if is_file(path := folder / "tokenizer.json"):
        _refuse_tokenizer(path)


def _refuse_generation(path: Path, settings: Mapping[str, Any], n_tokens: Any) -> None:
    for key in _TOKEN_IDS:
        value = settings.get(key)
        ids = value if isinstance(value, list) else [] if value is None else [value]
        if wrong := [token for token in ids if type(token) is not int]:
            raise ModelError(f"{path}: {key} must be the id of a token, or a list of them, but holds {wrong[0]!r:.40}")
        if key == "eos_token_id" and type(n_tokens) is int:
            for token in ids:
                if not 0 <= token < n_tokens:
                    raise ModelError(f"{path}: {key} names the token {token}, but there are {n_tokens}, from 0 on")
    for key, (least, most) in SAMPLING.items():
        value = settings.get(key)
        if value is not None and not (type(value) in (int, float) and least <= value <= most):
            raise ModelError(f"{path}: {key} must be a number {span(least, most)}, but is {value!r:.40}")


def span(least: float, most: float) -> str:
    """The numbers between the two, in words."""
    return f"of at least {least}" if most == math.inf else f"from {least} to {most}"


def _refuse_types(path: Path, settings: Mapping[str, Any]) -> None:
    for key, types in _TOKENIZER_TYPES.items():
        value = settings.get(key)
        if not isinstance(value, types) or (isinstance(value, bool) and bool not in types):
            raise ModelError(f"{path}: {key} cannot be {value!r:.40}")


def _refuse_tokenizer(path: Path) -> None:
    """A tokenizer.json that is cut short, or is none."""
    if path.stat().st_size > _PARSED_BYTES:
        with path.open("rb") as file:
            file.seek(-64, 2)
            if not file.read().rstrip().endswith(b"}"):
                raise ModelError(f"{path} is damaged: it is cut short")
        return
    tokenizer = read_object(path)
    for key, kind in (("model", dict), ("added_tokens", list)):
        if not isinstance(tokenizer.get(key), kind):
            raise ModelError(f"{path} is damaged: it has no '{key}'")
