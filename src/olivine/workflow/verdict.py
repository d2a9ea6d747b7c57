"""Whether models keep what a config asks of them: a pure function of scores and goals."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from olivine import search
from olivine.errors import RequestError
from olivine.workflow.keys import seams
from olivine.workflow.steps import Asked, Plan
from olivine.workflow.units import distance, in_unit

if TYPE_CHECKING:
    from olivine.search import Goal
    from olivine.workflow.events import Scored

# A drop of exactly the allowed share is allowed, whatever binary fractions make of it.
_ROUNDING = 5e-7


@dataclass(frozen=True)
class Keep:
    """What one metric must be.

    goal: of search; relative ones count from the model before, or from the base (`since`). setting: the key of the
    config that says so. at: which models it holds for: each one, each that was not trained, or the one that ships.
    unit: of the number, as of `olivine.evaluate.Number`. name: what it is called, where that is not the metric's.
    """

    metric: str
    goal: "Goal"
    higher_is_better: bool
    setting: str
    since: Literal["previous", "base"] = "previous"
    at: Literal["each", "untrained", "result"] = "each"
    unit: str = ""
    name: str = ""

    @property
    def in_words(self) -> str:
        """What the number is called."""
        return self.name or self.metric.replace("_", " ")


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
    goal = search.Goal("max-degradation", share)
    return [Keep("label_accuracy", goal, higher_is_better=True, setting="quality.max_drop", unit="share")]


def keeps(asked: Iterable[Asked]) -> list[Keep]:
    """The goals of an evaluator, which count from the input model and hold for what ships.

    A distance to the model before is one that each step costs: its goal holds for every step that does not train.
    """
    return [
        Keep(
            one.number,
            one.goal,
            one.higher_is_better,
            one.setting,
            since="base",
            at="untrained" if one.compares else "result",
            unit=one.unit,
            name=one.name,
        )
        for one in asked
        if one.goal is not None
    ]


def missed(
    scored: "Sequence[Scored]", kept: Iterable[Keep], *, result: str | None = None, trained: Collection[str] = ()
) -> Iterator[str]:
    """A sentence for each model that broke where the one before it had not, and for each goal that it misses.

    result: the model that ships, where that is not the last one. trained: the models that were trained.
    """
    kept, by_model = list(kept), {one.model: one for one in scored}
    result = result or (scored[-1].model if scored else "")
    for one in scored:
        previous = by_model.get(one.previous or "")
        if previous is not None and "degenerate" in one.scores and "degenerate" not in previous.scores:
            yield f"'{one.model}' is broken, '{previous.model}' was not: {one.scores['degenerate']}"
        for keep in kept:
            since = previous if keep.since == "previous" else scored[0]
            holds_here = {"each": True, "untrained": one.model not in trained, "result": one.model == result}
            if since is not None and holds_here[keep.at] and (sentence := _missed(keep, one, since)) is not None:
                yield sentence
    for keep in kept:
        if keep.at == "result" and (sentence := _unknown(keep, result, scored)) is not None:
            yield sentence


def missed_goals(plan: Plan, scored: "Sequence[Scored]") -> list[str]:
    """What a plan's models miss of all that its config asks of them, as sentences."""
    kept = [*goals(plan.quality.max_drop), *keeps(plan.asked)]
    return list(missed(scored, kept, result=_result(plan), trained=_trained(plan)))


def _result(plan: Plan) -> str:
    """The model that ships, by the name of its seam; empty where nothing is scored."""
    return next((seam.name for seam in reversed(seams(plan))), "")


def _trained(plan: Plan) -> list[str]:
    return [step.name for step in plan.steps if step.trains]


def _missed(keep: Keep, one: "Scored", since: "Scored") -> str | None:
    """What a goal says of a model whose metric and, where it counts, whose source's were measured; None: it holds."""
    value, before = one.row.get(keep.metric), since.row.get(keep.metric)
    if value is None or (before is None and keep.goal.is_relative):
        return None
    verdict = keep.goal.verdict(value, higher_is_better=keep.higher_is_better, baseline=before)
    if verdict.is_met or verdict.margin >= -_ROUNDING:
        return None
    if keep.goal.kind == "max-degradation" and before is not None:
        return _lost(keep, one.model, since.model, value, before) + _chance(keep, one.scores)
    least = "at least" if keep.higher_is_better else "at most"
    return (
        f"{keep.in_words} of '{one.model}' is {in_unit(value, keep.unit)}, but {keep.setting} asks for {least} "
        f"{in_unit(verdict.bound, keep.unit)}, which is missed by {distance(-verdict.margin, keep.unit)}"
    ) + _chance(keep, one.scores)


def _unknown(keep: Keep, result: str, scored: "Sequence[Scored]") -> str | None:
    """That nothing is known of a number that the result must have, or the one that it counts from; None where it is."""
    rows = {one.model: one.row for one in scored}
    needed = [result, *([scored[0].model] if keep.goal.is_relative and scored else [])]
    without = [model for model in needed if rows.get(model, {}).get(keep.metric) is None]
    if not without:
        return None
    return f"{keep.in_words} of '{without[0]}' is no number or was not measured, but {keep.setting} has a goal for it"


def _lost(keep: Keep, model: str, since: str, value: float, before: float) -> str:
    verb = "fell" if keep.higher_is_better else "rose"
    lost, allowed = distance(abs(before - value), keep.unit), distance(keep.goal.value, keep.unit)
    return (
        f"{keep.in_words} {verb} by {lost} from '{since}' ({in_unit(before, keep.unit)}) to '{model}' "
        f"({in_unit(value, keep.unit)}), but {keep.setting} allows {allowed.removesuffix(' points')}"
    )


def _chance(keep: Keep, scores: Mapping[str, Any]) -> str:
    """How much of a number may be chance, where the scores say so."""
    error = scores.get(f"{keep.metric}_standard_error")
    if error is None or keep.unit != "share":
        return ""
    return f" (standard error {100 * error:.1f} points, {scores['n_rows']} rows)"


def table_of(plan: Plan, scored: "Sequence[Scored]") -> list[dict[str, Any]]:
    """What the evaluator of a plan asks for and what came of it, see `rows_of`.

    Where no pass is run, the input model is the result, and is compared with nothing.
    """
    rows = rows_of(plan.asked, scored, result=_result(plan), trained=_trained(plan))
    return rows if plan.steps else [{**row, "baseline": None} for row in rows]


def rows_of(
    asked: Iterable[Asked], scored: "Sequence[Scored]", *, result: str, trained: Collection[str] = ()
) -> list[dict[str, Any]]:
    """What was asked for and what came of it, a row for each number.

    "name", "number", "unit", "higher_is_better", "baseline" of the input model, "value" of the result, "goal" {"type",
    "value"}, the "bound" that it stands for, "margin" by which the value is better than that, and "is_met". None: not
    known, or no goal. Of a distance to the model before, the value is the worst of the steps that do not train.
    """
    rows = {one.model: one.row for one in scored}
    baseline = scored[0].row if scored else {}
    untrained = [row for model, row in rows.items() if model not in trained]
    return [
        _row(
            one,
            baseline.get(one.number),
            _worst(one, untrained) if one.compares else rows.get(result, {}).get(one.number),
        )
        for one in _each(asked, rows.get(result, {}))
    ]


def _each(asked: Iterable[Asked], row: Mapping[str, Any]) -> Iterator[Asked]:
    """What was asked for; of tasks, of which no number was named, all that they gave."""
    asked = list(asked)
    named = {one.number for one in asked}
    for one in asked:
        if one.number:
            yield one
            continue
        told = [name for name in row.get("of_tasks", ()) if not name.endswith("_standard_error")]
        yield from (replace(one, name=f"{one.name}: {name}", number=name) for name in told if name not in named)


def _worst(one: Asked, rows: Iterable[Mapping[str, Any]]) -> float | None:
    values = [row[one.number] for row in rows if row.get(one.number) is not None]
    return (min if one.higher_is_better else max)(values, default=None)


def _row(one: Asked, baseline: float | None, value: float | None) -> dict[str, Any]:
    verdict = None
    if one.goal is not None and value is not None and not (one.goal.is_relative and baseline is None):
        verdict = one.goal.verdict(value, higher_is_better=one.higher_is_better, baseline=baseline)
    return {
        "name": one.name,
        "number": one.number,
        "unit": one.unit,
        "higher_is_better": one.higher_is_better,
        "baseline": baseline,
        "value": value,
        "goal": {"type": one.goal.kind, "value": one.goal.value} if one.goal is not None else None,
        "bound": verdict.bound if verdict else None,
        "margin": verdict.margin if verdict else None,
        "is_met": None if one.goal is None else verdict is not None and verdict.margin >= -_ROUNDING,
    }


def checks_missed(steps: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """What passes that check a model recorded as missed. steps: as in `Result.steps`."""
    for step in steps:
        yield from (f"'{step['name']}': {sentence}" for sentence in step["facts"].get("missed", ()))
