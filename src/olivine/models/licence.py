"""The licence of a model, as its own files say it."""

import re
from pathlib import Path
from typing import TYPE_CHECKING

from olivine import lazy
from olivine.errors import ModelError

if TYPE_CHECKING:
    from olivine.models import gguf_header
else:
    gguf_header = lazy.module("olivine.models.gguf_header")

_MOST_BYTES = 64 * 2**10  # of a model card that are looked at
_FRONT = re.compile(r"\A---\s*\n(.*?)\n---\s*$", re.DOTALL | re.MULTILINE)
_LICENCE = re.compile(r"^license:\s*['\"]?([A-Za-z0-9._-]+)['\"]?\s*$", re.MULTILINE)


def licence_of(path: Path) -> str | None:
    """The hub's identifier of the licence ("apache-2.0"): of a folder from its card, of a GGUF file from its header.

    None where neither says.
    """
    return _of_card(path / "README.md") if path.is_dir() else _of_gguf(path)


def _of_card(card: Path) -> str | None:
    try:
        with card.open("rb") as file:
            text = file.read(_MOST_BYTES).decode("utf-8", errors="replace")
    except OSError:
        return None
    front = _FRONT.match(text.replace("\r\n", "\n"))
    said = _LICENCE.search(front[1]) if front else None
    return said[1].lower() if said else None


def _of_gguf(path: Path) -> str | None:
    try:
        said = gguf_header.GgufHeader.read(path).get("general.license")
    except ModelError:
        return None
    return said.strip().lower() if isinstance(said, str) and said.strip() else None
