"""The tokenizer of a folder as onnxruntime-genai reads it, once its file is known to be one that the runtime can read.

The runtime looks for the merges of a tokenizer.json without asking whether there are any. In a file that has none
(WordLevel, WordPiece) it reads the memory behind, which now and then ends the process; and over a first merge that is
written as one text and empty, or begins with '#', it never gets on (docs/decisions/0008).
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from olivine import lazy

if TYPE_CHECKING:
    import onnxruntime_genai
else:
    onnxruntime_genai = lazy.module("onnxruntime_genai")


class TokenizerRefusedError(RuntimeError):
    """The runtime does not read the tokenizer of a folder; says why. A RuntimeError, as all that the runtime raises."""


def open_tokenizer(folder: Path) -> Any:
    """The runtime's tokenizer of a model folder, without its model; TokenizerRefusedError where it reads none."""
    if (why := _unread(folder)) is not None:
        raise TokenizerRefusedError(why)
    try:
        return onnxruntime_genai.Tokenizer(str(folder))
    except RuntimeError as error:
        raise TokenizerRefusedError(str(error)) from error


def _unread(folder: Path) -> str | None:
    """Why the runtime must not be given the folder's tokenizer.json; what it refuses by itself is left to it."""
    try:
        config = json.loads((folder / "genai_config.json").read_text(encoding="utf-8"))
        place = folder / str(config["model"].get("tokenizer_dir", ""))
        model = json.loads((place / "tokenizer.json").read_text(encoding="utf-8"))["model"]
        kind, vocabulary, merges = model.get("type", "BPE"), model.get("vocab"), model.get("merges", ())
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return None
    if isinstance(vocabulary, list):
        is_whole = all(isinstance(entry, list) and len(entry) == 2 for entry in vocabulary)
        return None if is_whole else "its tokenizer.json is damaged: a token has no score"
    if missing := [part for part in ("vocab", "merges") if part not in model]:
        return f"its tokenizer.json ({kind}) has no {missing[0]}, and the runtime reads BPE and Unigram only"
    texts = [merge.rstrip("\r") for merge in merges or () if isinstance(merge, str)]
    if not all(texts) or (texts and texts[0].startswith("#")):
        return "the runtime never gets past a merge of its tokenizer.json that is empty, or begins with '#'"
    return None
