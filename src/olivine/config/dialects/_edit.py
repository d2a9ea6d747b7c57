"""How dialects change a config: edits that keep the place of every key, and the notes that say what was changed."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from olivine.config.nodes import Array, Object, Place
from olivine.errors import Problem


@dataclass(frozen=True)
class Note:
    """What a translation did to a key.

    where: "file:line". old, new: the key before and after; empty where there is none. message: a whole sentence.
    warning: the old text promised something else than what will be done.
    """

    where: str
    old: str
    new: str
    message: str
    warning: bool = False

    def __str__(self) -> str:
        return f"{self.where}: {'warning: ' if self.warning else ''}{self.message}"


Finding = Note | Problem
Findings = Iterator[Finding]


def invalid(where: str, message: str, fix: str = "") -> Problem:
    """A problem that a translation meets: the config contradicts itself."""
    return Problem("invalid-value", where, message, fix)


def put(section: Object, key: str, value: Any, place: Place, *, old: str = "") -> Findings:
    """Set a key that may be there already.

    Mappings are joined, equal values are one, and a value from the command line wins; anything else is a problem,
    because the config says two things. old: the name under which the value was written.
    """
    there, there_place = section.get(key), section.places.get(key, place)
    if isinstance(value, Object) and isinstance(there, Object):
        for inner, item in value.items():
            yield from put(there, inner, item, value.places[inner])
    elif key not in section or place.is_override > there_place.is_override:
        section.put(key, value, place)
    elif value != there and there_place.is_override == place.is_override:
        first = f"'{key}' is {_shown(there)} at {there_place}"
        yield invalid(str(place), f"'{old or key}' is {_shown(value)} here, but {first}.", "Keep one of them.")


def rename(section: Object, old: str, new: str, message: str = "", *, warning: bool = False) -> Findings:
    """Give a key today's name; it keeps its position. A null is dropped."""
    if section.get(old) is None:  # a null says nothing
        section.pop(old, None)
        return
    order = [new if key == old else key for key in section if key != new or old not in section]
    value, place = section.take(old)
    yield from put(section, new, value, place, old=old)
    section.reorder(dict.fromkeys([*order, *section]))
    yield Note(str(place), old, new, message or f"'{old}' is called '{new}' today.", warning)


def move(source: Object, old: str, target: Object, new: str = "") -> Findings:
    """Move a key into another section without a note, when there is such a key."""
    if old in source:
        value, place = source.take(old)
        yield from put(target, new or old, value, place, old=old)


def lift(section: Object, key: str) -> Findings:
    """Dissolve a mapping: its keys join those of the section that it stands in. Anything but a mapping stays."""
    if isinstance(section.get(key), Object):
        inner, _ = section.take(key)
        for name in list(inner):
            yield from move(inner, name, section)


def drop(section: Object, key: str, message: str, *, warning: bool = False) -> Findings:
    """Remove a key, with a note that says why nothing is lost, or what is."""
    if key in section:
        _, place = section.take(key)
        yield Note(str(place), key, "", message, warning)


def section_of(parent: Object, key: str, place: Place) -> Object:
    """The mapping under a key, made when it is missing."""
    section = parent.mapping(key)
    if section is None:
        section = Object(place)
        parent.put(key, section, place)
    return section


def named(config: Object, key: str) -> Iterator[tuple[str, Object]]:
    """The named mappings of a section such as passes; a list of alternatives gives each under the one name."""
    for name, value in (config.mapping(key) or {}).items():
        for item in value if isinstance(value, Array) else [value]:
            if isinstance(item, Object):
                yield name, item


def models(config: Object) -> Iterator[Object]:
    """The input model, and the parts that it has."""
    model = config.mapping("input_model")
    if model is not None:
        yield model
        parts = model.get("model_components")
        yield from (part for part in parts if isinstance(part, Object)) if isinstance(parts, Array) else ()


def data_configs(config: Object) -> Iterator[Object]:
    """Every data config of a config in which they are a list."""
    value = config.get("data_configs")
    yield from (item for item in value if isinstance(item, Object)) if isinstance(value, Array) else ()


def text_of(section: Object, key: str) -> str:
    """The text under a key in lower case; empty when there is none."""
    value = section.get(key)
    return value.lower() if isinstance(value, str) else ""


def _shown(value: Any) -> str:
    return "a mapping" if isinstance(value, dict) else repr(value)[:40]
