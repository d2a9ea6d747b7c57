"""What is measured: metrics, one file each, and the scoring of a model on a user's own rows."""

from typing import TYPE_CHECKING

from olivine import lazy

if TYPE_CHECKING:
    from olivine.evaluate._answer import Answer, Answers, answers_of, known_answer
    from olivine.evaluate._bare import bare
    from olivine.evaluate._base import (
        Artifact,
        Evidence,
        Metric,
        MetricParams,
        Number,
        OutputEvidence,
        TaskEvidence,
        TimingParams,
        Timings,
        of_batch,
    )
    from olivine.evaluate._batches import batch_bytes
    from olivine.evaluate._custom import custom_numbers
    from olivine.evaluate._degenerate import degenerate
    from olivine.evaluate._metrics import check_metrics, measured, metric_modules, metrics
    from olivine.evaluate._outputs import inputs_of, labelled_inputs_of, rows_of
    from olivine.evaluate._rounds import in_turns, seconds_of, spread
    from olivine.evaluate._rows import Question, passages
    from olivine.evaluate._score import KEPT_FILE, check_rows, score
    from olivine.evaluate._shown import answers_of_samples
    from olivine.evaluate._sub_types import number_of
    from olivine.evaluate._timing import time_models

__all__ = [
    "KEPT_FILE",
    "Answer",
    "Answers",
    "Artifact",
    "Evidence",
    "Metric",
    "MetricParams",
    "Number",
    "OutputEvidence",
    "Question",
    "TaskEvidence",
    "TimingParams",
    "Timings",
    "answers_of",
    "answers_of_samples",
    "bare",
    "batch_bytes",
    "check_metrics",
    "check_rows",
    "custom_numbers",
    "degenerate",
    "in_turns",
    "inputs_of",
    "known_answer",
    "labelled_inputs_of",
    "measured",
    "metric_modules",
    "metrics",
    "number_of",
    "of_batch",
    "passages",
    "rows_of",
    "score",
    "seconds_of",
    "spread",
    "time_models",
]

__getattr__ = lazy.names(
    __name__,
    {
        "_answer": "Answer Answers answers_of known_answer",
        "_bare": "bare",
        "_base": "Artifact Evidence Metric MetricParams Number OutputEvidence TaskEvidence TimingParams Timings "
        "of_batch",
        "_batches": "batch_bytes",
        "_custom": "custom_numbers",
        "_degenerate": "degenerate",
        "_metrics": "check_metrics measured metric_modules metrics",
        "_outputs": "inputs_of labelled_inputs_of rows_of",
        "_rounds": "in_turns seconds_of spread",
        "_rows": "Question passages",
        "_score": "KEPT_FILE check_rows score",
        "_shown": "answers_of_samples",
        "_sub_types": "number_of",
        "_timing": "time_models",
    },
)
