"""What the file system knows of a path that came from outside: any text may stand there.

A name that is too long, holds a NUL or may not be looked at does not exist for us; pathlib raises for some of these.
"""

from pathlib import Path


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
