"""NSGA-II, a genetic algorithm for several objectives (Deb et al. 2002), as optuna has it."""

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from olivine import lazy
from olivine.search.samplers._base import SamplerParams
from olivine.search.samplers._optuna import OptunaSampler

if TYPE_CHECKING:
    import optuna
else:
    optuna = lazy.module("optuna")


class Nsga2(OptunaSampler):
    """Cross and mutate the points of the front, a generation at a time; for many trials and several objectives."""

    aliases: ClassVar[tuple[str, ...]] = ("nsga-ii", "nsgaii", "NSGAIISampler")
    chooses_all: ClassVar[bool] = True

    class Params(SamplerParams):
        """What decides the points that are tried."""

        population_size: int = Field(20, ge=2, description="points of a generation; the first one is drawn at random")

    params: Params

    def admit(self, told: "optuna.Trial") -> None:
        """Count the trial to its generation, which optuna does where it draws a trial's params; they are not used."""
        _ = told.relative_params

    def sampler(self, seed: int) -> "optuna.samplers.BaseSampler":
        """Goals are constraints: what misses them less goes before what is better otherwise."""
        return optuna.samplers.NSGAIISampler(seed=seed, population_size=self.params.population_size)
