"""What is wanted of a measured number: its direction, how much it matters, and the value that it has to reach."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from olivine.errors import RequestError

GoalKind = Literal[
    "threshold", "min-improvement", "percent-min-improvement", "max-degradation", "percent-max-degradation"
]
_ROUNDING = 1e-9  # of the bound: 0.9 - 0.03 and a measured 0.87 are the same number


@dataclass(frozen=True)
class Verdict:
    """Whether a measured value meets a goal.

    bound: what had to be reached. margin: by how much the value is better than that, in its own unit; negative when the
    goal is missed, minus infinity for a value that is no number.
    """

    is_met: bool
    bound: float
    margin: float

    @property
    def shortfall(self) -> float:
        """How far the goal is missed, as a share of its bound (of 1 when that is 0); 0 when it is met.

        Shares of goals in other units compare.
        """
        return 0.0 if self.is_met else -self.margin / (abs(self.bound) or 1.0)


@dataclass(frozen=True)
class Goal:
    """The value that a number must reach.

    threshold: the value itself. The others count from the baseline, what the input model has: at least that much better
    (min-improvement), at most that much worse (max-degradation), in the number's unit or in percent of the baseline's
    size.
    """

    kind: GoalKind
    value: float

    def __post_init__(self) -> None:
        if not math.isfinite(self.value) or (self.kind != "threshold" and self.value < 0):
            raise RequestError(f"a goal '{self.kind}' takes a number from 0 on, but got {self.value}")

    @property
    def is_relative(self) -> bool:
        """Whether it counts from a baseline."""
        return self.kind != "threshold"

    def bound(self, *, higher_is_better: bool, baseline: float | None) -> float:
        """The value to be reached. RequestError when it counts from a baseline that is not there."""
        if not self.is_relative:
            return self.value
        if baseline is None or not math.isfinite(baseline):
            raise RequestError(f"a goal '{self.kind}' counts from a baseline, which was not measured")
        change = self.value / 100 * abs(baseline) if self.kind.startswith("percent-") else self.value
        is_upwards = self.kind.endswith("improvement") == higher_is_better
        return baseline + change if is_upwards else baseline - change

    def verdict(self, value: float, *, higher_is_better: bool, baseline: float | None = None) -> Verdict:
        """Whether the value meets the goal, and by which margin; a value that equals the bound does."""
        bound = self.bound(higher_is_better=higher_is_better, baseline=baseline)
        if math.isnan(value):
            return Verdict(is_met=False, bound=bound, margin=-math.inf)
        margin = value - bound if higher_is_better else bound - value
        return Verdict(is_met=margin >= -_ROUNDING * max(abs(bound), _ROUNDING), bound=bound, margin=margin)


@dataclass(frozen=True)
class Objective:
    """One number that is made better.

    priority: 1 is looked at first, where one result has to be chosen. goal: without one, better is all that is asked.
    baseline: the number of the input model, which relative goals count from.
    """

    name: str
    higher_is_better: bool
    priority: int = 1
    goal: Goal | None = None
    baseline: float | None = None

    def verdict(self, values: Mapping[str, float]) -> Verdict | None:
        """What the goal says of measured values; None without a goal. A value that is not there misses it."""
        if self.goal is None:
            return None
        value = values.get(self.name, math.nan)
        return self.goal.verdict(value, higher_is_better=self.higher_is_better, baseline=self.baseline)

    def merit(self, values: Mapping[str, float]) -> float:
        """The value turned so that more is better; minus infinity when it is no number or not there."""
        value = values.get(self.name, math.nan)
        if math.isnan(value):
            return -math.inf
        return value if self.higher_is_better else -value
