"""Which modules an adapter trains."""

import difflib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from olivine.models.facts import ModelFacts
from olivine.patterns import compiles

MATRIX = 2  # dimensions

_PATTERN = re.compile(r"[*+?|()\[\]{}^$\\]")


def as_list(targets: str | Sequence[str] | None) -> list[str] | None:
    """Names of modules; a string with commas is several, "all-linear" and None are every linear layer (None).

    A string with the signs of a regular expression is one pattern, commas included.
    """
    if isinstance(targets, str):
        targets = [targets] if is_pattern(targets) else [name.strip() for name in targets.split(",") if name.strip()]
    if targets is None or list(targets) == ["all-linear"]:
        return None
    return list(targets)


def is_pattern(target: str) -> bool:
    r"""Whether it is a regular expression over whole names, such as `.*layers\.0\..*(q|v)_proj`."""
    return _PATTERN.search(target) is not None


def broken_patterns(targets: Iterable[str]) -> list[str]:
    """The patterns that are no regular expression."""
    return [target for target in targets if is_pattern(target) and not compiles(target)]


def unmatched(targets: Iterable[str], names: Sequence[str]) -> list[str]:
    """The targets that match no module: neither the end of a name nor, as a pattern, the whole of it."""
    return [target for target in targets if not any(_matches(target, name) for name in names)]


@dataclass(frozen=True)
class Modules:
    """The full names of a model's modules, told by those of its tensors; what has none is not among them.

    trainable: those that take an adapter: linear layers and the embedding. every: all of them, and what they are in.
    """

    trainable: tuple[str, ...]
    every: tuple[str, ...]

    @staticmethod
    def of(facts: ModelFacts) -> "Modules | None":
        """None where tensors do not tell the modules: no header was read, or experts lie in one module together."""
        shapes = facts.shapes
        if not shapes or any(".experts." in name for name in shapes):
            return None
        trainable = [
            name.removesuffix(".weight")
            for name, shape in shapes.items()
            if name.endswith(".weight") and len(shape) == MATRIX
        ]
        trainable += ["lm_head"] if "lm_head" not in trainable else []
        every = dict.fromkeys(trainable)
        for name in shapes:
            inner = name
            while "." in inner:
                inner = inner.rpartition(".")[0]
                every[inner] = None
        return Modules(tuple(trainable), tuple(every))


def unmatched_leaves(targets: Iterable[str], leaves: Sequence[str]) -> list[str]:
    """The same where only the last parts of names are known; patterns need whole names and are not judged."""
    return [target for target in targets if not is_pattern(target) and target.rpartition(".")[2] not in leaves]


def chooses(targets: Sequence[str] | None, excluded: Sequence[str], name: str) -> bool:
    """Whether a layer of that full name is trained; targets None: every one that is not excluded."""
    is_target = targets is None or any(_matches(target, name) for target in targets)
    return is_target and not any(_matches(target, name) for target in excluded)


def for_peft(targets: Sequence[str]) -> list[str] | str:
    """As PEFT reads them: a list of names, or one regular expression when there is a pattern among them."""
    if not any(map(is_pattern, targets)):
        return list(targets)
    return "|".join(f"(?:{target})" if is_pattern(target) else rf"(?:.*\.)?{re.escape(target)}" for target in targets)


def sentence(missing: Sequence[str], names: Sequence[str], key: str = "target_modules") -> str:
    """What to say of targets that match nothing: the nearest names, and all that there are."""
    leaves = sorted({leaf for name in names if not (leaf := name.rpartition(".")[2]).isdigit()})
    close = [match for target in missing for match in difflib.get_close_matches(target, leaves, n=2, cutoff=0.5)]
    hint = f"; did you mean {', '.join(repr(name) for name in dict.fromkeys(close))}?" if close else "."
    return f"{key} {', '.join(map(repr, missing))} match no layer{hint} The model has: {', '.join(leaves)}"


def _matches(target: str, name: str) -> bool:
    if is_pattern(target):
        return re.fullmatch(target, name) is not None
    return name == target or name.endswith(f".{target}")
