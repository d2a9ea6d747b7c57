"""Samplers of optuna behind our contract.

A study in memory holds what was told. A point is asked of a trial that stays open while it is measured, so that optuna
knows what is on its way; what is told enters the study as a trial of its own, in the order of telling. So the study,
and with it every later point, depends on the trials alone.
"""

import hashlib
import math
from abc import abstractmethod
from collections.abc import Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar

from olivine import lazy
from olivine.search.objectives import Verdict
from olivine.search.samplers._base import Sampler
from olivine.search.space import Categorical, Dimension, Float, Int, Point, Trial, key_of, shares

if TYPE_CHECKING:
    from collections.abc import Iterator

    import optuna
else:
    optuna = lazy.module("optuna")

_FAR = 1e9  # a goal that is missed by infinity


class OptunaSampler(Sampler):
    """What a sampler of optuna needs to be asked and told as ours are.

    chooses_all: whether a value is chosen for every dimension, active or not: for a sampler that only mixes the
    dimensions that all trials have.
    """

    modules: ClassVar[Mapping[str, str]] = {"optuna": "search"}
    chooses_all: ClassVar[bool] = False
    _study: "optuna.Study"
    _open: "dict[str, optuna.Trial]"

    @abstractmethod
    def sampler(self, seed: int) -> "optuna.samplers.BaseSampler":
        """The sampler of optuna that chooses the next point, with that seed."""

    def admit(self, told: "optuna.Trial") -> None:
        """Take a trial of the study in, before its values are known."""

    def begin(self) -> None:
        """Begin an empty study, with the direction of every objective."""
        up, down = optuna.study.StudyDirection.MAXIMIZE, optuna.study.StudyDirection.MINIMIZE
        directions = [up if objective.higher_is_better else down for objective in self.objectives]
        with _quiet():
            self._study = optuna.create_study(directions=directions or [down], sampler=self.sampler(0))
        self._open = {}

    def propose(self, seed: int) -> Point:
        """The point that optuna suggests next, which stays open until its values are told."""
        self._study.sampler = self.sampler(seed)
        with _quiet():
            asked = self._study.ask()
            point = self._suggested(asked)
        if self.is_seen(point):
            self._study.tell(asked, state=optuna.trial.TrialState.FAIL)
        else:
            self._open[key_of(point)] = asked
        return point

    def learn(self, trial: Trial) -> None:
        """Put the trial into the study."""
        asked = self._open.pop(trial.key, None)
        if asked is not None:
            self._study.tell(asked, state=optuna.trial.TrialState.FAIL)
        measured = [(trial.values or {}).get(objective.name, math.nan) for objective in self.objectives] or [0.0]
        if any(math.isnan(value) for value in measured):
            return  # optuna learns nothing from a trial that failed
        self._study.enqueue_trial(self._encoded(trial.point))
        self._study.sampler = self.sampler(0)
        with _quiet():
            told = self._study.ask()
            self.admit(told)
            self._suggested(told)
            for objective in self.objectives:
                if (verdict := objective.verdict(trial.values or {})) is not None:
                    told.set_constraint(objective.name, _violation(verdict))
            self._study.tell(told, measured)

    def _suggested(self, asked: "optuna.Trial") -> Point:
        point: dict[str, Any] = {}
        for name, dimension in self.space.dimensions.items():
            is_active = self.space.is_active(name, point)
            if is_active or self.chooses_all:
                value = _suggest(asked, name, dimension)
                if is_active:
                    point[name] = value
        return point

    def _encoded(self, point: Point) -> dict[str, Any]:
        """The point as optuna's params; a dimension that it lacks gets a value that the point alone decides."""
        values = dict(point)
        if self.chooses_all:
            drawn = shares(_number_of(key_of(point)))
            values |= {name: each.at(next(drawn)) for name, each in self.space.dimensions.items() if name not in point}
        return {name: _encode(self.space.dimensions[name], value) for name, value in values.items()}


def _suggest(asked: "optuna.Trial", name: str, dimension: Dimension) -> Any:
    """A value; what can be counted goes by its number, so that no value is rounded and any JSON value is a choice."""
    if isinstance(dimension, Categorical):
        return dimension.value(asked.suggest_categorical(name, range(dimension.size)))
    if isinstance(dimension, Int) and dimension.log:
        return asked.suggest_int(name, dimension.low, dimension.high, log=True)
    if isinstance(dimension, Float) and dimension.size is None:
        return asked.suggest_float(name, dimension.low, dimension.high, log=dimension.log)
    return dimension.value(asked.suggest_int(name, 0, (dimension.size or 1) - 1))


def _encode(dimension: Dimension, value: Any) -> Any:
    """The value as `_suggest` asks optuna for it."""
    is_itself = dimension.size is None or (isinstance(dimension, Int) and dimension.log)
    return value if is_itself else dimension.index(value)


def _violation(verdict: Verdict) -> float:
    """A goal as optuna's constraint: above 0 when it is missed, the further the more."""
    share = -verdict.margin / (abs(verdict.bound) or 1.0)
    return 0.0 if verdict.is_met and share > 0 else min(_FAR, max(-_FAR, share))


def _number_of(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big")


@contextmanager
def _quiet() -> "Iterator[None]":
    """Without optuna's note on every study."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(before)
