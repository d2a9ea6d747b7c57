"""The contract of a metric, and the evidence that it is computed from, which depends on the task of the model.

A model that writes text gives `Evidence`, any other `OutputEvidence`; a metric says which of the two it reads.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
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


@dataclass(frozen=True)
class OutputEvidence:
    """What a model gave for rows of inputs, of which it need not be known what they mean.

    outputs: for each row the numbers of each output by its name, with the row as the first dimension. previous: the
      same of the model one seam before, for as many rows as were kept; None for the first.
    scores: names of the outputs whose last dimension are scores of classes (logits, probabilities), the best first.
    labels: the expected class of each row as its number; empty where the rows have none.
    """

    outputs: "Sequence[Mapping[str, npt.NDArray[Any]]]"
    previous: "Sequence[Mapping[str, npt.NDArray[Any]]] | None" = None
    scores: Sequence[str] = ()
    labels: Sequence[int] = ()


class MetricParams(BaseModel):
    """Params of a metric, as `quality.metrics` of a config writes them."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Metric(ABC):
    """One file, one idea; the file's name is the metric's. Params: the typed params.

    reads: what kind of evidence it is computed from; a score has the metrics that read the evidence of its model.
    """

    name: ClassVar[str]
    aliases: ClassVar[tuple[str, ...]] = ()
    Params: ClassVar[type[MetricParams]] = MetricParams
    reads: ClassVar[type[Evidence | OutputEvidence]] = Evidence

    def __init__(self, params: Any = None) -> None:
        self.params = self.Params() if params is None else params

    @abstractmethod
    def compute(self, evidence: Any) -> dict[str, float]:
        """Named numbers of evidence of the kind that it reads; a number that cannot be had is left out."""
