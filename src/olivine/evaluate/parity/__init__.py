"""Two models compared on the same tokens: how far the candidate is from the reference, and what each costs to run.

compare ─ runtimes.open_model ─> Model ─ _tokens ─> windows of token ids
    │
    ├─ runtimes.process (a process for each model) ─> logits, a piece at a time ─> kernels.divergence
    └─ runtimes.process (a fresh one for each)     ─> load time, peak memory, speed
"""

from olivine.evaluate.parity._compare import Settings, common_prefix, compare, degenerate_sides, loops, remarks, sample
from olivine.evaluate.parity._file import TextFile
from olivine.evaluate.parity._record import BANDS, Gate, Parity, Side, Tokens, band
from olivine.evaluate.parity._tokens import read_windows
from olivine.runtimes.opening import open_model

__all__ = [
    "BANDS",
    "Gate",
    "Parity",
    "Settings",
    "Side",
    "TextFile",
    "Tokens",
    "band",
    "common_prefix",
    "compare",
    "degenerate_sides",
    "loops",
    "open_model",
    "read_windows",
    "remarks",
    "sample",
]
