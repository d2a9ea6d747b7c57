"""olivine: from a base language model and your data to a model that is ready to ship, measured at every step."""

from olivine import telemetry

__version__ = "0.1.0"

telemetry.off()
