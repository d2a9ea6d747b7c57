"""The contract of a metric, and the evidence that it is computed from, which depends on the task of the model.

A model that writes text gives `Evidence`, and `TaskEvidence` where tasks are asked for, any other `OutputEvidence`;
each is an `Artifact` too, and takes `Timings`. A metric says what of these it reads.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

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


NO_CLASS = -1  # of a token that no class is expected of


@dataclass(frozen=True)
class OutputEvidence:
    """What a model gave for rows of inputs, of which it need not be known what they mean.

    outputs: for each row the numbers of each output by its name, with the row as the first dimension. previous: the
      same of the model one seam before, for as many rows as were kept; None for the first.
    scores: names of the outputs whose last dimension are scores of classes (logits, probabilities), the best first.
    labels: the expected class of each row as its number, or of each of its tokens, of which NO_CLASS is not asked for;
      empty where the rows have none.
    transcripts: of a model that writes, for each row what is said in it, or expected, and what the model writes; of
      sounds (is_heard) with the seconds of all of them, and those that it took.
    """

    outputs: "Sequence[Mapping[str, npt.NDArray[Any]]]"
    previous: "Sequence[Mapping[str, npt.NDArray[Any]]] | None" = None
    scores: Sequence[str] = ()
    labels: Sequence[int | Sequence[int]] = ()
    transcripts: Sequence[tuple[str, str]] = ()
    seconds_heard: float = 0.0
    seconds_taken: float = 0.0
    is_heard: bool = True

    def answered(self) -> "list[tuple[npt.NDArray[Any], int]]":
        """The scores of all classes and the expected one, of each row that has one, or of each such token."""
        pairs: list[tuple[npt.NDArray[Any], int]] = []
        if not self.scores:
            return pairs
        for row, label in zip(self.outputs, self.labels, strict=False):
            scores = row[self.scores[0]]
            if isinstance(label, int):
                pairs.append((scores.reshape(-1), label))
                continue
            tokens = scores.reshape(-1, scores.shape[-1])
            pairs += [(tokens[place], one) for place, one in enumerate(label) if one != NO_CLASS]
        return pairs


@dataclass(frozen=True)
class TaskEvidence:
    """What tasks of the lm-eval package said of a model that writes text. numbers: by TASK.METRIC."""

    numbers: Mapping[str, float]


@dataclass(frozen=True)
class Artifact:
    """A model as the files that it is. size_bytes: None where its weights are computed from those of another."""

    size_bytes: int | None


@dataclass(frozen=True)
class Timings:
    """What a model took for requests, in a process of its own.

    seconds: of each request its parts: of a decoder until the first token, then from each to the one after it; of any
      other model one; for `batch_size` rows at once. n_prompt: tokens that the decoder read of each; 0 for another
      model.
    peak_memory_bytes: the largest resident set of the process, libraries included. peak_gpu_bytes: the most that it
      took of the GPU's memory; 0 where nobody looked, or there is none.
    """

    seconds: Sequence[Sequence[float]]
    n_prompt: int = 0
    batch_size: int = 1
    peak_memory_bytes: int = 0
    peak_gpu_bytes: int = 0

    @property
    def first(self) -> list[float]:
        """Seconds until the first token; empty for a model that writes none."""
        return [parts[0] for parts in self.seconds] if self.n_prompt else []

    @property
    def steps(self) -> list[float]:
        """Seconds of every token after the first, or of every batch."""
        return [part for parts in self.seconds for part in (parts[1:] if self.n_prompt else parts)]


@dataclass(frozen=True)
class Number:
    """One number of a metric, which an evaluator of a config names as a sub type.

    key: its name in the scores. unit: "share" of 1, "bytes", "ms", "/s" or nothing. compares: it is a distance to the
    model before, so that there is none of the input model, and a goal holds for each step that does not train. of: the
    evidence of the models that have it, where the metric itself is of all. best: what no model is better than.
    """

    key: str
    higher_is_better: bool
    unit: Literal["", "share", "bytes", "ms", "/s"] = ""
    compares: bool = False
    of: "type[Evidence | OutputEvidence] | None" = None
    best: float | None = None


def of_batch(number: str, n_rows: int) -> str:
    """What a number is called that comes of batches of that size, where there are several sizes."""
    return number if n_rows == 1 else f"{number}_batch_{n_rows}"


class MetricParams(BaseModel):
    """Params of a metric, as `quality.metrics` of a config writes them."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class TimingParams(MetricParams):
    """How requests are timed; latency, throughput and memory of one config share them."""

    warmup_num: int = Field(2, ge=0, description="requests before any is timed")
    repeat_test_num: int = Field(8, ge=1, description="requests that are timed at least")
    max_requests: int = Field(200, ge=1, description="requests that are timed at most, where that is more")
    max_seconds: float = Field(60.0, gt=0, description="seconds after which no more are timed")
    spread: float = Field(
        0.02, gt=0, description="half of the interval that holds the median, as a share of it: enough"
    )
    sleep_num: float = Field(0.0, ge=0, description="seconds between two requests")
    prompt_tokens: int = Field(64, ge=1, description="of a decoder's prompt")
    new_tokens: int = Field(16, ge=1, description="that a decoder writes after the first one")
    batch_size: int = Field(1, ge=1, description="rows, or texts of a decoder, that are read at once")


class Metric(ABC):
    """One file, one idea; the file's name is the metric's. Params: the typed params.

    reads: what kind of evidence it is computed from, or a union of kinds; a score has the metrics that read the
      evidence of its model.
    types: what an evaluator of a config may name as the type of this metric, beside its name and aliases.
    numbers: what there is of it, by the names that an evaluator has for them; the first one is meant where none is
      named. Of a metric without them, an evaluator says itself whether higher is better.
    only_when_asked: measured only where the config names it, as every metric of a third party is.
    needs_labels: whether it has nothing to say of rows without an expected answer. hears: these are words that are
      said, and not classes, of which models of speech name none. writes: these are texts that are written of others.
    """

    name: ClassVar[str]
    aliases: ClassVar[tuple[str, ...]] = ()
    Params: ClassVar[type[MetricParams]] = MetricParams
    reads: ClassVar[Any] = Evidence
    types: ClassVar[tuple[str, ...]] = ()
    numbers: ClassVar[Mapping[str, Number]] = {}
    only_when_asked: ClassVar[bool] = False
    needs_labels: ClassVar[bool] = False
    hears: ClassVar[bool] = False
    writes: ClassVar[bool] = False

    def __init__(self, params: Any = None) -> None:
        self.params = self.Params() if params is None else params

    @classmethod
    def number(cls, sub_type: str) -> Number | None:
        """What an evaluator means by a sub type; None for what the metric does not have.

        Overridden by a metric whose numbers are more than can be listed.
        """
        return cls.numbers.get(sub_type)

    @abstractmethod
    def compute(self, evidence: Any) -> dict[str, float]:
        """Named numbers of evidence of the kind that it reads; a number that cannot be had is left out."""
