"""The contract of a metric, and the evidence that all of them are computed from."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import BaseModel, ConfigDict

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


@dataclass(frozen=True)
class Evidence:
    """What a model did on the rows; metrics only read it.

    labels, generated: per row, the expected value and the answer in the text that greedy decoding gave: both bare,
      without what the template of the rows puts round them.
    token_losses: negative log-likelihood in nats of every target token, rows one after another.
    log_probabilities: [positions, vocabulary] float16 at the kept target positions (see `score`).
    previous: the same of the model one seam before, None for the first.
    """

    labels: Sequence[str]
    generated: Sequence[str]
    token_losses: "npt.NDArray[np.float64]"
    log_probabilities: "npt.NDArray[np.float16]"
    previous: "npt.NDArray[np.float16] | None" = None


class MetricParams(BaseModel):
    """Params of a metric, as `quality.metrics` of a config writes them."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Metric(ABC):
    """One file, one idea; the file's name is the metric's. Params: the typed params."""

    name: ClassVar[str]
    aliases: ClassVar[tuple[str, ...]] = ()
    Params: ClassVar[type[MetricParams]] = MetricParams

    def __init__(self, params: Any = None) -> None:
        self.params = self.Params() if params is None else params

    @abstractmethod
    def compute(self, evidence: Evidence) -> dict[str, float]:
        """Named numbers, ready for a table; a number that cannot be had is left out."""
