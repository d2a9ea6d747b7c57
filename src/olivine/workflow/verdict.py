"""Whether models keep what a config asks of them: a pure function of scores and goals."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from olivine.errors import RequestError
from olivine.search.objectives import Goal
from olivine.workflow.events import Scored

# A drop of exactly the allowed share is allowed, whatever binary fractions make of it.
_ROUNDING = 5e-7
_SHARES = frozenset({"label_accuracy", "top1_agreement"})  # told in points and percent


@dataclass(frozen=True)
class Keep:
    """What one metric must be at every seam.

    goal: of search; relative ones count from the model before, or from the base (`since`). setting: the key of the
    config that says so.
    """

    metric: str
    goal: Goal
    higher_is_better: bool
    setting: str
    since: Literal["previous", "base"] = "previous"


def drop_allowed(value: float | str | None) -> float | None:
    """quality.max_drop as a share of 1: 0.03, "3pp" and "3%" are three points; None when there is no goal."""
    if value is None:
        return None
    if isinstance(value, str):
        number = value.strip().removesuffix("pp").removesuffix("%").strip()
        try:
            share = float(number) / 100 if number != value.strip() else float(number)
        except ValueError:
            raise RequestError(f"quality.max_drop '{value}' is no number; write 0.03, '3pp' or '3%'") from None
    else:
        share = value
    if not 0 <= share <= 1:
        raise RequestError(f"quality.max_drop {value} is not between 0 and 1; 0.03 and '3pp' are three points")
    return share


def goals(max_drop: float | str | None) -> list[Keep]:
    """What quality.max_drop is the short form of: label accuracy falls by no more than that from model to model."""
    share = drop_allowed(max_drop)
    if share is None:
        return []
    return [Keep("label_accuracy", Goal("max-degradation", share), higher_is_better=True, setting="quality.max_drop")]


def missed(scored: Sequence[Scored], kept: Iterable[Keep]) -> Iterator[str]:
    """A sentence for each model that broke where the one before it had not, and for each goal that it misses."""
    kept, by_model = list(kept), {one.model: one for one in scored}
    for one in scored:
        previous = by_model.get(one.previous or "")
        if previous is None:
            continue
        if "degenerate" in one.scores and "degenerate" not in previous.scores:
            yield f"'{one.model}' is broken, '{previous.model}' was not: {one.scores['degenerate']}"
        for keep in kept:
            since = previous if keep.since == "previous" else scored[0]
            if (sentence := _missed(keep, one, since)) is not None:
                yield sentence


def _missed(keep: Keep, one: Scored, since: Scored) -> str | None:
    """What a goal says of a model whose metric and, where it counts, whose source's were measured; None: it holds."""
    value, before = one.scores.get(keep.metric), since.scores.get(keep.metric)
    if value is None or (before is None and keep.goal.is_relative):
        return None
    verdict = keep.goal.verdict(value, higher_is_better=keep.higher_is_better, baseline=before)
    if verdict.is_met or verdict.margin >= -_ROUNDING:
        return None
    if keep.goal.kind == "max-degradation" and before is not None:
        return _lost(keep, one.model, since.model, value, before) + _chance(keep.metric, one.scores)
    least, name = "at least" if keep.higher_is_better else "at most", keep.metric.replace("_", " ")
    bound = _told(keep.metric, verdict.bound)
    return f"{name} of '{one.model}' is {_told(keep.metric, value)}, but {keep.setting} asks for {least} {bound}"


def _lost(keep: Keep, model: str, since: str, value: float, before: float) -> str:
    name, verb = keep.metric.replace("_", " "), "fell" if keep.higher_is_better else "rose"
    lost, allowed = abs(before - value), keep.goal.value
    if keep.metric in _SHARES:
        told = f"{100 * lost:.1f} points", f"{100 * allowed:.1f}"
    else:
        told = f"{lost:.4g}", f"{allowed:.4g}"
    return (
        f"{name} {verb} by {told[0]} from '{since}' ({_told(keep.metric, before)}) to '{model}' "
        f"({_told(keep.metric, value)}), but {keep.setting} allows {told[1]}"
    )


def _chance(metric: str, scores: Mapping[str, Any]) -> str:
    """How much of a number may be chance, where the scores say so."""
    error = scores.get(f"{metric}_standard_error")
    if error is None or metric not in _SHARES:
        return ""
    return f" (standard error {100 * error:.1f} points, {scores['n_rows']} rows)"


def _told(metric: str, value: float) -> str:
    return f"{value:.1%}" if metric in _SHARES else f"{value:.4g}"


def checks_missed(steps: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """What passes that check a model recorded as missed. steps: as in `Result.steps`."""
    for step in steps:
        yield from (f"'{step['name']}': {sentence}" for sentence in step["facts"].get("missed", ()))
