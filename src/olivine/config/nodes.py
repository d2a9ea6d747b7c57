"""Mappings and lists that remember where in the file each of their parts stands, through every translation."""

from collections.abc import Iterable, Mapping
from pathlib import PurePath
from typing import Any, NamedTuple, Self


class Place(NamedTuple):
    """Where a key, an element or a value was written.

    source: the file as the user named it, or "--set KEY" for a value from the command line. line: of the key or the
    list element, from 1; 0 when there is no file. value_line: of the value, where that starts on a later line.
    """

    source: str
    line: int
    value_line: int

    def __str__(self) -> str:
        return f"{self.source}:{self.line}" if self.line else self.source

    @property
    def of_value(self) -> str:
        """The value's "file:line"."""
        return f"{self.source}:{self.value_line}" if self.line else self.source

    @property
    def is_override(self) -> bool:
        """Whether the value came from the command line; it then wins over what the file says."""
        return self.line == 0


class Object(dict[str, Any]):
    """A mapping whose keys know their place. `place` is that of the mapping itself."""

    __slots__ = ("place", "places")

    def __init__(self, place: Place) -> None:
        super().__init__()
        self.place = place
        self.places: dict[str, Place] = {}

    def put(self, key: str, value: Any, place: Place) -> None:
        """Set a key together with its place."""
        self[key] = value
        self.places[key] = place

    def take(self, key: str) -> tuple[Any, Place]:
        """Remove a key; its value and place."""
        return self.pop(key), self.places.pop(key, self.place)

    def where(self, key: str | None = None) -> str:
        """The "file:line" of a key; of the mapping itself when there is no such key."""
        return str(self.places.get(key, self.place) if key is not None else self.place)

    def mapping(self, key: str) -> Self | None:
        """The mapping under a key; None when there is none or something else stands there."""
        value = self.get(key)
        return value if isinstance(value, type(self)) else None

    def reorder(self, keys: Iterable[str]) -> None:
        """Put the keys into this order; those not named are removed."""
        kept = {key: self[key] for key in keys}
        self.clear()
        self.update(kept)


class Array(list[Any]):
    """A list whose elements know their place."""

    __slots__ = ("place", "places")

    def __init__(self, place: Place) -> None:
        super().__init__()
        self.place = place
        self.places: list[Place] = []

    def add(self, value: Any, place: Place) -> None:
        """Append an element together with its place."""
        self.append(value)
        self.places.append(place)


def copy(value: Any) -> Any:
    """A deep copy that keeps every place."""
    if isinstance(value, Object):
        new = Object(value.place)
        for key, item in value.items():
            new.put(key, copy(item), value.places.get(key, value.place))
        return new
    if isinstance(value, Array):
        array = Array(value.place)
        for item, place in zip(value, value.places, strict=True):
            array.add(copy(item), place)
        return array
    return value


def plain(value: Any) -> Any:
    """The same as ordinary dicts and lists."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [plain(item) for item in value]
    return value


def keyed(value: Any, key: str, source: str) -> Any:
    """Ordinary mappings and lists as ones of which each part stands at its path, as "passes.lora.r".

    key: of the value itself, empty for the whole, whose place is `source`.
    """
    place = Place(key or source, 0, 0)
    if isinstance(value, Mapping):
        new = Object(place)
        for name, item in value.items():
            inner = f"{key}.{name}" if key else str(name)
            new.put(str(name), keyed(item, inner, source), Place(inner, 0, 0))
        return new
    if isinstance(value, list | tuple):
        array = Array(place)
        for index, item in enumerate(value):
            inner = f"{key}[{index}]"
            array.add(keyed(item, inner, source), Place(inner, 0, 0))
        return array
    return str(value) if isinstance(value, PurePath) else value


def typed(value: Any, place: Place) -> Any:
    """Ordinary dicts and lists as mappings and lists whose parts all stand at one place; the inverse of `plain`."""
    if isinstance(value, dict):
        new = Object(place)
        for key, item in value.items():
            new.put(str(key), typed(item, place), place)
        return new
    if isinstance(value, list):
        array = Array(place)
        for item in value:
            array.add(typed(item, place), place)
        return array
    return value
