"""What a comparison found, as a record that a journal, a table and a program read."""

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from olivine.kernels.divergence import Summary

# Mean KL divergence in nats below which a quantized model is called so; llama.cpp's Q8_0 lies at .001, Q4_K_M at .03.
BANDS = ((0.01, "excellent"), (0.05, "good"), (0.15, "usable"), (math.inf, "poor"))
RUNTIME_SHARE = 0.5  # of the weight error: above it, computing in int8 costs more than it should


def band(kl: float) -> str:
    """The word for a mean KL divergence in nats; "poor" for NaN."""
    return next((word for bound, word in BANDS if kl < bound), "poor")


@dataclass(frozen=True)
class Side:
    """One of the two models.

    format: "hf", "adapter", "onnx" or "gguf". run_as: what computed its logits. size_bytes: all files that it needs;
    bits_per_weight: of its weight files. The rest was measured in a process of its own, None when it was not:
    peak_memory_bytes is the largest resident set of that process, libraries included; the speeds are of one sequence,
    tokens a second. degenerate: what is broken about its output, or None.
    """

    path: str
    format: str
    run_as: str
    size_bytes: int
    n_parameters: int
    bits_per_weight: float
    load_seconds: float | None = None
    peak_memory_bytes: int | None = None
    prefill_tokens_per_second: float | None = None
    decode_tokens_per_second: float | None = None
    degenerate: str | None = None


@dataclass(frozen=True)
class Tokens:
    """What both models read. source: in words. seed: of the sampling, None for the user's text."""

    source: str
    n_windows: int
    n_tokens: int
    seed: int | None = None


@dataclass(frozen=True)
class Greedy:
    """Greedy text of both models after the same prompts.

    n_prompts prompts of prompt_tokens tokens were continued by new_tokens; common_prefix: for each prompt, how many
    tokens at the start are the same, where the reference's text ends at its end token. lengths: of those texts.
    """

    n_prompts: int
    prompt_tokens: int
    new_tokens: int
    common_prefix: tuple[int, ...]
    lengths: tuple[int, ...]

    @property
    def mean(self) -> float:
        """Mean common prefix in tokens."""
        return sum(self.common_prefix) / len(self.common_prefix)

    @property
    def n_same(self) -> int:
        """Prompts after which both write the same."""
        return sum(prefix == length for prefix, length in zip(self.common_prefix, self.lengths, strict=True))


@dataclass(frozen=True)
class Parity:
    """How close a candidate is to its reference.

    summary: candidate against reference. weights: the candidate's graph computed in float32 against the reference, so
    the error of its weights alone; runtime: the candidate as it runs against that, so the error of computing in int8.
    Both only for an ONNX candidate whose MatMulNBits nodes ask for another accuracy level than 1.
    """

    reference: Side
    candidate: Side
    tokens: Tokens
    summary: "Summary"
    greedy: Greedy | None = None
    weights: "Summary | None" = None
    runtime: "Summary | None" = None
    warnings: tuple[str, ...] = ()

    @property
    def verdict(self) -> str:
        """excellent, good, usable, poor; or degenerate, when the candidate is broken and the reference is not."""
        return "degenerate" if self.is_degenerate else band(self.summary.kl)

    @property
    def is_degenerate(self) -> bool:
        """Whether the candidate's output is broken in a way that the reference's is not."""
        return self.candidate.degenerate is not None and self.reference.degenerate is None

    def to_json(self) -> dict[str, Any]:
        """The comparison as JSON values: what parity.json and a journal hold."""
        greedy = asdict(self.greedy) | {"mean": self.greedy.mean, "n_same": self.greedy.n_same} if self.greedy else None
        return {
            "verdict": self.verdict,
            **self.summary.to_json(),
            "weights": self.weights.to_json() if self.weights else None,
            "runtime": self.runtime.to_json() if self.runtime else None,
            "greedy": greedy,
            "tokens": asdict(self.tokens),
            "reference": asdict(self.reference),
            "candidate": asdict(self.candidate),
            "warnings": list(self.warnings),
        }


@dataclass(frozen=True)
class Gate:
    """What a candidate must keep; None asks for nothing.

    A degenerate candidate never passes, nor does one of which nothing can be said because a model gives NaN.

    max_kld: mean KL divergence in nats. min_top1: share of positions with the same first token. min_prefix: shortest
    common prefix of greedy texts in tokens. The others are largest differences of logits.
    """

    max_kld: float | None = None
    min_top1: float | None = None
    min_prefix: int | None = None
    max_logit_error: float | None = None
    max_logits_above_0_1: int | None = None
    max_logits_above_0_01: int | None = None

    def missed(self, parity: Parity) -> list[str]:
        """A sentence for each thing that does not hold."""
        return list(self._missed(parity))

    def _missed(self, parity: Parity) -> Iterator[str]:
        if parity.is_degenerate:
            yield f"its output is degenerate: {parity.candidate.degenerate}"
        summary = parity.summary
        if math.isnan(summary.kl) and not parity.is_degenerate:
            yield f"no divergence can be computed: {_who_gives_nan(parity)}"
        # NaN is not at most anything
        if self.max_kld is not None and not summary.kl <= self.max_kld:
            mean_kl = "not a number" if math.isnan(summary.kl) else f"{summary.kl:.4g} nat"
            yield f"the mean KL divergence is {mean_kl}, but at most {self.max_kld:g} is allowed"
        if self.min_top1 is not None and summary.top1_agreement < self.min_top1:
            yield f"the same token comes first at {summary.top1_agreement:.1%}, but {self.min_top1:.1%} is asked for"
        if self.min_prefix is not None and parity.greedy and min(parity.greedy.common_prefix) < self.min_prefix:
            shortest = min(parity.greedy.common_prefix)
            yield f"greedy texts have {shortest} tokens in common at the start, but {self.min_prefix} are asked for"
        for name, allowed, measured in self._logits(summary):
            if allowed is not None and not measured <= allowed:
                yield f"{name} is {measured:.6g}, but at most {allowed:g} is allowed"

    def _logits(self, summary: "Summary") -> Iterator[tuple[str, float | None, float]]:
        yield "the largest difference of two logits", self.max_logit_error, summary.max_logit_error
        yield "the number of logits that differ by more than 0.1", self.max_logits_above_0_1, summary.n_logits_above_0_1
        yield (
            "the number of logits that differ by more than 0.01",
            self.max_logits_above_0_01,
            summary.n_logits_above_0_01,
        )


def _who_gives_nan(parity: Parity) -> str:
    sides = (("the reference", parity.reference), ("the candidate", parity.candidate))
    broken = [f"{name} has {side.degenerate}" for name, side in sides if side.degenerate and "NaN" in side.degenerate]
    return " and ".join(broken) or "it is not a number"
