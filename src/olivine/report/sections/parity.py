"""Parity: how far a model is from the one it was made from, token by token."""

from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

from olivine.report.html import rendered
from olivine.report.run import Run
from olivine.report.section import Section

_QUANTILES = (
    ("median", "kl_median"),
    ("mean", "kl"),
    ("90 of 100", "kl_p90"),
    ("99 of 100", "kl_p99"),
    ("largest", "kl_max"),
)
_PARTS = (("as it runs", None), ("error of the weights alone", "weights"), ("error of computing in int8", "runtime"))


class Parity(Section):
    """The distribution of the divergence over tokens, for each comparison of the run."""

    title = "Parity"
    place = 65

    def draw(self, run: Run) -> Markup | None:
        """A table of quantiles with bars, and greedy texts."""
        records = [(step.step, step.facts["parity"]) for step in run.steps if step.facts.get("parity")]
        checks = [{"name": name, "record": record, "parts": _parts(record)} for name, record in records]
        return rendered("parity.html", checks=checks) if checks else None


def _parts(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The error as a whole, and where it comes from."""
    told = [(name, record if key is None else record.get(key)) for name, key in _PARTS]
    known = [(name, part) for name, part in told if part]
    most = max((part.get("kl_max") or 0 for _, part in known), default=0) or 1.0
    return [
        {
            "name": name,
            "top1": part.get("top1_agreement"),
            "quantiles": [
                (word, part[key], round(100 * (part[key] / most) ** 0.5, 1))
                for word, key in _QUANTILES
                if part.get(key) is not None
            ],
        }
        for name, part in known
    ]
