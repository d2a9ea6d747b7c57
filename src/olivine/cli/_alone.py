"""One job for a worker outside of a workflow, with a screen of its own."""

from contextlib import closing
from typing import Any

from olivine.cli._screen import Screen
from olivine.workflow import alone


def run_alone(step: str, description: str, **fields: Any) -> dict[str, Any]:
    """The result of a job, see `olivine.workflow.alone`; what it tells is drawn."""
    with closing(Screen()) as screen:
        return alone.run_alone(step, description, screen, **fields)
