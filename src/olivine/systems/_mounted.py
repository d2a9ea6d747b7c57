"""Places that workers see beside their store: jobs name them, and the environment of a worker says where they are."""

import os
from pathlib import Path

from olivine.errors import OlivineError

_VARIABLE = "OLIVINE_MOUNTED_"


def variable(name: str) -> str:
    """The variable of the environment that tells a worker where a place of that name is."""
    return f"{_VARIABLE}{name.upper()}"


def mounted_at(name: str) -> Path:
    """Where this worker sees the place of that name; OlivineError where it was not given one."""
    place = os.environ.get(variable(name))
    if not place:
        raise OlivineError(f"this worker was started without the place '{name}' that its job reads")
    return Path(place)
