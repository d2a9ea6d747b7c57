"""What is measured: metrics, one file each, and the scoring of a model on a user's own rows."""

from olivine.evaluate._base import Evidence, Metric
from olivine.evaluate._score import metrics, score

__all__ = ["Evidence", "Metric", "metrics", "score"]
