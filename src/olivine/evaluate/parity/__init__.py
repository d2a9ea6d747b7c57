"""Two models compared on the same tokens: how far the candidate is from the reference, and what each costs to run.

compare ─ _models.open_model ─> Model ─ _tokens ─> windows of token ids
    │
    ├─ _process.Runner (a process for each model) ─> logits, a piece at a time ─> kernels.divergence
    └─ _process.Runner (a fresh one for each)     ─> load time, peak memory, speed
"""

from olivine.evaluate.parity._compare import Settings, compare, sample
from olivine.evaluate.parity._models import open_model
from olivine.evaluate.parity._record import BANDS, Gate, Parity, Side, Tokens
from olivine.evaluate.parity._tokens import config_of, read_windows

__all__ = [
    "BANDS",
    "Gate",
    "Parity",
    "Settings",
    "Side",
    "Tokens",
    "compare",
    "config_of",
    "open_model",
    "read_windows",
    "sample",
]
