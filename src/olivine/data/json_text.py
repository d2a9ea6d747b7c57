"""JSON as rows hold it: an object that names a key twice is refused, as one of the two values would be lost."""

import json
from typing import Any


class StandsTwiceError(ValueError):
    """A key that an object has twice."""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise StandsTwiceError(f"the key '{twice:.40}' stands twice in one object; remove one of them")
    return found


DECODER = json.JSONDecoder(object_pairs_hook=_object)


def loads(text: str) -> Any:
    """The value of a JSON text. Raises ValueError, whose words say what is wrong; RecursionError for deep nesting."""
    try:
        return DECODER.decode(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON: {error.msg} at column {error.colno}") from None
    except StandsTwiceError:
        raise
    except ValueError as error:  # a number of thousands of digits
        raise ValueError(f"not JSON that can be read: {error}") from None
