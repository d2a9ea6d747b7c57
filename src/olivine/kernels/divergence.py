"""How far one next-token distribution is from another: Kullback-Leibler divergence and agreement of the best token."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating]


@dataclass(frozen=True)
class Divergence:
    """Per-position results summed up.

    mean: of KL(reference || candidate) over the positions, in nats. standard_error: of that mean (0 for one position).
    top1_agreement: share of positions where both put the same token first. n_positions: how many.
    """

    mean: float
    standard_error: float
    top1_agreement: float
    n_positions: int


def log_softmax(logits: Floats) -> npt.NDArray[np.float32]:
    """Log-probabilities along the last axis, in nats; shifted by the maximum, so large logits do not overflow."""
    values = logits.astype(np.float32)
    values -= values.max(axis=-1, keepdims=True)
    values -= np.log(np.exp(values).sum(axis=-1, keepdims=True))
    return values


def divergence(reference: Floats, candidate: Floats, chunk: int = 256) -> Divergence:
    """Compare two arrays of log-probabilities [positions, vocabulary] in nats.

    Worked through in chunks of positions: float32 copies of everything would not fit for large vocabularies. Stored
    float16 values are renormalised, so that rounding them does not look like divergence.
    """
    if reference.shape != candidate.shape:
        raise ValueError(f"shapes must be equal, but got {reference.shape} and {candidate.shape}")
    n_positions = reference.shape[0]
    if n_positions == 0:
        raise ValueError("no positions to compare")
    kl = np.empty(n_positions, dtype=np.float64)
    same = np.empty(n_positions, dtype=bool)
    for start in range(0, n_positions, chunk):
        rows = slice(start, start + chunk)
        p, q = log_softmax(reference[rows]), log_softmax(candidate[rows])
        # KL(p || q) = sum p (log p - log q); it is >= 0, and tiny negative values are rounding
        kl[rows] = np.maximum((np.exp(p) * (p - q)).sum(axis=-1, dtype=np.float64), 0.0)
        same[rows] = p.argmax(axis=-1) == q.argmax(axis=-1)
    error = float(kl.std(ddof=1) / np.sqrt(n_positions)) if n_positions > 1 else 0.0
    return Divergence(float(kl.mean()), error, float(same.mean()), n_positions)
