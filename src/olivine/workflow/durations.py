"""How long steps took on this machine before, by which a plan foresees what a search takes.

A line for each step that was made, in `cache_dir/durations.jsonl`: nothing depends on it, and what was never made here
is not known.
"""

import json
import math
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from olivine.store.hashes import digest

FILE = "durations.jsonl"
_READ_BYTES = 256_000  # of the end of the file: some thousand steps
_N_LAST = 5  # of a kind, whose median counts


def note_duration(cache_dir: Path, kind: str, params: Mapping[str, Any], n_parameters: int, seconds: float) -> None:
    """Remember what a step took; a disk without room forgets it. kind: the pass, or "score" and a format."""
    line = {"kind": kind, "params": digest(dict(params)), "n_parameters": n_parameters, "seconds": round(seconds, 2)}
    with suppress(OSError), (cache_dir / FILE).open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


@dataclass(frozen=True)
class Durations:
    """What is remembered: kind, digest of params, parameters of the model, seconds."""

    lines: tuple[tuple[str, str, int, float], ...] = ()

    @classmethod
    def of(cls, cache_dir: Path) -> "Durations":
        """Those of a cache, the last ones; none where there is nothing to read."""
        try:
            with (cache_dir / FILE).open("rb") as file:
                size = file.seek(0, os.SEEK_END)
                file.seek(max(0, size - _READ_BYTES))
                texts = file.read().decode("utf-8", errors="replace").splitlines()
        except OSError:
            return cls()
        return cls(tuple(line for text in texts if (line := _read(text)) is not None))

    def seconds(self, kind: str, params: Mapping[str, Any], n_parameters: int) -> float | None:
        """What such a step takes, with these params if they were used, else with others; None: it is not known.

        Of a larger model, as much longer as it is larger; of a smaller one, as long: much of a step is its beginning.
        """
        of_kind = [line for line in self.lines if line[0] == kind]
        own = digest(dict(params))
        same = [line for line in of_kind if line[1] == own] or of_kind
        import statistics

        taken = [seconds * max(1.0, n_parameters / max(1, n_then)) for _, _, n_then, seconds in same[-_N_LAST:]]
        return statistics.median(taken) if taken else None


def _read(text: str) -> tuple[str, str, int, float] | None:
    """A line of the file; None for one that was cut, or is damaged."""
    try:
        line = json.loads(text)
        n_parameters, seconds = int(line["n_parameters"]), float(line["seconds"])
        kind, params = str(line["kind"]), str(line["params"])
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
        return None
    return (kind, params, n_parameters, seconds) if 0 <= seconds < math.inf else None
