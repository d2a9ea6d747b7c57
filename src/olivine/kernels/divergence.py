"""How far one next-token distribution is from another: Kullback-Leibler divergence and agreement of the best token.

KL(p || q) = sum_v p_v (log p_v - log q_v), in nats, with p of the reference and q of the candidate; it is >= 0. Arrays
are [n_positions, n_vocabulary], one row a position.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Self

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
    """Log-probabilities of logits [..., n_vocabulary], in nats; shifted by the largest, so that exp() stays finite."""
    values = logits.astype(np.float32)
    values -= values.max(axis=-1, keepdims=True)
    values -= np.log(np.exp(values).sum(axis=-1, keepdims=True))
    return values


def divergence(reference: Floats, candidate: Floats, chunk: int = 256) -> Divergence:
    """Compare two arrays of log-probabilities [n_positions, n_vocabulary], in nats.

    chunk: positions that are worked on at a time: float32 copies of everything would not fit for large vocabularies.
    Stored float16 values are renormalised, so that rounding them does not look like divergence.
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


CLEAR_MARGIN = 0.1  # nats between the reference's two best tokens; below it rounding alone may swap them
N_TOP = 5  # best tokens of either model whose overlap is told
FLAT = 0.1  # nats: a best token that is no further above uniform does not stand out
CHUNK_VALUES = 2**21  # float32 values that are worked on at a time: temporaries stay near the caches
_LOG_OF_LARGEST = 700.0  # nats; beyond it exp() is no double

Numbers = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Positions:
    """What is kept of two models' logits at each position; every field is an array [n_positions].

    kl: KL(reference || candidate) in nats. reference_loss, candidate_loss: negative log-likelihood of the target token
    in nats. margin: log-probability of the reference's best token less that of its second, in nats. same_top: whether
    both put the same token first. top_overlap: share of the reference's five best tokens that are among the
    candidate's. logit_error: largest difference of two logits. n_above_0_1, n_above_0_01: logits that differ by more.
    reference_flat, candidate_flat: no token stands out, the best is within a tenth of a nat of uniform.
    reference_nan, candidate_nan: the logits hold NaN.
    """

    kl: Numbers
    reference_loss: Numbers
    candidate_loss: Numbers
    margin: Numbers
    same_top: Flags
    top_overlap: Numbers
    logit_error: Numbers
    n_above_0_1: Numbers
    n_above_0_01: Numbers
    reference_flat: Flags
    candidate_flat: Flags
    reference_nan: Flags
    candidate_nan: Flags

    @classmethod
    def joined(cls, parts: Sequence[Self]) -> Self:
        """All positions of all parts, in order. Raises ValueError when there is no part."""
        if not parts:
            raise ValueError("no positions to compare")
        names = [field.name for field in fields(cls)]
        return cls(**{name: np.concatenate([getattr(part, name) for part in parts]) for name in names})


def compare_logits(
    reference: Floats, candidate: Floats, targets: Sequence[int], chunk_values: int = CHUNK_VALUES
) -> Positions:
    """Compare logits [n_positions, n_vocabulary] of two models that read the same tokens.

    targets: the token that follows at each position. Worked through a few positions at a time, `chunk_values` logits,
    so that temporaries are a few megabytes whatever the shape. Raises ValueError when shapes or the number of targets
    differ.
    """
    if reference.shape != candidate.shape or len(reference) != len(targets):
        raise ValueError(
            f"shapes must be equal, but got {reference.shape} and {candidate.shape} for {len(targets)} targets"
        )
    chunk = max(1, chunk_values // reference.shape[-1])
    tokens = np.asarray(targets, dtype=np.int64)
    starts = range(0, len(reference), chunk)
    with np.errstate(invalid="ignore"):  # infinite logits of masked tokens, and NaN, which is reported as such
        return Positions.joined(
            [_compare(reference[s : s + chunk], candidate[s : s + chunk], tokens[s : s + chunk]) for s in starts]
        )


def _compare(reference: Floats, candidate: Floats, targets: npt.NDArray[np.int64]) -> Positions:
    """`compare_logits` of one chunk; each array of the chunk's size is used for several things, one after another."""
    p_logits, q_logits = reference.astype(np.float32), candidate.astype(np.float32)  # copies: they are changed below
    difference = p_logits - q_logits
    error = np.abs(difference)
    p_top, q_top = p_logits.max(axis=-1, keepdims=True), q_logits.max(axis=-1, keepdims=True)
    # best logits become 0, so that exp() neither overflows nor loses all of a row
    p_logits -= p_top
    q_logits -= q_top
    difference -= p_top - q_top  # still p_logits - q_logits
    p = np.exp(p_logits)
    p_sum, q_sum = p.sum(axis=-1, dtype=np.float64), np.exp(q_logits).sum(axis=-1, dtype=np.float64)
    # KL(p || q) = sum p (log p - log q), with log p = p_logits - log p_sum and p = exp(p_logits) / p_sum:
    # sum exp(p_logits) (p_logits - q_logits) / p_sum - log p_sum + log q_sum. A token that p excludes adds nothing.
    np.multiply(p, difference, out=difference, where=p > 0)
    difference[p == 0] = 0.0
    kl = difference.sum(axis=-1, dtype=np.float64) / p_sum - np.log(p_sum) + np.log(q_sum)
    rows = np.arange(len(targets))
    n_vocabulary = reference.shape[-1]
    return Positions(
        kl=np.maximum(kl, 0.0),  # it is >= 0, and tiny negative values are rounding; NaN stays
        reference_loss=np.log(p_sum) - p_logits[rows, targets],
        candidate_loss=np.log(q_sum) - q_logits[rows, targets],
        logit_error=np.fmax.reduce(error, axis=-1).astype(np.float64),
        n_above_0_1=(error > 0.1).sum(axis=-1).astype(np.float64),
        n_above_0_01=(error > 0.01).sum(axis=-1).astype(np.float64),
        # the best token's log-probability is -log(sum), as the best logit is 0 now; a uniform one's -log(n_vocabulary)
        reference_flat=-np.log(p_sum) < FLAT - np.log(n_vocabulary),
        candidate_flat=-np.log(q_sum) < FLAT - np.log(n_vocabulary),
        reference_nan=np.isnan(p_sum),
        candidate_nan=np.isnan(q_sum),
        **_tops(p_logits, q_logits),
    )


def _tops(reference: Floats, candidate: Floats) -> dict[str, Any]:
    """Margin and agreement of the best tokens of logits [n_positions, n_vocabulary], which are overwritten."""
    n_top = min(N_TOP, reference.shape[-1])
    values, best = _take_best(reference, n_top)
    _, other = _take_best(candidate, n_top)
    shared = (best[:, :, None] == other[:, None, :]).any(axis=-1)  # [n_positions, n_top]
    margin = values[:, 0] - values[:, 1] if n_top > 1 else np.zeros(len(values))
    return {
        "margin": margin.astype(np.float64),
        "same_top": best[:, 0] == other[:, 0],
        "top_overlap": shared.mean(axis=-1, dtype=np.float64),
    }


def _take_best(values: Floats, n_top: int) -> tuple[Floats, npt.NDArray[np.int64]]:
    """The `n_top` largest of each row and their columns, largest first, [n_rows, n_top]; taken out of `values`.

    A few scans cost less than a partition.
    """
    rows = np.arange(len(values))
    largest, columns = np.empty((len(values), n_top), values.dtype), np.empty((len(values), n_top), np.int64)
    for rank in range(n_top):
        columns[:, rank] = values.argmax(axis=-1)
        largest[:, rank] = values[rows, columns[:, rank]]
        values[rows, columns[:, rank]] = -np.inf
    return largest, columns


@dataclass(frozen=True)
class Summary:
    """Two models compared over all positions. Divergences and losses in nats, shares of 1.

    kl: mean of KL(reference || candidate); kl_standard_error: of that mean; kl_median ... kl_max: exact quantiles.
    top1_agreement: share of positions where both put the same token first, with its standard error; the same _clear
    where the reference's margin is above 0.1 nat (n_clear positions; None without any). top5_overlap: mean share of the
    reference's five best tokens among the candidate's. *_loss: mean negative log-likelihood; *_perplexity: exp of it.
    perplexity_ratio: candidate's by reference's; its standard error is that of paired differences, which is far smaller
    than the error of either perplexity. rms_probability_change: root mean square change of the target's probability.
    max_logit_error: largest difference of two logits; n_logits_above_*: how many differ by more than 0.1 and 0.01.
    """

    n_positions: int
    kl: float
    kl_standard_error: float
    kl_median: float
    kl_p90: float
    kl_p99: float
    kl_max: float
    top1_agreement: float
    top1_standard_error: float
    n_clear: int
    top1_agreement_clear: float | None
    top1_standard_error_clear: float | None
    top5_overlap: float
    reference_loss: float
    candidate_loss: float
    reference_perplexity: float
    candidate_perplexity: float
    perplexity_ratio: float
    perplexity_ratio_standard_error: float
    rms_probability_change: float
    max_logit_error: float
    n_logits_above_0_1: int
    n_logits_above_0_01: int

    def to_json(self) -> dict[str, float | int | None]:
        """The fields by name; a number that is not finite is None, as JSON has no such numbers."""
        return {
            name: None if isinstance(value, float) and not np.isfinite(value) else value
            for name, value in asdict(self).items()
        }


def summarize(positions: Positions) -> Summary:
    """The numbers of a report. A NaN at any position makes the mean NaN: half a broken model is a broken model."""
    clear = positions.margin > CLEAR_MARGIN
    change = positions.candidate_loss - positions.reference_loss
    agreement, agreement_error = _share(positions.same_top)
    agreement_clear, error_clear = _share(positions.same_top[clear]) if clear.any() else (None, None)
    quantiles = np.quantile(positions.kl, (0.5, 0.9, 0.99, 1.0))
    # exp(candidate's loss) / exp(reference's loss), from losses paired by position
    ratio = _exp(float(change.mean()))
    moved = np.exp(-positions.candidate_loss) - np.exp(-positions.reference_loss)  # of the target's probability
    return Summary(
        n_positions=len(positions.kl),
        kl=float(positions.kl.mean()),
        kl_standard_error=_standard_error(positions.kl),
        kl_median=float(quantiles[0]),
        kl_p90=float(quantiles[1]),
        kl_p99=float(quantiles[2]),
        kl_max=float(quantiles[3]),
        top1_agreement=agreement,
        top1_standard_error=agreement_error,
        n_clear=int(clear.sum()),
        top1_agreement_clear=agreement_clear,
        top1_standard_error_clear=error_clear,
        top5_overlap=float(positions.top_overlap.mean()),
        reference_loss=float(positions.reference_loss.mean()),
        candidate_loss=float(positions.candidate_loss.mean()),
        reference_perplexity=_exp(float(positions.reference_loss.mean())),
        candidate_perplexity=_exp(float(positions.candidate_loss.mean())),
        perplexity_ratio=ratio,
        # d exp(x) = exp(x) dx
        perplexity_ratio_standard_error=ratio * _standard_error(change),
        rms_probability_change=float(np.sqrt(np.mean(moved**2))),
        max_logit_error=float(np.fmax.reduce(positions.logit_error)),
        n_logits_above_0_1=int(positions.n_above_0_1.sum()),
        n_logits_above_0_01=int(positions.n_above_0_01.sum()),
    )


def _standard_error(values: Numbers) -> float:
    """The standard error of the mean, s / sqrt(n) for independent values; 0 for one value, which has no spread."""
    return float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else 0.0


def _share(flags: Flags) -> tuple[float, float]:
    """The share of true flags and its standard error, sqrt(p (1 - p) / n)."""
    share = float(flags.mean())
    return share, float(np.sqrt(share * (1 - share) / len(flags)))


def _exp(value: float) -> float:
    """The exponential; infinite where a double overflows, without numpy's warning. NaN stays NaN."""
    return float(np.exp(value)) if not value > _LOG_OF_LARGEST else float("inf")
