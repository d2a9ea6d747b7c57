"""olivine: from a base language model and your data to a model that is ready to ship, measured at every step.

    import olivine

    result = olivine.run("olive-config.json")

What there is comes from the modules above, which import this one: it is looked up when it is first asked for, so
that the import costs nothing. `__init__.pyi` tells the types.
"""

import importlib
import sys
from types import ModuleType
from typing import Any

from olivine import telemetry

__version__ = "0.1.0"

__all__ = [
    "Comparison",
    "ConfigError",
    "Evaluation",
    "GoalMissed",
    "Interrupted",
    "Metric",
    "OlivineError",
    "Pass",
    "Plan",
    "RequestError",
    "Result",
    "StepFailed",
    "System",
    "Workflow",
    "evaluate",
    "load_config",
    "parity",
    "plan",
    "run",
]

telemetry.off()


class _Verb(ModuleType):
    """A package that is also called: `olivine.evaluate` holds the metrics, `olivine.evaluate(...)` scores a model."""

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        return _from("api", self.__name__.rpartition(".")[2])(*arguments, **named)


class _Package(ModuleType):
    """The module `olivine`; the import system sets its packages as attributes when they are first imported."""

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "evaluate":
            value.__class__ = _Verb
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    if name == "evaluate":
        return importlib.import_module(f"{__name__}.{name}")
    return _from("errors" if name.endswith(("Error", "Failed", "Missed", "Interrupted")) else "api", name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def _from(module: str, name: str) -> Any:
    return getattr(importlib.import_module(f"{__name__}.{module}"), name)
