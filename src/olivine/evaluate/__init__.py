"""What is measured: metrics, one file each, and the scoring of a model on a user's own rows."""

from olivine.evaluate._answer import Answer, Answers, answers_of, known_answer
from olivine.evaluate._bare import bare
from olivine.evaluate._base import Evidence, Metric, MetricParams, OutputEvidence
from olivine.evaluate._degenerate import degenerate
from olivine.evaluate._metrics import check_metrics, measured, metric_modules, metrics
from olivine.evaluate._rows import Question, passages
from olivine.evaluate._score import KEPT_FILE, check_rows, score

__all__ = [
    "KEPT_FILE",
    "Answer",
    "Answers",
    "Evidence",
    "Metric",
    "MetricParams",
    "OutputEvidence",
    "Question",
    "answers_of",
    "bare",
    "check_metrics",
    "check_rows",
    "degenerate",
    "known_answer",
    "measured",
    "metric_modules",
    "metrics",
    "passages",
    "score",
]
