"""What the file system knows of a path that came from outside: any text may stand there.

A name that is too long, holds a NUL or may not be looked at does not exist for us; pathlib raises for some of these.
"""

import os
import shutil
from collections.abc import Mapping
from pathlib import Path


def of_user(path: str | Path) -> Path:
    """The path with a leading ~ as the home of its user; as it stands where no such home is known."""
    try:
        return Path(os.path.expanduser(path))  # noqa: PTH111 - pathlib raises where there is no such user
    except ValueError:  # a NUL, or half of a character, in the user's name
        return Path(path)


def hub_home(environment: Mapping[str, str] = os.environ) -> Path:
    """Where Hugging Face's libraries keep what is theirs, by the variables that they read."""
    default = f"{environment.get('XDG_CACHE_HOME', '~/.cache')}/huggingface"
    return of_user(environment.get("HF_HOME", default))


def hub_cache(environment: Mapping[str, str] = os.environ) -> Path:
    """Where huggingface_hub keeps the repositories that it fetched."""
    older = environment.get("HUGGINGFACE_HUB_CACHE", hub_home(environment) / "hub")
    return of_user(environment.get("HF_HUB_CACHE", older))


def real(path: Path) -> Path:
    """The path without links in it, absolute; as it is where that cannot be found out."""
    try:
        return path.resolve()
    except (OSError, RuntimeError, ValueError):  # a circle of links is a RuntimeError
        return path.absolute()


def could_be(path: str | Path) -> bool:
    """Whether a path can be spelt in bytes: neither a NUL nor half of a character stands in it."""
    try:
        return b"\0" not in os.fsencode(path)
    except ValueError:
        return False


def exists(path: str | Path) -> bool:
    """Whether there is anything at that path."""
    try:
        return Path(path).exists()
    except (OSError, ValueError):
        return False


def is_file(path: str | Path) -> bool:
    """Whether there is a file at that path."""
    try:
        return Path(path).is_file()
    except (OSError, ValueError):
        return False


def is_folder(path: str | Path) -> bool:
    """Whether there is a folder at that path."""
    try:
        return Path(path).is_dir()
    except (OSError, ValueError):
        return False


def free_disk_bytes(folder: Path) -> int:
    """Room on the disk where `folder` is or would be."""
    while not is_folder(folder) and folder.parent != folder:
        folder = folder.parent
    return shutil.disk_usage(folder).free
