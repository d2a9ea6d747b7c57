"""The contract of a sampler: it is asked for points and told what was measured there.

What holds for every sampler is done here: a point is asked for once, the budget is kept, nothing is asked when all was
seen. A sampler itself only proposes, from a seed that depends on what was told, and so goes on from a list of trials as
if it had never stopped.
"""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import ClassVar

from pydantic import BaseModel, ConfigDict, Field

from olivine import lazy
from olivine.errors import MissingExtra, RequestError
from olivine.search.objectives import Objective
from olivine.search.space import Point, Space, Trial, key_of, shares

_N_TRIES = 4  # proposals that were seen before; then points are drawn at random
_N_DRAWS = 64  # of those, seen before too; then the first one of the space that was not is taken


class SamplerParams(BaseModel):
    """What a config says of any sampler."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    max_samples: int | None = Field(None, gt=0, description="points tried at most; else as long as it is asked")
    seed: int = Field(1, description="another seed tries other points; the same seed the same ones")


class Sampler(ABC):
    """Proposes points of a space.

    space: what can be chosen. objectives: what is wanted of the numbers that are told. trials: those of an earlier
    search; it goes on after them. Params: the typed params. modules: importable modules that it needs, each with the
    extra that brings it. lists: whether it needs a space whose points can be listed.
    """

    name: ClassVar[str]
    aliases: ClassVar[tuple[str, ...]] = ()
    Params: ClassVar[type[SamplerParams]] = SamplerParams
    modules: ClassVar[Mapping[str, str]] = {}
    lists: ClassVar[bool] = False

    def __init__(
        self,
        space: Space,
        objectives: Sequence[Objective],
        params: SamplerParams | None = None,
        trials: Sequence[Trial] = (),
    ) -> None:
        for module, extra in self.modules.items():
            if not lazy.installed(module):
                raise MissingExtra(lazy.missing_sentence(module, extra))
        if self.lists:
            space.points()  # says why, where they cannot be listed
        self.space, self.objectives = space, tuple(objectives)
        self.params = params if params is not None else self.Params()
        self.trials: list[Trial] = []
        self._pending: dict[str, Point] = {}
        self._told: set[str] = set()
        self.begin()
        for trial in trials:
            self.tell(trial)

    @classmethod
    def listed(cls, params: SamplerParams) -> Mapping[str, Point]:  # noqa: ARG003
        """The points that params name one by one, by their names, in their order; empty where they name none."""
        return {}

    @property
    def pending(self) -> Sequence[Point]:
        """Points that were asked for and not told of yet."""
        return tuple(self._pending.values())

    def ask(self) -> Point | None:
        """A point that was never asked for or told before; None when the budget is spent, or no such point is left."""
        n_seen = len(self._told) + len(self._pending)
        if self.params.max_samples is not None and n_seen >= self.params.max_samples:
            return None
        if self.space.size is not None and n_seen >= self.space.size:
            return None
        point = self._unseen()
        if point is not None:
            self._pending[key_of(point)] = point
        return point

    def tell(self, trial: Trial) -> None:
        """Take in what was measured at a point, whoever chose it.

        Raises RequestError for a point that is not in the space, or was told before.
        """
        self.space.check(trial.point)
        if trial.key in self._told:
            raise RequestError(f"the point {trial.key} was told before")
        self._pending.pop(trial.key, None)
        self._told.add(trial.key)
        self.trials.append(trial)
        self.learn(trial)

    def begin(self) -> None:  # noqa: B027 - optional: a sampler that keeps nothing has nothing to begin
        """Make ready what `learn` fills; called once, before any trial is told."""

    def learn(self, trial: Trial) -> None:  # noqa: B027 - optional: a sampler may not learn
        """Take in a trial; it stands in `trials` already."""

    @abstractmethod
    def propose(self, seed: int) -> Point | None:
        """A point, the same one for the same seed and trials; None when there is nothing more to propose."""

    def is_seen(self, point: Point) -> bool:
        """Whether the point was asked for or told."""
        key = key_of(point)
        return key in self._told or key in self._pending

    def _unseen(self) -> Point | None:
        for attempt in range(_N_TRIES):
            point = self.propose(self._seed(attempt))
            if point is None or not self.is_seen(point):
                return point
        drawn = (self.space.point_at(shares(self._seed(attempt))) for attempt in range(_N_DRAWS))
        listed = self.space.points() if self.space.size is not None else iter(())
        return next((point for point in chain(drawn, listed) if not self.is_seen(point)), None)

    def _seed(self, attempt: int) -> int:
        """A number that differs for each ask: by the seed of the params, what was told, what is pending."""
        text = f"{self.params.seed} {len(self._told)} {len(self._pending)} {attempt}"
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big")
