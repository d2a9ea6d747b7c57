"""What is measured: metrics, one file each, and the scoring of a model on a user's own rows."""

from olivine.evaluate._base import Evidence, Metric, MetricParams
from olivine.evaluate._metrics import check_metrics, metric_modules, metrics
from olivine.evaluate._score import score

__all__ = ["Evidence", "Metric", "MetricParams", "check_metrics", "metric_modules", "metrics", "score"]
