"""Which modules an adapter trains."""

import difflib
import re
from collections.abc import Iterable, Sequence


def as_list(targets: str | Sequence[str] | None) -> list[str] | None:
    """Names of modules; a string with commas is several, "all-linear" and None are every linear layer (None)."""
    if targets is None or targets == "all-linear":
        return None
    if isinstance(targets, str):
        return [name.strip() for name in targets.split(",") if name.strip()]
    return list(targets)


def unmatched(targets: Iterable[str], names: Sequence[str]) -> list[str]:
    """The targets that match no module: neither the end of a name nor, as a pattern, the whole of it."""
    return [target for target in targets if not any(_matches(target, name) for name in names)]


def _matches(target: str, name: str) -> bool:
    if name == target or name.endswith(f".{target}"):
        return True
    return bool(re.search(r"[*+?|()\[\]^$\\]", target)) and re.fullmatch(target, name) is not None


def sentence(missing: Sequence[str], names: Sequence[str]) -> str:
    """What to say of targets that match nothing: the nearest names, and all that there are."""
    leaves = sorted({name.rpartition(".")[2] for name in names})
    close = [match for target in missing for match in difflib.get_close_matches(target, leaves, n=2, cutoff=0.5)]
    hint = f"; did you mean {', '.join(repr(name) for name in dict.fromkeys(close))}?" if close else "."
    return f"target_modules {', '.join(map(repr, missing))} match no layer{hint} The model has: {', '.join(leaves)}"
