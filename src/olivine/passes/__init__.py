"""What is done to a model: plugins, one file each, in folders by purpose."""

from olivine.passes import _parts as parts
from olivine.passes._base import (
    ANY_KIND,
    UNCHANGED,
    CalibrationRows,
    Pass,
    PassParams,
    TrainingRows,
    first_line,
)
from olivine.registry import Registry
from olivine.work import Context, Estimate, Machine, Reporter

passes: Registry[Pass] = Registry("olivine.passes", Pass, group="olivine.passes")  # type: ignore[type-abstract]

__all__ = [
    "ANY_KIND",
    "UNCHANGED",
    "CalibrationRows",
    "Context",
    "Estimate",
    "Machine",
    "Pass",
    "PassParams",
    "Reporter",
    "TrainingRows",
    "first_line",
    "parts",
    "passes",
]
