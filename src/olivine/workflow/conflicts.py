"""Packages that bring the same modules and break each other when both are installed."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

# The CPU's, NVIDIA's and DirectML's; what stands at one place belongs together.
RUNTIMES = ("onnxruntime", "onnxruntime-gpu", "onnxruntime-directml")
GENAI = ("onnxruntime-genai", "onnxruntime-genai-cuda", "onnxruntime-genai-directml")


class Conflict(NamedTuple):
    """Packages of which one may stay, and the command that leaves it."""

    names: tuple[str, ...]
    fix: str

    def message(self, there: str = "") -> str:
        """What is wrong. there: " on the system 'x'"."""
        return f"{' and '.join(self.names)} are both installed{there} and break each other"


def conflicts(version: Callable[[str], str], *, has_nvidia: bool = False) -> Iterator[Conflict]:
    """Of an environment. version: of a package there, or "none". has_nvidia: decides which of them stays."""
    here = {name: number for name in (*RUNTIMES, *GENAI) if (number := version(name)) != "none"}
    for group in (RUNTIMES, GENAI):
        names = tuple(name for name in group if name in here)
        if len(names) > 1:
            kept = _kept(group, set(here), has_nvidia=has_nvidia)
            yield Conflict(names, f"Run: pip uninstall -y {' '.join(names)}; pip install {kept}=={here[kept]}")


def _kept(group: tuple[str, ...], here: set[str], *, has_nvidia: bool) -> str:
    """That which fits the other package where only one variant of that is here; else that which fits the machine."""
    other = GENAI if group is RUNTIMES else RUNTIMES
    only = [place for place, name in enumerate(other) if name in here]
    if len(only) == 1 and group[only[0]] in here:
        return group[only[0]]
    if has_nvidia and group[1] in here:
        return group[1]
    return next(name for name in group if name in here)
