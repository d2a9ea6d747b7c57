"""Regular expressions that a user or a file wrote."""

import re


def compiles(pattern: str) -> bool:
    """Whether it is a regular expression; one whose numbers or depth Python does not take is none."""
    try:
        re.compile(pattern)
    except (re.error, OverflowError, RecursionError):
        return False
    return True
