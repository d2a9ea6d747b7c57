"""Small JSON files that others wrote: an object, or one sentence about the file."""

import json
import os
from pathlib import Path
from typing import Any

from olivine.errors import ModelError

MAX_BYTES = 256 * 2**20  # the index of the largest checkpoints has a few megabytes


def read_object(path: Path) -> dict[str, Any]:
    """The object in a JSON file; ModelError, with the path, when it cannot be read or holds something else."""
    try:
        if (n_bytes := path.stat().st_size) > MAX_BYTES:
            raise ModelError(f"{path} is too large for what it should be: {n_bytes} bytes")
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ModelError(f"{path} is not JSON: its text is not UTF-8") from None
    except ValueError as error:
        raise ModelError(f"{path} is not JSON: {error}") from None
    except RecursionError:
        raise ModelError(f"{path} is not JSON that is read: it is nested too deep") from None
    if not isinstance(value, dict):
        raise ModelError(f"{path} must hold an object")
    return value


def is_file(path: Path) -> bool:
    """Whether the path is a file; a link to itself and a name that no file system takes are none."""
    try:
        return os.path.isfile(path)  # noqa: PTH113 - pathlib raises where this says no
    except ValueError:
        return False
