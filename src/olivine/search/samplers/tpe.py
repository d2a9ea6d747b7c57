"""Tree-structured Parzen estimator (Bergstra et al. 2011), as optuna has it."""

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from olivine import lazy
from olivine.search.samplers._base import SamplerParams
from olivine.search.samplers._optuna import OptunaSampler

if TYPE_CHECKING:
    import optuna
else:
    optuna = lazy.module("optuna")


class Tpe(OptunaSampler):
    """Try what resembles the better trials more than the others; for few, costly trials."""

    aliases: ClassVar[tuple[str, ...]] = ("TPESampler",)

    class Params(SamplerParams):
        """What decides the points that are tried."""

        n_startup_trials: int = Field(10, ge=1, description="points drawn at random before any is learned from")

        multivariate: bool = Field(False, description="learn how dimensions go together, not each by itself")
        group: bool = Field(False, description="with multivariate: by groups of dimensions that are chosen together")

    params: Params

    def sampler(self, seed: int) -> "optuna.samplers.BaseSampler":
        """Goals are constraints: trials that miss one are held against those that miss none."""
        settings = self.params.model_dump(include={"n_startup_trials", "multivariate"})
        is_grouped = self.params.multivariate and self.params.group
        return optuna.samplers.TPESampler(seed=seed, group=is_grouped, **settings)
