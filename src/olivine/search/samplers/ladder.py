"""Points that the config lists, the cheapest first; those that earlier ones show to be in vain are left out."""

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field

from olivine.search.objectives import Objective
from olivine.search.samplers._base import Sampler, SamplerParams
from olivine.search.space import Point, Trial, key_of

_UNSURE = 0.02  # of a bound: sizes and times are foreseen no better


class Rung(BaseModel):
    """A point and what is known of it beforehand. Where nothing is known, it is tried in any case."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    point: dict[str, Any] = Field(description="the value of each dimension")
    size: float | None = Field(None, gt=0, description="of the model, in any unit that all rungs have")
    bits: float | None = Field(None, gt=0, description="that a weight has")
    effort: int = Field(0, ge=0, description="with as many bits, a rung of more effort is no worse")


class Ladder(Sampler):
    """Try points in the order of the config, from the cheapest to the dearest, and skip those that are in vain.

    1. Where a trial missed a goal on its size or speed (`sized`), a rung is skipped that is as large, or too little
    smaller, were size and time to fall alike. 2. Where one missed any other goal, a rung is skipped that has no more
    bits and no more effort. 3. Without rungs, every point of the space is tried, as `sequential` does.
    """

    class Params(SamplerParams):
        """What the rungs are."""

        rungs: dict[str, Rung] = Field(default_factory=dict, description="points by names of your own, in their order")
        sized: list[str] = Field(
            default_factory=lambda: ["size_bytes"],
            description="numbers with goals that a smaller model comes nearer to",
        )

    lists: ClassVar[bool] = True
    params: Params
    _left: Iterator[Point]

    @classmethod
    def listed(cls, params: SamplerParams) -> Mapping[str, Point]:
        """The rungs."""
        return {name: rung.point for name, rung in params.rungs.items()} if isinstance(params, cls.Params) else {}

    def begin(self) -> None:
        """Stand before the first rung, or the first point of the space."""
        self._by_key = {key_of(rung.point): rung for rung in self.params.rungs.values()}
        points = [rung.point for rung in self.params.rungs.values()]
        self._left = iter(points) if points else self.space.points()

    def propose(self, seed: int) -> Point | None:  # noqa: ARG002 - nothing is drawn
        """The next rung that was not told and may do better."""
        return next((point for point in self._left if not self.is_seen(point) and not self._is_in_vain(point)), None)

    def _is_in_vain(self, point: Point) -> bool:
        rung = self._by_key.get(key_of(point))
        return rung is not None and any(self._rules_out(trial, rung) for trial in self.trials)

    def _rules_out(self, trial: Trial, rung: Rung) -> bool:
        """Whether a goal that a trial missed is one that the rung misses as well."""
        tried = self._by_key.get(trial.key)
        if tried is None or trial.values is None:
            return False
        missed = [objective for objective in self.objectives if _misses(objective, trial.values)]
        sized = [objective for objective in missed if objective.name in self.params.sized]
        if rung.size is not None and tried.size is not None:
            share = rung.size / tried.size
            if any(_foreseen(objective, trial.values, share) > _UNSURE for objective in sized):
                return True
        if rung.bits is None or tried.bits is None or len(missed) == len(sized):
            return False
        return rung.bits <= tried.bits and rung.effort <= tried.effort


def _misses(objective: Objective, values: Mapping[str, float]) -> bool:
    """Whether a number that was measured misses its goal."""
    verdict = objective.verdict(values) if objective.name in values else None
    return verdict is not None and not verdict.is_met


def _foreseen(objective: Objective, values: Mapping[str, float], share: float) -> float:
    """By how much of the bound a goal is missed when a model is that share of the one that was measured."""
    value = values[objective.name]
    verdict = objective.verdict({objective.name: value / share if objective.higher_is_better else value * share})
    return verdict.shortfall if verdict is not None else 0.0
